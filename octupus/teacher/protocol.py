"""What the teacher stage needs of whatever answers: a queue of requests in, answers out as they get done."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from octupus.config import TeacherSection
from octupus.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """One assistant turn to write: OpenAI messages that end with a user's."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    seed: int


@dataclass(frozen=True)
class Answer:
    """What came back for the request of that id. ``refused`` says why an engine would not take the prompt at all."""

    id: str
    text: str
    finish_reason: Literal["stop", "length", "refused"]
    tokens: int = 0
    refused: str = ""


class Engine(Protocol):
    """Requests go in with :meth:`submit`, at most ``capacity`` at a time; :meth:`step` hands back what is done."""

    capacity: int

    def submit(self, request: Request) -> None: ...

    def step(self) -> list[Answer]:
        """Work until something is done, in no particular order; JobError where the engine is lost."""
        ...

    def close(self) -> None: ...


class EngineModule(Protocol):
    """What ``scripted.py``, ``engine.py`` (vLLM) and ``endpoint.py`` offer.

    ``identity`` is everything besides sampling that decides an answer, and starts nothing; ``open_engine`` starts the
    engine. Both raise ConfigError where the recipe names something that cannot be used.
    """

    def identity(self, section: TeacherSection) -> dict[str, Any]: ...

    def open_engine(self, section: TeacherSection) -> Engine: ...


def engine_module(section: TeacherSection) -> EngineModule:
    """The module behind ``teacher.engine``; loaded only now, so that vLLM is imported where it is wanted."""
    if section.model is None:
        raise ConfigError(f"teacher.model is not set: the {section.engine} teacher needs one")
    home = {"vllm": "engine", "scripted": "scripted", "openai": "endpoint"}[section.engine]
    return cast(EngineModule, importlib.import_module(f"octupus.teacher.{home}"))
