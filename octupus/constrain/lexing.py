"""The inside of JSON strings and numbers, byte by byte, as Python's ``json`` writes them.

A string has exactly one spelling: characters as they are, ``\\"``, ``\\\\``, ``\\b \\f \\n \\r \\t``, and ``\\u00xx``
for other control characters. So equal strings are equal bytes, and no lone surrogate can be written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from octupus.constrain.vocabulary import UTF8_STEP, utf8_after

MAX_DIGITS = 40
"""Of one run of digits, so that a number cannot stall a call."""
BLANKS = frozenset(b" \t\n\r")
_DIGITS, _NONZERO, _SIGNS = frozenset(b"0123456789"), frozenset(b"123456789"), frozenset(b"+-")
_EXPONENT, _POINT, _MINUS, _QUOTE = frozenset(b"eE"), frozenset(b"."), frozenset(b"-"), frozenset(b'"')
_NONE = frozenset[int]()
_RUN = re.compile(rb'[^\x00-\x1f"\\]+')
_CHARACTER = tuple(frozenset(b for b in range(0x80, 256) if step[b] >= 0) for step in UTF8_STEP)
_CONTENT = (frozenset(range(0x20, 0x80)) - _QUOTE) | _CHARACTER[0]
# What may follow in an escape, by what of it is there already.
_ESCAPES = {
    "\\": frozenset(b'"\\bfnrtu'),
    "\\u": frozenset(b"0"),
    "\\u0": frozenset(b"0"),
    "\\u00": frozenset(b"01"),
    "\\u000": frozenset(b"01234567bef"),
    "\\u001": frozenset(b"0123456789abcdef"),
}


class TextLex(NamedTuple):
    """Inside a string, behind its opening quote."""

    length: int = 0
    """Characters begun, as far as their number matters."""
    utf8: int = 0
    """The UTF-8 state."""
    escape: str = ""
    """What there is of an escape."""
    text: str | None = ""
    """What there is of the string; None once it is none that may not stand here (and nobody wants to know)."""


def text_bytes(lex: TextLex, least: int | None, most: int | None, forbidden: Sequence[str]) -> frozenset[int]:
    """The bytes that may follow in a string of ``least`` to ``most`` characters that is none of ``forbidden``."""
    if lex.escape:
        return _ESCAPES[lex.escape]
    if lex.utf8:
        return _CHARACTER[lex.utf8]
    found = _CONTENT if most is None or lex.length < most else _NONE
    if lex.length >= (least or 0) and (lex.text is None or lex.text not in forbidden):
        found |= _QUOTE
    return found


def text_move(lex: TextLex, byte: int, counted: int) -> TextLex:
    """After one more byte that is not the closing quote; characters are counted up to ``counted``."""
    text = None if lex.text is None else lex.text + chr(byte)
    if lex.escape:
        escape = lex.escape + chr(byte)
        whole = len(escape) == 6 or (len(escape) == 2 and byte != 0x75)
        return TextLex(lex.length, 0, "" if whole else escape, text)
    length = min(lex.length + (lex.utf8 == 0), counted)
    return TextLex(length, 0, "\\", text) if byte == 0x5C else TextLex(length, UTF8_STEP[lex.utf8][byte], "", text)


def text_run(lex: TextLex, data: bytes, at: int, least: int, most: int | None) -> tuple[TextLex, int]:
    """After as many characters of ``data`` as need no second look; and where they end."""
    match = _RUN.match(data, at)
    if lex.escape or lex.utf8 or match is None or match.end() == at:
        return lex, at
    text = match.group().decode("latin-1")
    characters = len(text) if text.isascii() else sum((ord(c) & 0xC0) != 0x80 for c in text)
    utf8 = 0 if text.isascii() else utf8_after(0, match.group())
    if utf8 < 0 or (most is not None and lex.length + characters > most):
        return lex, at
    length = min(lex.length + characters, max(least, most or 0))
    return TextLex(length, utf8, "", None if lex.text is None else lex.text + text), match.end()


class NumberLex(NamedTuple):
    """Inside a number. ``part``: ``-`` sign, ``z`` minus zero, ``0`` zero, ``i`` integer digits, ``.`` point, ``f``
    fraction digits, ``e`` letter, ``s`` its sign, ``x`` exponent digits."""

    part: str = ""
    digits: int = 0
    """In this run."""
    most: int = 2
    """Digits of the exponent that keep the number finite."""


def number_bytes(lex: NumberLex, floating: bool) -> frozenset[int]:
    """The bytes that may follow."""
    part = lex.part
    if part in ("", "-"):
        digits = _DIGITS if floating or not part else _NONZERO
        return digits if part else digits | _MINUS
    if part in ".s":
        return _DIGITS
    if part == "e":
        return _DIGITS | _SIGNS
    more = (part in "if" and lex.digits < MAX_DIGITS) or (part == "x" and lex.digits < lex.most)
    found = _DIGITS if more else _NONE
    if floating:
        found |= (_POINT if part in "z0i" else _NONE) | (_EXPONENT if part in "0if" else _NONE)
    return found


def number_move(lex: NumberLex, byte: int) -> NumberLex:
    part = lex.part
    if byte in _SIGNS:
        return NumberLex("s" if part == "e" else "-", 0, lex.most)
    if byte in _POINT:
        return NumberLex(".", 0, lex.most)
    if byte in _EXPONENT:
        return NumberLex("e", 0, lex.most)
    if part in ("e", "s"):
        # 299 is the largest exponent of three digits, and only behind one digit: 10^40 times 10^299 is no double.
        return NumberLex("x", 1, 3 if lex.most == 3 and byte in b"12" else 2)
    if part in ("", "-"):
        zero = byte == 0x30
        return NumberLex(("z" if part else "0") if zero else "i", 1, 3)
    return NumberLex("f" if part == "." else part, lex.digits + 1 if part != "." else 1, 2 if part == "i" else lex.most)


def number_ends(lex: NumberLex) -> bool:
    """Whether the number may end here."""
    return lex.part in ("0", "i", "f", "x")
