"""A teacher that answers by a function of this repository: the demo's. Its answers say that they are scripted."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from octupus.config import TeacherSection
from octupus.errors import ConfigError
from octupus.teacher.protocol import Answer, Request

Function = Callable[[Sequence[Mapping[str, Any]]], str]


def function(name: str) -> Function:
    """The function ``module:name``.

    Raises:
        ConfigError: there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        found = vars(importlib.import_module(module)).get(attribute)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"teacher.model {name!r}: no module {error.name}; name a function as module:function"
        ) from error
    if not callable(found):
        raise ConfigError(f"teacher.model {name!r}: {module} has no function {attribute!r}")
    return found  # type: ignore[no-any-return]


def identity(section: TeacherSection) -> dict[str, Any]:
    """The function and the code beside it, so that a changed script answers anew."""
    name = section.model or ""
    folder = Path(inspect.getfile(inspect.unwrap(function(name)))).parent
    code = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".py", ".yaml")):
        code.update(path.name.encode() + b"\0" + path.read_bytes())
    return {"engine": "scripted", "model": name, "code": code.hexdigest()}


class ScriptedEngine:
    """Answers everything that was submitted, at once."""

    capacity = 1024

    def __init__(self, answer: Function) -> None:
        self._answer = answer
        self._waiting: list[Request] = []

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def step(self) -> list[Answer]:
        done = [Answer(r.id, self._answer(r.messages), "stop") for r in self._waiting]
        self._waiting.clear()
        return done

    def close(self) -> None:
        self._waiting.clear()


def open_engine(section: TeacherSection) -> ScriptedEngine:
    return ScriptedEngine(function(section.model or ""))
