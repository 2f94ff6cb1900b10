"""A teacher that answers by a function of this repository: the demo's. Its answers say that they are scripted."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from octupus.config import TeacherSection
from octupus.data.files import code_hash
from octupus.errors import ConfigError
from octupus.teacher.protocol import Answer, Request

Function = Callable[[Sequence[Mapping[str, Any]]], str]


def function(name: str) -> Function:
    """The function ``module:name``; ConfigError where there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = vars(importlib.import_module(module)).get(attribute)
    except ModuleNotFoundError as error:
        raise ConfigError(f"teacher.model {name!r}: no module {error.name}; write it as module:function") from error
    if not callable(found):
        raise ConfigError(f"teacher.model {name!r}: {module} has no function {attribute!r}")
    return found  # type: ignore[no-any-return]


def identity(section: TeacherSection) -> dict[str, Any]:
    """The function and the code beside it, so that a changed script answers anew."""
    folder = Path(inspect.getfile(function(str(section.model)))).parent
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
        return [Answer(request.id, self._answer(request.messages), "stop") for request in waiting]

    def close(self) -> None:
        self._waiting.clear()


def open_engine(section: TeacherSection) -> ScriptedEngine:
    return ScriptedEngine(function(str(section.model)))
