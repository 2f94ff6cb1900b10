"""A grammar's positions as a lazily built automaton over tokens, shared by all requests."""

from __future__ import annotations

import threading
from typing import Any

from octupus.constrain.grammar import Grammar
from octupus.constrain.normal import Normal
from octupus.constrain.sets import Allowed, Shared
from octupus.constrain.stack import Branch
from octupus.constrain.vocabulary import Mask
from octupus.constrain.walk import MAX_STEPS, Walk
from octupus.errors import ConstraintError

MAX_FORCED = 512
"""Bytes looked ahead for a forced text."""
MAX_TOKENS_CACHED = 1024
"""Token moves remembered in one state."""
MAX_BRANCHES = 512
"""Positions that one text can stand at: alternatives that agree so far multiply where they are nested."""
STATE_BYTES, POSITION_BYTES = 700, 1_300
"""About what one takes, caches included."""

_UNKNOWN: Any = object()


class State:
    """Where a text stands: all positions that its bytes can lead to. Shared by all requests; only its caches grow."""

    __slots__ = ("allowed", "automaton", "branches", "ended", "stays", "tokens")

    def __init__(self, automaton: Automaton, branches: tuple[Branch, ...]) -> None:
        self.automaton, self.branches = automaton, branches
        self.ended = any(branch.top is None for branch in branches)
        """Whether the text may end here."""
        self.stays = automaton.plain if len(branches) == 1 and Grammar.stays(branches[0]) else b""
        """By token, whether it is text inside a string that leads back here."""
        self.tokens: dict[int, State | None] = {}
        self.allowed: Allowed | None = None

    def fill(self, row: Mask) -> None:
        """Write the text tokens that may follow.

        Raises:
            ConstraintError: working them out is beyond its budget.
        """
        allowed = self.allowed
        (self.automaton.allow(self) if allowed is None else allowed).fill(row)

    def mask(self) -> Mask:
        """The text tokens that may follow, as :meth:`fill` writes them; read-only."""
        return (self.allowed or self.automaton.allow(self)).mask()

    def advance(self, token: int) -> State | None:
        """After one more token; None where it may not follow."""
        if 0 <= token < len(self.stays) and self.stays[token]:
            return self
        found = self.tokens.get(token, _UNKNOWN)
        return self.automaton.advance(self, token) if found is _UNKNOWN else found

    def forced(self) -> tuple[bytes, bool]:
        """The text that must come next, and whether nothing may follow it."""
        return self.automaton.forced(self)


class Automaton:
    """States of one grammar. Thread-safe: what exists is read without a lock, the rest is made under one.

    Args:
        owner: of the grammar's nodes, which last as long as it does.
    """

    def __init__(self, grammar: Grammar, shared: Shared, owner: Normal | None = None) -> None:
        self._owner = owner
        self._grammar, self._shared = grammar, shared
        self.plain = shared.vocabulary.plain
        self._lock = threading.RLock()
        self._states: dict[tuple[Branch, ...], State] = {}
        self._alike: dict[object, Allowed] = {}
        self._set_bytes = 0
        self._left = MAX_STEPS
        self._dismantled = False

    @property
    def start(self) -> State:
        with self._lock:
            return self._state(self._grammar.first)

    def dismantle(self) -> None:
        """Take apart the circles that this is made of: it goes when its last user does, without a garbage collection.

        Whoever is in the middle of a text goes on; what they come to is worked out anew, and not remembered.
        """
        with self._lock:
            self._dismantled = True
            for state in self._states.values():
                state.tokens.clear()
            self._states.clear()
            self._grammar.dismantle()

    @property
    def size(self) -> int:
        """About how many bytes this takes."""
        return len(self._states) * STATE_BYTES + self._grammar.positions * POSITION_BYTES + self._set_bytes

    def allow(self, state: State) -> Allowed:
        with self._lock:
            self._left = MAX_STEPS
            sets = tuple(self._branch_set(branch) for branch in state.branches if branch.top is not None)
            state.allowed = found = self._shared.union(sets)
        self._shared.figures.add("worked_out")
        return found

    def advance(self, state: State, token: int) -> State | None:
        vocabulary = self._shared.vocabulary
        data = vocabulary.tokens[token] if 0 <= token < vocabulary.size else None
        with self._lock:
            after = None if data is None else self._after(state, data)
            if len(state.tokens) < MAX_TOKENS_CACHED and not self._dismantled:
                state.tokens[token] = after
        return after

    def step(self, state: State, byte: int) -> State | None:
        """The state after one more byte."""
        with self._lock:
            return self._after(state, bytes([byte]))

    def _after(self, state: State, data: bytes) -> State | None:
        branches, at = state.branches, 0
        while at < len(data) and branches:
            if len(branches) == 1:
                ahead = self._grammar.run(branches[0], data, at)
                if ahead is not None:
                    branches, at = (ahead[0],), ahead[1]
                    continue
            # Elsewhere all positions are alike of which only the keys differ: so no token may reach into a key.
            inside = at and not self._grammar.apart and data[at] == 0x22 and data[:at].endswith((b"{", b", "))
            found: dict[Branch, None] = {}
            for branch in branches:
                found |= dict.fromkeys(self._grammar.moves(branch, data[at]))
            at += 1
            if inside and at < len(data):
                found = {branch: None for branch in found if not self._grammar.at_key(branch)}
            if len(found) > MAX_BRANCHES:
                why = f"more than {MAX_BRANCHES} ways to read the text so far; alternatives must differ sooner"
                raise ConstraintError(why)
            branches = tuple(found) if len(found) < 2 else tuple(sorted(found, key=lambda branch: branch.number))
        return self._state(branches) if branches else None

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
            state = State(self, branches)
            if not self._dismantled:
                self._states[branches] = state
        return state

    def _branch_set(self, branch: Branch) -> Allowed:
        found: Allowed | None = branch.tokens
        if found is None:
            key, everywhere = self._grammar.alike(branch)
            found = self._shared.get(key) if everywhere else self._alike.get(key)
            if found is None:
                walk = Walk(self._grammar, self._shared, self._left)
                walk.along(branch, self._shared.vocabulary.trie)
                self._left = walk.left
                found = self._shared.collect(walk.ids, walk.masks)
                if everywhere:
                    self._shared.put(key, found)
                else:
                    self._alike[key] = found
                    self._set_bytes += found.nbytes
            branch.tokens = found
        return found
