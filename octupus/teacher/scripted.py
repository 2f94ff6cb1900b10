"""A teacher that answers by a function of this repository: the demo's. Its answers say that they are scripted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from octupus.config import TeacherSection
from octupus.data.files import code_hash
from octupus.teacher.protocol import Answer, Candidate, Request, hook

Function = Callable[..., str | Mapping[str, Any]]
"""Of the messages, and of the tools where the prompt has any: the answer, or a whole message in OpenAI's form."""


def _function(section: TeacherSection) -> Function:
    found: Function = hook(str(section.model), "teacher.model")
    return found


def identity(section: TeacherSection) -> dict[str, Any]:
    """The function and the code beside it, so that a changed script answers anew."""
    folder = Path(inspect.getfile(_function(section))).parent
    return {"engine": "scripted", "model": section.model, "code": code_hash(folder)}


class ScriptedEngine:
    """Answers everything that was submitted, at once."""

    capacity = 1024

    def __init__(self, answer: Function) -> None:
        self._answer = answer
        self._waiting: list[Request] = []

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def step(self) -> list[Answer]:
        waiting, self._waiting = self._waiting, []
        return [Answer(request.id, (self._candidate(request),) * request.n) for request in waiting]

    def _candidate(self, request: Request) -> Candidate:
        said = self._answer(request.messages, *([request.tools] if request.tools else []))
        if isinstance(said, str):
            return Candidate(said, "stop")
        calls = tuple(dict(call["function"]) for call in said.get("tool_calls", ()))
        return Candidate(said.get("content") or "", "stop", calls=calls)

    def close(self) -> None:
        self._waiting.clear()


def open_engine(section: TeacherSection) -> ScriptedEngine:
    return ScriptedEngine(_function(section))
