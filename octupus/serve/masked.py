"""An engine named ``module:Class`` under the constraint: each of its tokens must be one that the mask allows.

vLLM's scheduler cannot sample a token that its mask forbids. A foreign engine may write what it likes, so its tokens
go through the same automaton on their way out, and the first one that is not allowed ends its request with an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import numpy as np

from octupus.config import ConstraintSection
from octupus.constrain import CallState, Constraint, Vocabulary
from octupus.errors import ConstraintError, WireError
from octupus.serve.engines import Engine, RequestFailed, Sampling, Step, Supervised
from octupus.wire import CallGrammar, ToolCall, Wire, collect

DRAINED = 20_000
"""Tokens of a refused answer that are kept at most, to say what is wrong with the call as a whole."""


class MaskedEngine:
    """See :class:`octupus.serve.engines.Engine`. Where a request has no grammar, nothing is checked."""

    def __init__(self, inner: Engine, wire: Wire, options: ConstraintSection) -> None:
        self._inner, self._wire = inner, wire
        self._vocabulary = Vocabulary.from_tokenizer(wire.tokenizer)
        self._constraint = Constraint(self._vocabulary, options)

    async def generate(
        self, request_id: str, prompt_ids: list[int], grammar: CallGrammar | None, sampling: Sampling
    ) -> AsyncGenerator[tuple[list[int], str | None] | Step, None]:
        state = None if grammar is None else self._constraint.start(grammar)
        before: list[int] = []
        async with aclosing(self._inner.generate(request_id, prompt_ids, grammar, sampling)) as steps:
            async for step in steps:
                for place, token in enumerate(step[0]):
                    why = None if state is None else self._refusal(state, token)
                    if why is not None and grammar is not None:
                        whole = [*before, *step[0]]
                        async for later in steps:  # what is wrong shows in the call as a whole
                            whole += later[0] if len(whole) < DRAINED else []
                        raise RequestFailed(self._explained(grammar, whole, len(before) + place, why))
                before += step[0]
                yield step

    def _refusal(self, state: CallState, token: int) -> str | None:
        """Why a token is not allowed; None (and it is accepted) where it is."""
        try:
            row = np.empty(self._vocabulary.words, np.int32)
            state.fill(row)
            allowed = 0 <= token < self._vocabulary.size and bool(row[token >> 5] >> (token & 31) & 1)
            if state.advance(token) != allowed:
                return "mask and automaton disagree, which is a defect of the constraint"
        except ConstraintError as error:
            return str(error)
        return None if allowed else "the constraint does not allow it here"

    def _explained(self, grammar: CallGrammar, ids: list[int], place: int, why: str) -> str:
        """Token, function, and the pointer and keyword that the whole call breaks, as far as there is a whole call."""
        token, known = ids[place], self._wire.tokenizer
        special = next((text for text, id in known.added_tokens.items() if id == token), None)
        shown = special or repr((known.token_bytes(token) or b"").decode(errors="replace"))
        said = f"token {token} ({shown}) at place {place} of the answer: {why}"
        call = self._call(ids, ids[: place + 1].count(self._wire.frame.call_open) - 1)
        if call is None:
            return f"{said}; it stands in no call that can be read"
        function = next((f for f in grammar.functions if f.name == call.name), None)
        if function is None:
            offered = ", ".join(f.name for f in grammar.functions)[:200] or "none"
            return f"{said}; function {call.name!r} cannot be called (keyword 'name'; callable: {offered})"
        if not isinstance(call.arguments, dict):
            return f"{said}; the arguments of {call.name!r} are no JSON object (pointer /, keyword 'type')"
        plan = self._constraint.plan(function.parameters, arguments=True)
        problems = plan.problems(call.arguments)[:3]
        return f"{said}; arguments of {call.name!r}: {'; '.join(problems) or 'legal as a value, not as a text'}"

    def _call(self, ids: list[int], index: int) -> ToolCall | None:
        """Call number ``index`` of an answer, or None where the answer cannot be read so far."""
        parser = self._wire.parser()
        try:
            calls = collect([*parser.feed(ids), *parser.finish()]).tool_calls
        except WireError:
            return None
        return calls[index] if 0 <= index < len(calls) else None

    async def abort(self, request_id: str) -> None:
        await self._inner.abort(request_id)

    def died(self) -> str | None:
        return self._inner.died() if isinstance(self._inner, Supervised) else None

    def figures(self) -> Mapping[str, float]:
        return self._constraint.counts()

    async def close(self) -> None:
        await self._inner.close()
