"""Scripted teachers for tests: what an engine may do wrong, on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octupus.config import Recipe, ServeSection
from octupus.data.appended import appended
from octupus.runs import Run
from octupus.serve.scripted import ScriptedEngine
from octupus.teacher.protocol import Candidate
from octupus.teacher.run import merge, work
from octupus.wire import Wire


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


answers_left = 0


def teach(suite: Recipe, run: Run) -> dict[str, Any]:
    """The whole stage with one worker."""
    work(suite, run)
    return merge(suite, run)


def answers(run: Run) -> dict[str, dict[str, Any]]:
    """The finished answers by id, none of which may be there twice."""
    rows = list(appended(run.path / "teacher/answers"))
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "an id was answered twice"
    return found


def echo(messages: Sequence[Mapping[str, Any]]) -> str:
    """Says how many turns it has seen and what was last asked."""
    return f"turn {len(messages)}: {messages[-1]['content']}"


def mortal(messages: Sequence[Mapping[str, Any]]) -> str:
    """As :func:`echo`, until ``answers_left`` is used up."""
    global answers_left
    if not answers_left:
        raise Killed
    answers_left -= 1
    return echo(messages)


def naughty(messages: Sequence[Mapping[str, Any]]) -> str:
    """Empty, leaking or parroting answers, as the question asks for."""
    asked = str(messages[-1]["content"])
    return {"be empty": "  ", "leak": "fine<|im_end|>", "parrot": "parrot"}.get(asked, "well, yes")


def longest(messages: Sequence[Mapping[str, Any]], candidate: Candidate) -> float:
    """A scorer: the longer the better."""
    return len(candidate.text)


with_tools_says: Mapping[str, Any] = {}


def with_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> str | Mapping[str, Any]:
    """As :func:`echo`; where there are tools, ``with_tools_says``."""
    return with_tools_says if tools else echo(messages)


class ScriptedCaller(ScriptedEngine):
    """An engine for our server without a model: it calls where it may, and guesses what the constraint allows."""

    def __init__(self, model_dir: Path, wire: Wire, section: ServeSection) -> None:
        super().__init__(model_dir, wire, section, lambda prompt: [wire.frame.call_open])
