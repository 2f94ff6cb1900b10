"""What the server asks of an engine: token ids in, token ids out, under a grammar. The recipe names the engine."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast, runtime_checkable

from octupus.config import ServeSection
from octupus.errors import ConfigError, OctupusError
from octupus.wire import CallGrammar, Wire

SWITCH_S = 0.0005
"""After how long a thread that compiles a schema lets go of the interpreter when the loop that serves everybody wants
it: Python's own 5 ms, several times a step of the engine, are felt by every stream."""


class RequestFailed(OctupusError):
    """One request that the engine could not carry out; every other request goes on."""


class EngineDied(OctupusError):
    """The engine is gone; the server ends with this message."""


class TokenLogprobs(NamedTuple):
    """The sampled token's natural log probability and the most likely alternatives, id to log probability."""

    id: int
    logprob: float
    top: Mapping[int, float]


class Step(NamedTuple):
    """New token ids, and why the generation ended: ``stop`` (end of turn), ``length``, or None while it goes on."""

    ids: list[int]
    finish: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens; ``max_tokens`` is always set, by the request or by the server's default."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    """How many alternatives to report a token; None: no log probabilities."""


class Engine(Protocol):
    """Made in a thread of its own (loading may block), used on the event loop."""

    def generate(
        self, request_id: str, prompt_ids: list[int], grammar: CallGrammar | None, sampling: Sampling
    ) -> AsyncGenerator[tuple[list[int], str | None] | Step, None]:
        """Ids as they are produced; the last item names the reason. Closing the generator ends the work.

        Raises:
            RequestFailed: this request cannot be carried out.
            EngineDied: no request can be.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop working on a request; unknown ids are nothing."""
        ...

    async def close(self) -> None:
        """Free everything, other processes included."""
        ...


@runtime_checkable
class Supervised(Protocol):
    """An engine with processes of its own, which may die while nothing is asked of them."""

    def died(self) -> str | None:
        """Why no request can be served any more, or None."""
        ...


@runtime_checkable
class Counting(Protocol):
    """An engine whose constraint counts what it does; see :data:`octupus.constrain.figures.NAMES`."""

    def figures(self) -> Mapping[str, float]: ...


EngineFactory = Callable[[], Engine]


def factory(name: str, model_dir: Path, wire: Wire, section: ServeSection) -> EngineFactory:
    """The engine that ``serve.engine`` names: ``vllm``, ``scripted`` or ``module:Class``.

    Raises:
        ConfigError: no such engine, or vLLM is not installed.
    """
    shipped = {"vllm": "octupus.serve.engine:VllmEngine", "scripted": "octupus.serve.scripted:ScriptedEngine"}
    module_name, colon, class_name = shipped.get(name, name).partition(":")
    if not colon:
        raise ConfigError(f"serve.engine {name!r}: choose vllm, scripted or module:Class")
    try:
        made = vars(importlib.import_module(module_name))[class_name]
    except ModuleNotFoundError as error:
        hint = "; install it with make setup" if name in shipped else ""
        raise ConfigError(f"serve.engine {name!r}: cannot import {error.name}{hint}") from error
    except KeyError as error:
        raise ConfigError(f"serve.engine {name!r}: module {module_name} has no {class_name}") from error
    if name in shipped:
        return lambda: cast(Engine, made(model_dir, wire, section))
    from octupus.serve.masked import MaskedEngine  # knows this module

    return lambda: MaskedEngine(cast(Engine, made(model_dir, wire, section)), wire, section.constraint)
