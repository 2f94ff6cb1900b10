"""The second authority: llguidance, for what lm-format-enforcer's grammar does not implement. It orders properties."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import llguidance
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from octupus.constrain.keys import KeyTokens
from octupus.constrain.keywords import NUMERIC, bounded, edges, inside, written
from octupus.constrain.lexing import MAX_DIGITS
from octupus.constrain.logic import Mark
from octupus.constrain.nodes import Excluding, Node
from octupus.constrain.normal import plain
from octupus.constrain.reading import BEGIN, Reading
from octupus.constrain.vocabulary import Mask, Vocabulary
from octupus.errors import ConstraintError

BY_GUIDANCE = NUMERIC | {"pattern", "format", "patternProperties", "enum"}
"""What llguidance enforces of that which lm-format-enforcer's grammar leaves out."""
_FACETS = {"string": frozenset({"pattern", "format"}), "number": NUMERIC, "integer": NUMERIC}
_SPACING = {
    "canonical": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "any": {"whitespace_flexible": True},
}


class Lark(NamedTuple):
    """A grammar in llguidance's language."""

    text: str
    free_keys: bool
    """Whether an object takes keys that it does not declare: llguidance would let them be written with escapes, so past
    what is declared of them, and twice."""


def lark(root: Node, head: str, tail: str, whitespace: str) -> Lark:
    """The grammar of ``head``, JSON that obeys ``root``, ``tail``.

    Raises:
        ConstraintError: the schema holds what cannot be said there.
    """
    said = _Schema(root)
    schema = {**said.whole, "x-guidance": _SPACING[whitespace]}
    texts = [json.dumps(text, ensure_ascii=False) for text in (head, tail)]
    text = f"start: {texts[0] if head else ''} json {texts[1] if tail else ''}\njson: %json {json.dumps(schema)}\n"
    return Lark(text, said.free_keys)


class _Schema:
    """A normal form written as JSON Schema again, free of all logic but ``anyOf`` and ``$ref``."""

    def __init__(self, root: Node) -> None:
        self._names: dict[Node, str] = {}
        self._defs: dict[str, Any] = {}
        self._left: list[Node] = []
        self.free_keys = False
        self._escaped: Mark | None = None
        """What says that there is a key which is written with an escape."""
        self.whole: dict[str, Any] = {**self._ref(root), "$defs": self._defs}
        while self._left:
            node = self._left.pop()
            self._defs[self._names[node]] = self._of(node)
        if self.free_keys and self._escaped is not None:
            pointer, keyword = self._escaped
            raise ConstraintError("a key with escapes beside free ones", pointer=pointer, keyword=keyword)

    def _ref(self, node: Node | None) -> dict[str, Any]:
        assert node is not None
        if node not in self._names:
            self._names[node] = f"n{len(self._names)}"
            self._left.append(node)
        return {"$ref": f"#/$defs/{self._names[node]}"}

    def _of(self, node: Node) -> dict[str, Any]:
        if node.type is None:
            if node.enum:
                pointer = node.parts[0].pointer if node.parts else ""
                if not all(BEGIN.after(literal.text.encode("latin-1")).fresh for literal in node.enum):
                    self._escaped = pointer, "enum"
                return {"enum": [written(plain(literal.text), pointer) for literal in node.enum]}
            return {"anyOf": [self._of(a) if a.type != "object" else self._ref(a) for a in node.anyOf]}
        made: dict[str, Any] = {"type": node.type}
        if isinstance(node.enum, Excluding) and node.enum.texts:
            raise ConstraintError("a string that must not be one of some", pointer=node.parts[0].pointer, keyword="not")
        if node.type in ("string", "number", "integer"):
            made |= {k: v for k, v in (("minLength", node.minLength), ("maxLength", node.maxLength)) if v is not None}
            facets = [{k: v} for at in node.parts for k, v in at.schema.items() if k in _FACETS[node.type]]
            bounded(node, facets)
            unique = {json.dumps(facet, sort_keys=True): facet for facet in (*map(inside, facets), *edges(facets))}
            return (
                {"allOf": [made, *unique.values()]} if len(unique) > 1 else {**made, **next(iter(unique.values()), {})}
            )
        if node.type == "array":
            made |= {"prefixItems": [self._ref(n) for n in node.prefix]} if node.prefix else {}
            made |= {k: v for k, v in (("minItems", node.minItems), ("maxItems", node.maxItems)) if v is not None}
            return made | {"items": self._ref(node.rest) if node.rest is not None and node.rest.anyOf else False}
        texts = {name: plain(f'"{name}"') for name in [*node.properties, *node.forbidden]}
        made["properties"] = {texts[name]: self._ref(inner) for name, inner in node.properties.items()}
        made["properties"] |= {texts[n]: False for n in node.forbidden if n not in node.properties}
        made["required"] = [texts[name] for name in node.required]
        made["patternProperties"] = {pattern: self._ref(inner) for pattern, inner in node.patterns.items()}
        additional = node.properties.additional
        self.free_keys = self.free_keys or additional is not None or bool(node.patterns)
        if any("\\" in name for name in node.properties):
            self._escaped = node.parts[0].pointer, "properties"
        made["additionalProperties"] = False if additional is None else self._ref(additional)
        made |= {"minProperties": node.min_properties} if node.min_properties else {}
        made |= {"maxProperties": node.max_properties} if node.max_properties is not None else {}
        return made


class Guidance:
    """llguidance over one vocabulary; filled on first use, because its tokenizer takes a second and 120 MiB."""

    _known: ClassVar[WeakKeyDictionary[Vocabulary, Guidance]] = WeakKeyDictionary()

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.keys = vocabulary, KeyTokens(vocabulary)
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Guidance:
        """The one of this vocabulary."""
        return cls._known.setdefault(vocabulary, cls(vocabulary))

    def _starting(self, with_bytes: bytes) -> Mask:
        found = [id for id, text in enumerate(self.vocabulary.tokens) if text is not None and text[0] in with_bytes]
        return self.vocabulary.pack(found)

    @cached_property
    def digits(self) -> Mask:
        """All but tokens that go on with a run of digits."""
        return ~self._starting(b"0123456789")

    @cached_property
    def letters(self) -> Mask:
        """All but tokens that would write an exponent."""
        return ~self._starting(b"eE")

    @cached_property
    def usable(self) -> Mask:
        return self._starting(bytes(range(256)))

    def tokenizer(self) -> LLTokenizer:
        if self.vocabulary.encode is None:
            raise ConstraintError("llguidance needs a vocabulary that can encode text: make it with from_tokenizer")
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(llguidance.TokenizerWrapper(_Tokens(self.vocabulary)))
            return self._tokenizer

    def start(self, grammar: Lark) -> Place:
        """The start of a text of this grammar.

        Raises:
            ConstraintError: llguidance refuses the grammar.
        """
        matcher = LLMatcher(self.tokenizer(), grammar.text, log_level=0)
        if matcher.is_error():
            raise ConstraintError(matcher.get_error().splitlines()[0])
        return Place(Session(self, matcher, grammar.free_keys))


class _Tokens:
    """What llguidance's TokenizerWrapper asks of a tokenizer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        added = [id for id, text in enumerate(vocabulary.tokens) if text is None]
        # llguidance needs an id that ends a text; any that is no text token serves, because the turn is ended outside.
        self.eos_token_id = vocabulary.eos_id
        self.bos_token_id = None
        self.tokens = [text if text is not None else b"\xff<%d>" % id for id, text in enumerate(vocabulary.tokens)]
        self.special_token_ids = sorted({*added, vocabulary.eos_id})

        self._vocabulary = vocabulary

    def __call__(self, text: str) -> list[int]:
        if self._vocabulary.encode is None or not isinstance(text, str):
            raise TypeError("text only, and only with a vocabulary that can encode it (Vocabulary.from_tokenizer)")
        return self._vocabulary.encode(text)


def check(grammar: Lark) -> None:
    """Refuse what llguidance cannot compile.

    Raises:
        ConstraintError: with llguidance's reason.
    """
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar.text)
    if failed:
        raise ConstraintError(_reason(messages))


def _reason(messages: Sequence[str] | Iterable[str]) -> str:
    return next(iter(messages), "llguidance refuses the schema").splitlines()[0]


class Session:
    """One text of one request: a matcher, which goes back and forth between the positions that refer to it."""

    def __init__(self, guidance: Guidance, matcher: LLMatcher, free_keys: bool) -> None:
        self.guidance, self.matcher, self.free_keys = guidance, matcher, free_keys
        self.depth = 0

    def seek(self, depth: int) -> LLMatcher:
        """The matcher behind its first ``depth`` tokens."""
        if depth < self.depth:
            self.matcher.rollback(self.depth - depth)
            self.depth = depth
        return self.matcher


class Place:
    """Where a text stands under llguidance; of one request only."""

    __slots__ = ("_depth", "_reading", "_session")

    def __init__(self, session: Session, depth: int = 0, reading: Reading = BEGIN) -> None:
        self._session, self._depth, self._reading = session, depth, reading

    @property
    def ended(self) -> bool:
        accepting: bool = self._session.seek(self._depth).is_accepting()
        return accepting

    def fill(self, row: Mask) -> None:
        """Write the text tokens that may follow; see :meth:`mask`."""
        words = self._session.guidance.vocabulary.words
        row[:words] = self.mask()
        row[words:] = 0

    def mask(self) -> Mask:
        """The text tokens that may follow.

        Raises:
            ConstraintError: llguidance has given up (a limit of its own).
        """
        guidance, matcher = self._session.guidance, self._session.seek(self._depth)
        if matcher.is_stopped() and not matcher.is_error():
            return np.zeros(guidance.vocabulary.words, np.int32)
        found = np.frombuffer(matcher.compute_bitmask(), np.int32)[: guidance.vocabulary.words] & guidance.usable
        if matcher.is_error():
            raise ConstraintError(_reason([matcher.get_error()]))
        reading = self._reading
        if not reading.inside and reading.run:
            found &= guidance.letters
            if reading.run >= MAX_DIGITS and (found & guidance.digits).any():  # a multiple may need one more
                found &= guidance.digits
        return guidance.keys.fresh(found, reading) if self._session.free_keys else found

    def forced(self) -> tuple[bytes, bool]:
        """The text that must come next, and whether nothing may follow it."""
        matcher = self._session.seek(self._depth)
        return (b"", True) if matcher.is_stopped() else (matcher.compute_ff_bytes(), False)

    def advance(self, token: int) -> Place | None:
        """After one more token; None where it may not follow."""
        mask = self.mask()
        if not 0 <= token < self._session.guidance.vocabulary.size or not mask[token >> 5] >> (token & 31) & 1:
            return None
        self._session.matcher.consume_token(token)
        self._session.depth = self._depth + 1
        data = self._session.guidance.vocabulary.tokens[token] or b""
        return Place(self._session, self._depth + 1, self._reading.after(data))
