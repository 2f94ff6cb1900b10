"""lm-format-enforcer's grammar, one byte at a time, with its defects mended.

Its parser states say which keys, values and separators may follow; what it gets wrong is done here: strings (escapes,
control characters, lengths, UTF-8), numbers, the comma before a closing brace, counting items that are objects, white
space. A position is a :class:`Branch`: a stack of parser states of which the topmost takes the next byte. Where several
may take it, there are several branches, so that no branch ever has to guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from octupus.constrain.lexing import (
    BLANKS,
    MAX_DIGITS,
    NumberLex,
    TextLex,
    number_bytes,
    number_ends,
    number_move,
    text_bytes,
    text_move,
    text_run,
)
from octupus.constrain.nodes import ANY_KEY, Excluding, Node
from octupus.constrain.parsers import (
    CharacterLevelParser,
    ForceStopParser,
    ListParsingState,
    NumberParsingState,
    ObjectParsingStage,
    ObjectParsingState,
    StringParser,
    StringParsingState,
    UnionParser,
    get_parser,
)
from octupus.constrain.sets import Shared
from octupus.constrain.shapes import shape_of
from octupus.constrain.stack import Branch, Cursor, Frame, Lex, holds, with_prefix

MAX_BLANKS = 24
"""White space in a row where any is allowed."""
SPACE = "space"
"""One blank must follow."""


class Grammar:
    """All positions of one schema's JSON with a fixed text before and after it.

    Args:
        node: the schema; None: only ``head``.
        any_space: white space as the model likes it, at most ``MAX_BLANKS`` in a row; else only ``", "`` and ``": "``.
        shared: numbers the shapes of positions.
    """

    def __init__(self, node: Node | None, head: str, tail: str, shared: Shared, *, any_space: bool) -> None:
        self._frames: dict[Any, Frame] = {}
        self._shared = shared
        self.apart = any_space or shared.vocabulary.crosses_keys
        """Tokens may hold the end of a value and the beginning of a key: no two positions are alike."""
        self._branches: dict[Any, Branch] = {}
        self._cursor = Cursor()
        self._before: Lex = 0 if any_space else SPACE
        self._blanks = MAX_BLANKS if any_space else 0
        self._dismantled = False
        self.steps = 0
        """Moves computed so far: what budgets are counted in."""
        below = self._frame(None, "text", StringParser(tail)) if tail else None
        begin = (
            list(self._enter(below, get_parser(self._cursor, node), MAX_BLANKS)) if node else [self._branch(below, 0)]
        )
        if head:
            begin = [self._branch(self._frame(branch.top, "text", StringParser(head)), 0) for branch in begin]
        self.first: tuple[Branch, ...] = tuple(begin)

    @property
    def positions(self) -> int:
        return len(self._branches) + len(self._frames)

    def dismantle(self) -> None:
        """See :meth:`octupus.constrain.automaton.Automaton.dismantle`."""
        self._dismantled = True
        for branch in self._branches.values():
            branch.moves.clear()

    def blank_may_follow(self, branch: Branch) -> bool:
        return branch.lex is SPACE or (isinstance(branch.lex, int) and branch.lex < self._blanks)

    def alike(self, branch: Branch) -> tuple[object, bool]:
        """Equal for branches that allow the same tokens; and whether for branches of other schemas too."""
        top, lex = branch.top, branch.lex
        assert top is not None
        if top.kind == "key" and not self.apart:
            left = [text[len(lex) :] for text in with_prefix(top.texts, lex)]
            return (("key", left[0]), True) if len(left) == 1 else (branch, False)
        if top.shape is not None:
            if isinstance(lex, NumberLex) and lex.digits <= MAX_DIGITS - self._shared.vocabulary.longest_digits:
                lex = lex if lex.part == "x" else lex._replace(digits=1)
            return (top.shape, lex), True
        if top.kind == "free" and not self.apart and not any(True for _ in with_prefix(top.texts, lex.text)):
            return ("free", lex._replace(text=None), self._additional(top.below)), False
        return branch, False

    def _additional(self, below: Frame | None) -> object:
        """What decides which tokens may follow an undeclared key."""
        return None if below is None else below.state.schema_object

    def chosen(self, branch: Branch, text: str) -> Branch:
        """The branch behind a literal, or behind the quote that closes a declared key."""
        assert branch.top is not None
        below = branch.top.below
        return self._branch(below, ("colon", text)) if branch.top.kind == "key" else self._finish(below)

    def closed(self, branch: Branch) -> Branch:
        """A branch behind the quote that closes this string; of an undeclared key, whichever it is."""
        assert branch.top is not None
        below = branch.top.below
        return self._branch(below, ("colon", ANY_KEY)) if branch.top.kind == "free" else self._finish(below)

    @staticmethod
    def stays(branch: Branch) -> bool:
        """Whether this is inside a string that nothing is counted or forbidden in any more, between two characters."""
        top, lex = branch.top, branch.lex
        if top is None or top.kind != "string" or not isinstance(lex, TextLex) or top.state.max_length is not None:
            return False
        return lex == TextLex(top.state.min_length or 0, text=None)

    @staticmethod
    def at_key(branch: Branch) -> bool:
        """Whether this branch stands right behind the quote that opens a key."""
        return branch.top is not None and branch.top.kind in ("key", "free")

    def run(self, branch: Branch, data: bytes, at: int) -> tuple[Branch, int] | None:
        """Many bytes at once, where they stay inside one string or key: the branch behind them, and where they end.

        None: take ``moves`` instead.
        """
        top, lex = branch.top, branch.lex
        if top is None or top.kind not in ("key", "literal", "string", "free"):
            return None
        if isinstance(lex, str):
            rest = data[at:].decode("latin-1")
            for text in with_prefix(top.texts, lex):
                left = text[len(lex) :]
                if left.startswith(rest) and (top.kind == "key" or left != rest):
                    return self._branch(top, lex + rest), len(data)
                if rest.startswith(left + '"') and top.kind == "key":
                    return self._branch(top.below, ("colon", text)), at + len(left) + 1
                if rest.startswith(left):  # a literal that ends here, unless it is the beginning of another
                    alone = top.kind == "literal" and sum(1 for _ in with_prefix(top.texts, text)) == 1
                    return (self._finish(top.below), at + len(left)) if alone else None
            return None
        if not isinstance(lex, TextLex) or (top.kind == "string" and lex.text is not None):
            return None
        after, end = text_run(lex, data, at, top.state.min_length or 0, top.state.max_length)
        return None if end == at else (self._branch(top, after), end)

    def moves(self, branch: Branch, byte: int) -> tuple[Branch, ...]:
        """The branches after ``byte``; none where it may not follow."""
        found = branch.moves.get(byte)
        if found is None:
            self.steps += 1
            found = tuple(dict.fromkeys(self._move(branch, byte))) if byte in self.allowed(branch) else ()
            if not self._dismantled:
                branch.moves[byte] = found
        return found

    def allowed(self, branch: Branch) -> frozenset[int]:
        """The bytes that may follow."""
        if branch.allowed is None:
            branch.allowed = self._allowed(branch)
        return branch.allowed

    def _allowed(self, branch: Branch) -> frozenset[int]:
        top, lex = branch.top, branch.lex
        if top is None:
            return frozenset()
        if lex is SPACE:
            return frozenset(b" ")
        if top.kind == "text":
            return frozenset((ord(top.state.target_str[lex]),))
        if isinstance(lex, TextLex):
            return text_bytes(lex, top.state.min_length, top.state.max_length, top.texts)
        found = self._begins(top, lex) if isinstance(lex, int) else self._continues(top, lex)
        return found | BLANKS if isinstance(lex, int) and lex < self._blanks else found

    def _begins(self, top: Frame, lex: Lex) -> frozenset[int]:
        if top.kind == "string":
            return frozenset(b'"')
        if top.kind == "number":
            return number_bytes(NumberLex(), top.state.allow_floating_point)
        if top.kind == "literal":
            return frozenset(ord(text[0]) for text in top.texts)
        state, begun = top.state, top.kind == "object"
        self._cursor.object_stack = [state]
        found = frozenset(map(ord, state.get_allowed_characters())) - BLANKS
        self._cursor.object_stack = []  # what stands there leads back to it
        if begun:
            node, keys = state.schema_object, state.existing_keys
            after_comma = keys and state.current_stage is ObjectParsingStage.PARSING_KEY_OR_END
            if after_comma or len(keys) < node.min_properties:
                found -= frozenset(b"}")
            if node.max_properties is not None and len(keys) >= node.max_properties:
                found -= frozenset(b',"')
        return found

    def _continues(self, top: Frame, lex: Lex) -> frozenset[int]:
        if isinstance(lex, NumberLex):
            return number_bytes(lex, top.state.allow_floating_point)
        if isinstance(lex, tuple):
            return frozenset(b":")
        follow = frozenset(ord(text[len(lex)]) for text in with_prefix(top.texts, lex) if len(text) > len(lex))
        return follow | frozenset(b'"') if top.kind == "key" and holds(top.texts, lex) else follow

    def _move(self, branch: Branch, byte: int) -> Iterator[Branch]:
        top, lex = branch.top, branch.lex
        assert top is not None
        if lex is SPACE:
            yield self._branch(top, 0)
        elif top.kind == "text":
            last = lex + 1 == len(top.state.target_str)
            below_text = top.below is None or top.below.kind == "text"
            yield self._branch(top.below, 0 if below_text else MAX_BLANKS) if last else self._branch(top, lex + 1)
        elif isinstance(lex, int) and lex < self._blanks and byte in BLANKS:
            yield self._branch(top, lex + 1)
        elif top.kind in ("string", "free"):
            yield self._text(top, lex, byte)
        elif top.kind == "number":
            number = number_move(lex if isinstance(lex, NumberLex) else NumberLex(), byte)
            if number_ends(number):
                yield self._finish(top.below)
            if number_bytes(number, top.state.allow_floating_point):
                yield self._branch(top, number)
        elif top.kind == "key":
            # A quote inside a key stands behind a backslash, where no key ends.
            ends = byte == 0x22 and holds(top.texts, lex)
            yield self._branch(top.below, ("colon", lex)) if ends else self._branch(top, lex + chr(byte))
        elif top.kind == "literal":
            text = chr(byte) if isinstance(lex, int) else lex + chr(byte)
            if holds(top.texts, text):
                yield self._finish(top.below)
            if any(len(t) > len(text) for t in with_prefix(top.texts, text)):
                yield self._branch(top, text)
        else:
            yield from self._structure(top, lex, byte)

    def _text(self, top: Frame, lex: Lex, byte: int) -> Branch:
        state = top.state
        if not isinstance(lex, TextLex):
            return self._branch(top, TextLex(text="" if top.texts else None))
        if byte == 0x22 and not lex.escape:
            return self._branch(top.below, ("colon", lex.text)) if top.kind == "free" else self._finish(top.below)
        after = text_move(lex, byte, max(state.min_length or 0, state.max_length or 0))
        if (
            top.kind == "string"
            and after.text is not None
            and not any(True for _ in with_prefix(top.texts, after.text))
        ):
            after = after._replace(text=None)
        return self._branch(top, after)

    def _structure(self, top: Frame, lex: Lex, byte: int) -> Iterator[Branch]:
        """A byte of an object or a list: its state takes it, and may push the state of what it begins."""
        state: Any = top.state
        self._cursor.last_parsed_string = lex[1] if isinstance(lex, tuple) else ""
        if isinstance(state, ListParsingState):
            array: Any = state.list_member_type
            state = state._clone()
            if byte in b"[,":
                seen = state.num_items_seen
                state.list_member_type = array.prefix[seen] if seen < len(array.prefix) else array.rest
                # It counts an item at the comma that it counted at the end of an object or a list already.
                state.num_items_seen -= byte == 0x2C
        self._cursor.object_stack = stack = [state]
        if byte == 0x5B and state.max_items == 0:  # there is no item whose state could be made
            state.seen_list_opener = True
            stack = [state, ForceStopParser()]
        else:
            state = state.add_character(chr(byte))
        self._cursor.object_stack = []
        if isinstance(state, ListParsingState):
            state.list_member_type = array
        elif byte == 0x22:
            stack = [state]
            yield from self._keys(top, state)
            return
        if byte in b"]}":
            yield self._finish(top.below)
        elif len(stack) == 1:
            yield self._branch(self._frame(top.below, top.kind, state), 0 if byte in b"{" else self._before)
        else:
            before = 0 if byte == 0x5B else self._before
            yield from self._enter(self._frame(top.below, top.kind, state), stack[1], before)

    def _keys(self, top: Frame, state: ObjectParsingState) -> Iterator[Branch]:
        """A key begins: one of those declared, or any other."""
        node: Any = state.schema_object
        below = self._frame(top.below, "object", state)
        left = [key for key in node.properties if key not in state.existing_keys]
        needed = [key for key in node.required if key not in state.existing_keys]
        if node.max_properties is not None and len(state.existing_keys) + len(needed) >= node.max_properties:
            left = needed
        elif node.properties.additional is not None:
            yield self._branch(
                self._frame(below, "free", StringParsingState(self._cursor, Excluding(), True)), TextLex()
            )
        if left:
            yield self._branch(self._frame(below, "key", StringParsingState(self._cursor, left, True)), "")

    def _enter(self, below: Frame | None, parser: CharacterLevelParser, lex: Lex) -> Iterator[Branch]:
        """The branches in which a value begins: one for each alternative; a list may end instead of holding one."""
        if isinstance(parser, UnionParser):
            for inner in parser.parsers:
                yield from self._enter(below, inner, lex)
        elif isinstance(parser, ForceStopParser):
            yield self._branch(below, lex)
        else:
            kind = _KINDS[type(parser)]
            if kind == "string" and not isinstance(parser.allowed_strings, Excluding):
                kind = "literal"
            yield self._branch(self._frame(below, kind, parser), lex)

    def _finish(self, below: Frame | None) -> Branch:
        """A value has ended: the branch of what stands below it."""
        if below is not None and below.kind == "list":
            state, array = below.state._clone(), below.state.list_member_type
            # Counted only as far as the count matters, so that long lists do not make ever new positions.
            matters = max(array.minItems or 0, array.maxItems or 0, len(array.prefix), 1)
            state.num_items_seen = min(state.num_items_seen + 1, matters)
            below = self._frame(below.below, "list", state)
        return self._branch(below, 0)

    def _branch(self, top: Frame | None, lex: Lex) -> Branch:
        key = (top, lex)
        branch = self._branches.get(key)
        if branch is None:
            branch = self._branches[key] = Branch(top, lex, len(self._branches))
        return branch

    def _frame(self, below: Frame | None, kind: str, state: Any) -> Frame:
        key = (below, kind, self._tells(kind, state))
        frame = self._frames.get(key)
        if frame is None:
            known = not self.apart and (below is None or below.shape is not None)
            shape = shape_of(kind, state) if known else None
            number = None if shape is None else self._shared.shape((below.shape if below else None, kind, shape))
            frame = self._frames[key] = Frame(below, kind, state, number)
            if kind == "free":
                assert below is not None
                frame.texts = sorted(below.state.schema_object.forbidden.union(below.state.existing_keys))
        return frame

    @staticmethod
    def _tells(kind: str, state: Any) -> Any:
        """What tells this state from others on the same stack."""
        if kind == "object":
            return state.schema_object, state.current_stage, frozenset(state.existing_keys)
        if kind == "list":
            return state.list_member_type, state.num_items_seen, state.seen_list_opener
        if kind == "string":
            return state.min_length, state.max_length, frozenset(state.allowed_strings.texts)
        if kind == "literal":
            return tuple(state.allowed_strings)
        return state.allow_floating_point if kind == "number" else state.target_str if kind == "text" else None


_KINDS: dict[type, str] = {
    ObjectParsingState: "object",
    ListParsingState: "list",
    NumberParsingState: "number",
    StringParsingState: "string",
}
