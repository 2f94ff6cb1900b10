"""A grammar's positions as a lazily built automaton over tokens, a packed mask each, shared by all requests."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from octupus.constrain.grammar import Grammar
from octupus.constrain.lexing import TextLex
from octupus.constrain.stack import Branch, with_prefix
from octupus.constrain.vocabulary import Mask, Tail, Trie, Vocabulary
from octupus.errors import ConstraintError

MAX_MASK_STEPS = 400_000
"""Trie nodes looked at for one mask; counted, so that the bound does not depend on the machine."""
MAX_FORCED = 512
"""Bytes looked ahead for a forced text."""
MAX_TOKENS_CACHED = 2048
"""Token moves remembered in one state."""
TABLE_FROM = 64
"""Where so many tokens go on inside a string, they are looked up in a table instead of one by one."""

STATE_BYTES, POSITION_BYTES = 1_000, 1_200
"""About what one takes, caches included."""


class State:
    """Where a text stands: all positions that its bytes can lead to. Shared by all requests; only its caches grow."""

    __slots__ = ("automaton", "branches", "ended", "known_mask", "moves", "tokens")

    def __init__(self, automaton: Automaton, branches: tuple[Branch, ...]) -> None:
        self.automaton, self.branches = automaton, branches
        self.ended = any(branch.top is None for branch in branches)
        """Whether the text may end here."""
        self.moves: dict[int, State | None] = {}
        self.tokens: dict[int, State | None] = {}
        self.known_mask: Mask | None = None

    def mask(self) -> Mask:
        """The text tokens that may follow.

        Raises:
            ConstraintError: working it out takes more than ``MAX_MASK_STEPS``.
        """
        mask = self.known_mask
        return self.automaton.mask(self) if mask is None else mask

    def advance(self, token: int) -> State | None:
        """After one more token; None where it may not follow."""
        found = self.tokens.get(token, _UNKNOWN)
        return self.automaton.advance(self, token) if found is _UNKNOWN else found

    def forced(self) -> tuple[bytes, bool]:
        """The text that must come next, and whether nothing may follow it."""
        return self.automaton.forced(self)


class Masks:
    """Masks by content: equal masks of different states, schemas and requests are one array."""

    def __init__(self) -> None:
        self.made, self.seconds = 0, 0.0
        """Masks worked out so far, and how long that took."""
        self._known: weakref.WeakValueDictionary[int, Mask] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def intern(self, mask: Mask) -> tuple[Mask, bool]:
        """The mask to use in its place, and whether it is new."""
        mask.flags.writeable = False
        key = hash(mask.tobytes())
        with self._lock:
            known = self._known.get(key)
            if known is None:
                self._known[key] = mask
            return (known, False) if known is not None and np.array_equal(known, mask) else (mask, True)


class Automaton:
    """States and masks of one grammar. Thread-safe: what exists is read without a lock, the rest is made under one."""

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar, masks: Masks) -> None:
        self.vocabulary = vocabulary
        self._grammar, self._masks = grammar, masks
        self._lock = threading.RLock()
        self._states: dict[tuple[Branch, ...], State] = {}
        self._alike: dict[object, Mask] = {}
        self._mask_bytes = 0
        self.start = self._state(grammar.first)

    @property
    def size(self) -> int:
        """About how many bytes this takes."""
        return len(self._states) * STATE_BYTES + self._grammar.positions * POSITION_BYTES + self._mask_bytes

    def mask(self, state: State) -> Mask:
        began = time.perf_counter()
        with self._lock:
            masks = [self._branch_mask(branch) for branch in state.branches if branch.top is not None]
            state.known_mask = masks[0] if len(masks) == 1 else self._kept(masks)
        self._masks.made += 1
        self._masks.seconds += time.perf_counter() - began
        return state.known_mask

    def advance(self, state: State, token: int) -> State | None:
        data = self.vocabulary.json[token] if 0 <= token < self.vocabulary.size else None
        after: State | None = state if data is not None else None
        for byte in data or b"":
            if after is None:
                break
            follow = after.moves.get(byte, _UNKNOWN)
            after = self.step(after, byte) if follow is _UNKNOWN else follow
        if len(state.tokens) < MAX_TOKENS_CACHED:
            state.tokens[token] = after
        return after

    def step(self, state: State, byte: int) -> State | None:
        """The state after one more byte."""
        with self._lock:
            found: dict[Branch, None] = {}
            for branch in state.branches:
                found |= dict.fromkeys(self._grammar.moves(branch, byte))
            after = self._state(tuple(sorted(found, key=lambda branch: branch.number))) if found else None
            state.moves[byte] = after
        return after

    def forced(self, state: State) -> tuple[bytes, bool]:
        text, at = bytearray(), state
        while len(text) < MAX_FORCED:
            with self._lock:
                options = frozenset[int]().union(*(self._grammar.allowed(branch) for branch in at.branches))
            if at.ended or len(options) != 1:
                return bytes(text), not options
            (byte,) = options
            after = self.step(at, byte)
            assert after is not None
            text.append(byte)
            at = after
        return bytes(text), False

    def _state(self, branches: tuple[Branch, ...]) -> State:
        state = self._states.get(branches)
        if state is None:
            state = self._states[branches] = State(self, branches)
        return state

    def _kept(self, masks: Sequence[Mask]) -> Mask:
        union = np.bitwise_or.reduce(masks) if masks else np.zeros(self.vocabulary.words, np.int32)
        mask, new = self._masks.intern(union)
        self._mask_bytes += mask.nbytes if new else 0
        return mask

    def _branch_mask(self, branch: Branch) -> Mask:
        if branch.mask is None:
            key = self._grammar.alike(branch)
            mask = self._alike.get(key)
            if mask is None:
                found = _Found(self)
                found.walk(branch, self.vocabulary.trie)
                mask = self._alike[key] = self._kept([*found.masks, self.vocabulary.pack(found.ids)])
            branch.mask = mask
        result: Mask = branch.mask
        return result


_UNKNOWN: Any = object()


class _Found:
    """The tokens that one branch allows, collected in a walk over the trie."""

    def __init__(self, automaton: Automaton) -> None:
        self._grammar, self._vocabulary = automaton._grammar, automaton.vocabulary
        self.ids: list[int] = []
        self.masks: list[Mask] = []
        self._steps = 0

    def walk(self, branch: Branch, node: Trie) -> None:
        """Tokens below ``node`` whose rest may follow ``branch``."""
        self._steps += 1
        if self._steps > MAX_MASK_STEPS:
            raise ConstraintError("what may follow here is too complex to work out")
        lex, top = branch.lex, branch.top
        if top is None:
            return
        if isinstance(lex, TextLex) and not lex.utf8 and not lex.escape and len(node) >= TABLE_FROM:
            return self._string(branch, lex, node)
        if top.kind in ("key", "literal") and not self._grammar.blank_may_follow(branch):
            return self._choices(branch, node)
        allowed, children = self._grammar.allowed(branch), node.children
        few = allowed if len(allowed) < len(children) else children
        for byte in few:
            child = children.get(byte)
            if child is not None and byte in allowed:
                follow = self._grammar.moves(branch, byte)
                if follow:
                    self.ids += child.ids
                    for after in follow:
                        self.walk(after, child)

    def _choices(self, branch: Branch, node: Trie) -> None:
        """Below a literal or a declared key: along each text at once, without a position for every prefix of it."""
        top, done = branch.top, branch.lex if isinstance(branch.lex, str) else ""
        assert top is not None
        for text in with_prefix(top.texts, done):
            at: Trie | None = node
            rest = text[len(done) :] + ('"' if top.kind == "key" else "")
            for char in rest:
                self._steps += 1
                at = at.children.get(ord(char)) if at is not None else None
                if at is None:
                    break
                self.ids += at.ids
            if at is not None:
                self.walk(self._grammar.chosen(branch, text), at)

    def _string(self, branch: Branch, lex: TextLex, node: Trie) -> None:
        """Inside a string: its tokens by table; only what they hold behind the closing quote is walked."""
        top = branch.top
        assert top is not None
        table = self._vocabulary.string(node)
        room = None if top.state.max_length is None else top.state.max_length - lex.length
        self.masks.append(table.inside(room))
        least = max(0, (top.state.min_length or 0) - lex.length)
        banned: set[int] = set()
        for text in with_prefix(top.texts, lex.text) if lex.text is not None else ():
            banned |= _closing(node, text[len(lex.text or "") :])
        fits = range(least, table.longest + 1 if room is None else room + 1)
        self._tail(self._grammar.closed(branch), table.tail, fits, banned)

    def _tail(self, branch: Branch, tail: Tail, fits: range, banned: set[int]) -> None:
        self._steps += 1
        self.ids += [id for characters, id in tail.ends if characters in fits and id not in banned]
        for byte, child in tail.children.items():
            for after in self._grammar.moves(branch, byte):
                self._tail(after, child, fits, banned)


def _closing(node: Trie, text: str) -> set[int]:
    """The tokens below ``node`` that close a string right behind ``text``."""
    at = node
    for char in text + '"':
        child = at.children.get(ord(char))
        if child is None:
            return set()
        at = child
    return {*at.ids, *(id for _, id in at.below())}
