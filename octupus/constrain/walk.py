"""Which tokens may follow a position: a walk along the trie of tokens, with short cuts in strings and keys."""

from __future__ import annotations

from octupus.constrain.grammar import Grammar
from octupus.constrain.lexing import TextLex
from octupus.constrain.sets import Shared
from octupus.constrain.stack import Branch, with_prefix
from octupus.constrain.vocabulary import Mask, Tail, Trie
from octupus.errors import ConstraintError

MAX_STEPS = 200_000
"""Trie nodes looked at for one mask; counted, so that the bound does not depend on the machine."""
TABLE_FROM = 64
"""Where so many tokens go on inside a string, they are looked up in a table instead of one by one."""


class Walk:
    """Collects ``ids`` and ``masks``; ``left`` is what is left of the budget."""

    def __init__(self, grammar: Grammar, shared: Shared, left: int = MAX_STEPS) -> None:
        self._grammar, self._shared = grammar, shared
        self.ids: list[int] = []
        self.masks: list[Mask] = []
        self.left = left

    def along(self, branch: Branch, node: Trie, opened: bool = False) -> None:
        """Tokens below ``node`` whose rest may follow ``branch``.

        Args:
            opened: these tokens have passed the brace or comma that a key stands behind.

        Raises:
            ConstraintError: the budget is spent.
        """
        self._spend()
        lex, top = branch.lex, branch.top
        if top is None:
            return
        if isinstance(lex, TextLex) and not lex.utf8 and not lex.escape and len(node) >= TABLE_FROM:
            return self._string(branch, lex, node)
        if top.kind in ("key", "literal") and not self._grammar.blank_may_follow(branch):
            return self._choices(branch, node)
        allowed, children = self._grammar.allowed(branch), node.children
        for byte in allowed if len(allowed) < len(children) else children:
            child = children.get(byte)
            if child is not None and byte in allowed:
                follow = self._grammar.moves(branch, byte)
                self.ids += child.ids if follow else ()
                for after in follow:
                    if not (opened and byte == 0x22 and not self._grammar.apart and self._grammar.at_key(after)):
                        self.along(after, child, opened or (top.kind == "object" and byte in b"{,"))

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConstraintError("what may follow here is too complex to work out")

    def _choices(self, branch: Branch, node: Trie) -> None:
        """Below a literal or a declared key: along each text at once, without a position for every prefix of it."""
        top, done = branch.top, branch.lex if isinstance(branch.lex, str) else ""
        assert top is not None
        for text in with_prefix(top.texts, done):
            if top.kind == "key" and not self._grammar.apart:
                self._spend()
                self.ids += self._shared.spelled(text[len(done) :] + '": ', node)
            else:
                self._choice(branch, node, text, done)

    def _choice(self, branch: Branch, node: Trie, text: str, done: str) -> None:
        assert branch.top is not None
        at: Trie | None = node
        for char in text[len(done) :] + ('"' if branch.top.kind == "key" else ""):
            self._spend()
            at = at.children.get(ord(char)) if at is not None else None
            if at is None:
                return
            self.ids += at.ids
        if at is not None and len(at):
            self.along(self._grammar.chosen(branch, text), at)

    def _string(self, branch: Branch, lex: TextLex, node: Trie) -> None:
        """Inside a string: its tokens by table; only what they hold behind the closing quote is walked."""
        top = branch.top
        assert top is not None
        table = self._shared.vocabulary.string(node)
        room = None if top.state.max_length is None else top.state.max_length - lex.length
        self.masks.append(table.inside(room))
        least = max(0, (top.state.min_length or 0) - lex.length)
        banned: set[int] = set()
        for text in with_prefix(top.texts, lex.text) if lex.text is not None else ():
            banned |= closing(node, text[len(lex.text or "") :])
        fits = range(least, table.longest + 1 if room is None else room + 1)
        self._tail(self._grammar.closed(branch), table.tail, fits, banned, False)

    def _tail(self, branch: Branch, tail: Tail, fits: range, banned: set[int], opened: bool) -> None:
        self._spend()
        self.ids += [id for characters, id in tail.ends if characters in fits and id not in banned]
        is_object = branch.top is not None and branch.top.kind == "object"
        for byte, child in tail.children.items():
            for after in self._grammar.moves(branch, byte):
                if opened and byte == 0x22 and not self._grammar.apart and self._grammar.at_key(after):
                    self.ids += [id for characters, id in child.ends if characters in fits and id not in banned]
                else:
                    self._tail(after, child, fits, banned, opened or (is_object and byte in b"{,"))


def closing(node: Trie, text: str) -> set[int]:
    """The tokens below ``node`` that close a string right behind ``text``."""
    at = node
    for char in text + '"':
        child = at.children.get(ord(char))
        if child is None:
            return set()
        at = child
    return {*at.ids, *(id for _, id in at.below())}
