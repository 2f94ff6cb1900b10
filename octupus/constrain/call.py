"""The outer automaton: content, call, name, arguments, next call or end. It owns the special tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from octupus.constrain.figures import Figures
from octupus.constrain.positions import FreeText, Headed, Position, likely_rest
from octupus.constrain.vocabulary import Mask, Vocabulary
from octupus.errors import ConstraintError
from octupus.wire.grammar import CallGrammar

MAX_FORCED = 256
Step = Literal["content", "call", "arguments", "after", "end"]
"""What a special token begins."""


class Texts(Protocol):
    """Where the outer automaton gets the inner ones."""

    def literal(self, texts: tuple[str, ...]) -> Position:
        """One of these texts."""
        ...

    def json(self, schema: object, head: str, tail: str, *, arguments: bool) -> Position:
        """A value that obeys ``schema``, between two fixed texts."""
        ...


@dataclass(frozen=True)
class _Turn:
    """Where an answer stands."""

    phase: str
    """begin, content, name, arguments, after, end."""
    text: Position | None = None
    calls: int = 0
    name: bytes = b""
    """Of phase ``name``: what there is of it."""


class CallState:
    """What one request may generate next.

    Methods work on the tokens accepted so far; ``advance`` and ``rollback`` change them. For one thread at a time.
    """

    def __init__(
        self, vocabulary: Vocabulary, grammar: CallGrammar, texts: Texts, figures: Figures | None = None
    ) -> None:
        self._vocabulary, self._grammar, self._texts = vocabulary, grammar, texts
        self._figures = figures or Figures()
        self._frame = frame = grammar.frame
        if frame.call_close is None and frame.between_calls:
            raise ConstraintError("a frame whose calls are not closed cannot hold text between them")
        self._heads = {(frame.before_name + f.name).encode(): f for f in grammar.functions}
        begin = _Turn("begin")
        if frame.content is None and grammar.content != "forbidden":
            begin = _Turn("content", self._content())
        self._history = [begin]
        self._specials: tuple[_Turn, dict[int, Step]] | None = None

    def prepare(self) -> None:
        """Compile everything that an answer may come to.

        Raises:
            ConstraintError: a schema that cannot be enforced.
        """
        if self._heads:
            self._call(self._history[0])
        separator = self._frame.separator.encode() if isinstance(self._frame.separator, str) else None
        for head in self._heads:
            self._body(head)(b"" if separator is None else likely_rest(self._vocabulary, head + separator))
        self._content()

    @property
    def can_end(self) -> bool:
        """Whether the end of turn may come next."""
        return self._frame.end in self._next(self._history[-1])

    @property
    def terminated(self) -> bool:
        """Whether the turn has ended; nothing may follow."""
        return self._history[-1].phase == "end"

    def fill(self, row: Mask) -> None:
        """Write the mask of allowed tokens into ``row`` (int32, at least ``Vocabulary.words`` long; the rest is 0).

        Raises:
            ConstraintError: nothing may follow (never an end in its place), or working the mask out exceeds its budget.
        """
        began = time.perf_counter()
        turn, words = self._history[-1], self._vocabulary.words
        if turn.text is None:
            row[:] = 0
        else:
            turn.text.fill(row)
        specials = self._next(turn)
        for token in specials:
            row[token >> 5] |= np.int32(np.uint32(1 << (token & 31)).view(np.int32))
        if not specials and not row[:words].any():
            raise ConstraintError(f"nothing may follow in phase {turn.phase!r}; this is a defect of the constraint")
        self._figures.add("masks")
        self._figures.add("mask_seconds", time.perf_counter() - began)

    def advance(self, token: int) -> bool:
        """Accept one token; False (and nothing changed) where it is not allowed."""
        after = self._after(self._history[-1], token)
        if after is None:
            return False
        self._history.append(after)
        return True

    def rollback(self, count: int) -> None:
        """Forget the last ``count`` tokens."""
        if not 0 <= count < len(self._history):
            raise ConstraintError(f"cannot roll {count} tokens back: {len(self._history) - 1} were accepted")
        if count:
            del self._history[-count:]

    def forced(self) -> list[int]:
        """Tokens that the grammar leaves no choice about, as the tokenizer writes their text; accepts none of them."""
        found: list[int] = []
        turn: _Turn | None = self._history[-1]
        while turn is not None and turn.phase != "end" and len(found) < MAX_FORCED:
            specials = self._next(turn)
            text, ends = (b"", True) if turn.text is None else turn.text.forced()
            if specials or not text:
                tokens = list(specials) if len(specials) == 1 and ends and not text else []
            else:
                tokens = self._vocabulary.spelling(text, ends)
            for token in tokens:
                turn = self._after(turn, token) if turn is not None else None
                found += [token] if turn is not None else []
            if not tokens:
                break
        return found

    def _after(self, turn: _Turn, token: int) -> _Turn | None:
        step = self._next(turn).get(token)
        if step is not None:
            return self._take(turn, step)
        text = turn.text.advance(token) if turn.text is not None else None
        if text is None:
            return None
        name = turn.name + (self._vocabulary.tokens[token] or b"") if turn.phase == "name" else b""
        return _Turn(turn.phase, text, turn.calls, name)

    def _next(self, turn: _Turn) -> dict[int, Step]:
        """The special tokens that may follow, and what each begins."""
        if self._specials is None or self._specials[0] is not turn:
            self._specials = (turn, self._specials_of(turn))
        return self._specials[1]

    def _specials_of(self, turn: _Turn) -> dict[int, Step]:
        frame, grammar, text = self._frame, self._grammar, turn.text
        more = self._more(turn)
        found: dict[int, Step] = {}
        if turn.phase == "begin":
            if frame.content is not None and grammar.content != "forbidden":
                found[frame.content] = "content"
            if more and grammar.content != "required":
                found[frame.call_open] = "call"
        elif turn.phase == "content":
            assert text is not None
            untouched = turn is self._history[0]
            if text.ended and grammar.min_calls == 0:
                found[frame.end] = "end"
            free = isinstance(text, FreeText) and text.ends_with(frame.before_first_call.encode())
            if more and (free or (untouched and grammar.content != "required")):
                found[frame.call_open] = "call"
        elif turn.phase == "name":
            if turn.name in self._heads and isinstance(frame.separator, int):
                found[frame.separator] = "arguments"
        elif turn.phase == "arguments" and text is not None and text.ended and frame.call_close is not None:
            found[frame.call_close] = "after"
        elif turn.phase == "after" or (turn.phase == "arguments" and text is not None and text.ended):
            at_start = turn.phase == "arguments" or text is None or turn.name == b"start"
            if at_start and turn.calls >= grammar.min_calls:
                found[frame.end] = "end"
            if more and (text is None or text.ended):
                found[frame.call_open] = "call"
        return found

    def _more(self, turn: _Turn) -> bool:
        """Whether one more call may stand in the answer."""
        most = self._grammar.max_calls
        return bool(self._grammar.functions) and (most is None or turn.calls < most)

    def _take(self, turn: _Turn, step: Step) -> _Turn:
        """Where a special token leads."""
        if step == "content":
            return _Turn("content", self._content())
        if step == "call":
            return self._call(turn)
        if step == "arguments":
            return self._arguments(turn)
        return self._closed(turn) if step == "after" else _Turn("end")

    def _content(self) -> Position:
        schema = self._grammar.content_schema
        return FreeText(self._vocabulary) if schema is None else self._texts.json(schema, "", "", arguments=False)

    def _call(self, turn: _Turn) -> _Turn:
        """A call opens: its name, or all of it where names are delimited by text."""
        frame, calls = self._frame, turn.calls + 1
        if isinstance(frame.separator, int):
            return _Turn("name", self._texts.literal(tuple(head.decode() for head in self._heads)), calls)
        bodies = {head + frame.separator.encode(): self._body(head) for head in self._heads}
        heads = self._texts.literal(tuple(head.decode() for head in bodies))
        return _Turn("arguments", Headed(self._vocabulary, heads, bodies).resolved(), calls)

    def _arguments(self, turn: _Turn) -> _Turn:
        return _Turn("arguments", self._body(turn.name)(b""), turn.calls)

    def _body(self, head: bytes) -> Callable[[bytes], Position]:
        """Makes a function's arguments, behind what is left of a text that stands before them."""
        texts, schema, after = self._texts, self._heads[head].parameters, self._frame.after_arguments
        return lambda rest: texts.json(schema, rest.decode(), after, arguments=True)  # not self: no circles

    def _closed(self, turn: _Turn) -> _Turn:
        between = self._frame.between_calls if self._more(turn) else ""
        return _Turn("after", self._texts.literal((between,)) if between else None, turn.calls, b"start")
