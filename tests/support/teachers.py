"""Scripted teachers for tests: what an engine may do wrong, on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


answers_left = 0


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
