"""Values and calls as data sets write them: JSON, Python literals, ``[name(key=value, ...)]``; nothing is evaluated."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from octupus.errors import DataError

_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)")
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_WORD = re.compile(r"true|false|null|none", re.IGNORECASE)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "/": "/", '"': '"', "'": "'", "\n": ""}
_ESCAPE = re.compile(r"\\(U[0-9a-fA-F]{8}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_CLOSES = re.compile(r"\s*(?:[,)\]}:]|$)")
_CLOSES_ARGUMENT = re.compile(r"\s*(?:\)|,\s*(?:\)|[^=,()\n]+=)|$)")
"""What may stand behind the quotation mark that ends a string, within a list or dict and as an argument's whole value;
any other mark belongs to the text."""


def value_of(text: str, what: str) -> Any:
    """JSON, or else a Python literal, as a JSON value.

    Raises:
        DataError: it is neither.
    """
    for read in (json.loads, _literal):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            last = error
    raise DataError(f"{what} is neither JSON nor a Python literal: {text[:80]}") from last


def _literal(text: str) -> Any:
    return json.loads(json.dumps(ast.literal_eval(text)))


def calls_of(text: str, names: Collection[str]) -> list[tuple[str, dict[str, Any]]]:
    """``[Some Name(a="x", b=[1, {"c": None}]), other()]`` as (name, arguments) pairs.

    Args:
        text: the whole turn, brackets included.
        names: names that are known; they may hold anything, brackets and commas too. Others end before the first "(".

    Raises:
        DataError: with the position of what cannot be read.
    """
    try:
        return _Reader(text, sorted(names, key=len, reverse=True)).calls()
    except RecursionError as error:
        raise DataError("calls that cannot be read: nested too deep") from error
    except ValueError as error:  # numbers of thousands of digits, characters beyond Unicode
        raise DataError(f"calls that cannot be read: {error}") from error


class _Reader:
    """Recursive descent over one turn."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text, self.names, self.at = text, names, 0

    def fail(self, wanted: str) -> DataError:
        return DataError(f"calls that cannot be read: at {self.at}: {wanted} expected: {self.text[self.at :][:40]!r}")

    def blanks(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, symbol: str) -> bool:
        self.blanks()
        found = self.text.startswith(symbol, self.at)
        self.at += len(symbol) if found else 0
        return found

    def need(self, symbol: str) -> None:
        if not self.take(symbol):
            raise self.fail(repr(symbol))

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        self.need("[")
        found = [self.call()]
        while self.take(","):
            if self.text[self.at :].strip() == "]":  # as in Python, a comma may stand behind the last one
                break
            found.append(self.call())
        self.need("]")
        self.blanks()
        if self.at < len(self.text):
            raise self.fail("the end")
        return found

    def call(self) -> tuple[str, dict[str, Any]]:
        name = self.name()
        self.need("(")
        arguments: dict[str, Any] = {}
        if self.take(")"):
            return name, arguments
        while True:
            key = self.key()
            if key in arguments:
                raise self.fail(f"another key than {key!r}")
            arguments[key] = self.value(_CLOSES_ARGUMENT)
            if self.take(")"):
                return name, arguments
            self.need(",")
            if self.take(")"):
                return name, arguments

    def name(self) -> str:
        self.blanks()
        for name in self.names:
            if self.text.startswith(name, self.at) and self.text[self.at + len(name) :].lstrip().startswith("("):
                self.at += len(name)
                return name
        end = self.text.find("(", self.at)
        if end <= self.at:
            raise self.fail("a function's name")
        name, self.at = self.text[self.at : end].strip(), end
        return name

    def key(self) -> str:
        self.blanks()
        end = self.text.find("=", self.at)
        key = self.text[self.at : end].strip().strip("\"'") if end > 0 else ""
        if not key or any(symbol in key for symbol in ",()\n"):
            raise self.fail("key=")
        self.at = end + 1
        return key

    def value(self, closes: re.Pattern[str] = _CLOSES) -> Any:
        self.blanks()
        symbol = self.text[self.at : self.at + 1]
        if symbol and symbol in "\"'":
            return self.string(3 * symbol if self.text.startswith(3 * symbol, self.at) else symbol, closes)
        if symbol and symbol in "[(":
            self.at += 1
            return self.items("]" if symbol == "[" else ")")
        if symbol == "{":
            self.at += 1
            return self.pairs()
        for pattern in (_NUMBER, _WORD):
            match = pattern.match(self.text, self.at)
            if match is not None and _CLOSES.match(self.text, match.end()):
                self.at = match.end()
                return self.scalar(match.group())
        raise self.fail("a value")

    @staticmethod
    def scalar(text: str) -> Any:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if "x" in text.lower():
            return int(text, 16)
        return float(text) if any(symbol in text for symbol in ".eE") else int(text)

    def items(self, close: str) -> list[Any]:
        found: list[Any] = []
        while not self.take(close):
            found.append(self.value())
            if not self.take(","):
                self.need(close)
                break
        return found

    def pairs(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.take("}"):
            key = self.value()
            self.need(":")
            found[key if isinstance(key, str) else json.dumps(key)] = self.value()
            if not self.take(","):
                self.need("}")
                break
        return found

    def string(self, mark: str, closes: re.Pattern[str]) -> str:
        begin = end = self.at + len(mark)
        while end < len(self.text):
            if self.text[end] == "\\":
                end += 1
            elif self.text.startswith(mark, end) and closes.match(self.text, end + len(mark)):
                self.at = end + len(mark)
                text = _ESCAPE.sub(_unescaped, self.text[begin:end])
                # two \\u escapes may be the halves of one character
                return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
            end += 1
        raise self.fail("the end of a string")


def _unescaped(match: re.Match[str]) -> str:
    code = match.group(1)
    if code[0] in "uUx" and len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, match.group())  # as Python does: an unknown escape stays
