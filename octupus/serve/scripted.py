"""An engine without a model: it writes what a script wants; where the REAL constraint forbids that, a legal guess.

For tests and front-end work; everything but the model is what serves in earnest.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from octupus.config import ServeSection
from octupus.constrain import CallState, Constraint, Vocabulary
from octupus.errors import ConfigError, ConstraintError
from octupus.serve.engines import RequestFailed, Sampling, Step, TokenLogprobs
from octupus.wire import CallGrammar, Wire

Script = Callable[[list[int]], Sequence[int]]
"""From a prompt's ids to the ids that the model would like to write."""


class ScriptedEngine:
    """See :class:`octupus.serve.engines.Engine`.

    ``serve.engine_args`` may hold ``delay_s`` (seconds a step), ``chunk`` (ids a step) and ``patience`` (the share of
    steps at which a guess does not try to come to an end).
    """

    def __init__(self, model_dir: Path | None, wire: Wire, section: ServeSection, script: Script | None = None) -> None:
        unknown = set(section.engine_args) - {"delay_s", "chunk", "patience"}
        if unknown:
            raise ConfigError(
                f"serve.engine_args: the scripted engine knows delay_s, chunk and patience, not {unknown}"
            )
        self._delay = float(section.engine_args.get("delay_s", 0))
        self._chunk = int(section.engine_args.get("chunk", 1))
        self._patience = float(section.engine_args.get("patience", 0.5))
        self._script = script
        self._end = wire.end_id
        self._vocabulary = Vocabulary.from_tokenizer(wire.tokenizer)
        self._constraint = Constraint(self._vocabulary, section.constraint)
        starts = [
            (wire.tokenizer.token_bytes(id) or b"")[:1] in (b'"', b"}", b"]") for id in range(self._vocabulary.size)
        ]
        self._closing = np.array(starts)
        self.running: set[str] = set()
        self.aborted: list[str] = []

    async def generate(
        self, request_id: str, prompt_ids: list[int], grammar: CallGrammar | None, sampling: Sampling
    ) -> AsyncGenerator[Step, None]:
        if grammar is None:
            raise RequestFailed("the scripted engine writes under a grammar only")
        self.running.add(request_id)
        try:
            if grammar.functions or grammar.content_schema is not None:
                # As the real engine, which compiles beside its loop: a hostile schema is nobody else's business.
                await asyncio.to_thread(self._constraint.start(grammar).prepare)
            state = self._constraint.start(grammar)
            wanted = list(self._script(prompt_ids)) if self._script else []
            guess = random.Random(sampling.seed)
            ids: list[int] = []
            for count in range(1, sampling.max_tokens + 1):
                id = self._next(state, wanted[count - 1] if count <= len(wanted) else None, guess)
                ids.append(id)
                finish = "stop" if id == self._end else "length" if count == sampling.max_tokens else None
                if finish or len(ids) >= self._chunk:
                    await asyncio.sleep(self._delay)
                    logprobs = (
                        () if sampling.logprobs is None else tuple(TokenLogprobs(i, -0.5, {i: -0.5}) for i in ids)
                    )
                    yield Step(ids, finish, logprobs)
                    ids = []
                if finish:
                    return
        except ConstraintError as error:
            raise RequestFailed(f"the constraint could not go on: {error}") from error
        finally:
            self.running.discard(request_id)

    def _next(self, state: CallState, wanted: int | None, guess: random.Random) -> int:
        row = np.zeros(self._vocabulary.words, np.int32)
        state.fill(row)
        bits = np.unpackbits(row.view(np.uint8), bitorder="little")[: self._vocabulary.size].astype(bool)
        if wanted is None or not bits[wanted]:
            ending = guess.random() >= self._patience
            if ending and bits[self._end]:
                wanted = self._end
            else:
                closing = bits & self._closing
                legal = np.flatnonzero(closing if ending and closing.any() else bits)
                going_on = legal[legal != self._end]
                wanted = int(going_on[guess.randrange(len(going_on))]) if len(going_on) else self._end
        if not state.advance(wanted):
            raise ConstraintError(f"token {wanted} was in the mask, but could not be taken")
        return wanted

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def figures(self) -> Mapping[str, float]:
        return self._constraint.counts()

    async def close(self) -> None:
        self.running.clear()
