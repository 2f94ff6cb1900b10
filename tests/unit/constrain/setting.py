"""Vocabularies and schemas that the tests of this room share."""

from __future__ import annotations

from functools import cache
from typing import Any

from octupus.config import ConstraintSection
from octupus.constrain import Constraint, Vocabulary
from octupus.wire import Wire
from octupus.wire.messages import canonical_json
from tests.support.tiny import tiny_dialect

PIECES = [
    *(
        "ab",
        "abc",
        '"a',
        '":',
        '": ',
        '", "',
        '"}',
        '"]',
        "}}",
        "]}",
        "[]",
        "{}",
        '{"',
        '[{"',
        ' "',
        ', "',
        " {",
        " [",
        '""',
    ),
    *("true", "false", "null", "12", "1e", "-1", "0.5", ".5", "\\n", '\\"', "\\u00", "\\u001f", "x\\", 'foo"', 'foo":'),
    *("中", "中文", "é", "\n", "\t", "  ", '",', '."', '?",', '"city', "city", '"}}\n', "}\n", "e5", "😀", 'a"b'),
]


@cache
def byte_vocabulary() -> Vocabulary:
    """Every byte, pieces that straddle boundaries, broken UTF-8, two added tokens and padding."""
    broken = [
        b"\xe4\xb8",
        b"\xad\xe6",
        b"\x80",
        b"\xf0\x9f",
        b"\x98\x80",
        b'\xad"',
        b"\xc3",
        b"\xa9a",
        b"\xff",
        b"a\xe4",
    ]
    texts = [bytes([b]) for b in range(256)] + [p.encode() for p in PIECES] + broken
    return Vocabulary([*texts, None, None, b""], len(texts), lambda text: list(text.encode()))


@cache
def setting(dialect: str, whitespace: str = "canonical") -> tuple[Wire, Constraint]:
    wire = tiny_dialect(dialect)
    options = ConstraintSection(whitespace=whitespace)  # type: ignore[arg-type]
    return wire, Constraint(Vocabulary.from_tokenizer(wire.tokenizer), options)


@cache
def byte_constraint(whitespace: str = "canonical", backend: str = "auto") -> Constraint:
    return Constraint(byte_vocabulary(), ConstraintSection(whitespace=whitespace, backend=backend))  # type: ignore[arg-type]


def accepts(schema: Any, text: str | bytes, constraint: Constraint | None = None, arguments: bool = False) -> bool:
    """Whether the masks let this text through, byte by byte, as a whole value."""
    position: Any = (constraint or byte_constraint()).json(schema, "", "", arguments=arguments)
    for byte in text.encode() if isinstance(text, str) else text:
        position = position.advance(byte)
        if position is None:
            return False
    return bool(position.ended)


def accepts_value(schema: Any, value: Any, **options: Any) -> bool:
    constraint = options.get("constraint") or byte_constraint()
    arranged = constraint.plan(schema, arguments=options.get("arguments", False)).arrange(value)
    return accepts(schema, canonical_json(arranged), **options)
