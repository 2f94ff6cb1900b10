"""What the teacher stage needs of whatever answers: a queue of requests in, answers out as they get done."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from octupus.config import Sampling, TeacherSection
from octupus.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """One assistant turn to write, ``n`` times: OpenAI messages that end with a user's, and the tools on offer."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    seed: int
    sampling: Sampling
    n: int = 1
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Candidate:
    """One way to answer. ``calls`` are in OpenAI's form: ``{"name", "arguments"}``, arguments as text."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int = 0
    calls: tuple[Mapping[str, str], ...] = ()

    def message(self) -> dict[str, Any]:
        """The candidate as an assistant's message."""
        made: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.calls:
            made["tool_calls"] = [
                {"id": f"call_{i}", "type": "function", "function": dict(call)} for i, call in enumerate(self.calls)
            ]
        return made


@dataclass(frozen=True)
class Answer:
    """What came back for the request of that id. ``refused`` says why an engine would not take the prompt at all."""

    id: str
    candidates: tuple[Candidate, ...]
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


def takes_tools(section: TeacherSection) -> bool:
    """Whether prompts with tools can be answered: vLLM alone does not make calls legal, the server does."""
    return section.engine != "vllm"


def engine_module(section: TeacherSection) -> EngineModule:
    """The module behind ``teacher.engine``; loaded only now, so that vLLM is imported where it is wanted."""
    if section.model is None:
        raise ConfigError(f"teacher.model is not set: the {section.engine} teacher needs one")
    home = {"vllm": "engine", "scripted": "scripted", "openai": "endpoint", "server": "endpoint"}[section.engine]
    return cast(EngineModule, importlib.import_module(f"octupus.teacher.{home}"))


def hook(name: str, what: str) -> Any:
    """The function ``module:function`` of a recipe.

    Raises:
        ConfigError: there is none; ``what`` names the recipe's key.
    """
    module, _, attribute = name.partition(":")
    try:
        found = vars(importlib.import_module(module)).get(attribute)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what} {name!r}: no module {error.name}; write it as module:function") from error
    except ValueError as error:  # an empty module name
        raise ConfigError(f"{what} {name!r}: write it as module:function") from error
    if not callable(found):
        raise ConfigError(f"{what} {name!r}: {module} has no function {attribute!r}")
    return found
