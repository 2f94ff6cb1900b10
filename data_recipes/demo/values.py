"""Argument values: invented, so that they must be read from the question; training never sees a held-out one.

Each kind is made of pieces of its own: a model of a million parameters finds a value by what kind of piece it needs.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

HELD_OUT = 5
"""One value in this many belongs to the held-out splits, decided by its hash alone."""

Value = Any  # str | int | float | bool | list[str]
Kind = str | list[str]
"""A key of :data:`MAKERS`, or the words of an enum."""

_WORDS: dict[str, str] = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
HEADS, TAILS = _WORDS["heads"].split(), _WORDS["tails"].split()
PREFIXES, SUFFIXES = _WORDS["prefixes"].split(), _WORDS["suffixes"].split()
DAYS, PARTS, HOURS = _WORDS["days"].split(), _WORDS["parts"].split(), _WORDS["hours"].split()
MINUTES = ("half past", "quarter past", "quarter to")
ZH_DAYS, ZH_PARTS = _WORDS["zh_days"].split(), _WORDS["zh_parts"].split()
ZH_HOURS, ZH_MINUTES = _WORDS["zh_hours"].split(), ("半", "一刻", "整")
ADJECTIVES, NOUNS = _WORDS["adjectives"].split(), _WORDS["nouns"].split()
OPENINGS, ENDINGS = _WORDS["openings"].split(), _WORDS["endings"].split()
HANZI, COMMON = _WORDS["hanzi"], _WORDS["common"].split()

TYPES = {"small": "integer", "large": "integer", "decimal": "number", "flag": "boolean"}
"""JSON Schema type by kind; every other kind is a string."""


def pick(rng: Random, options: Any) -> Any:
    """``rng.choice`` in a third of its time, which is where generation spends itself."""
    return options[int(rng.random() * len(options))]


def _between(rng: Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _name(rng: Random, zh: bool) -> str:
    if zh and rng.random() < 0.6:
        return pick(rng, HANZI[: len(HANZI) // 2]) + pick(rng, HANZI[len(HANZI) // 2 :])
    return pick(rng, HEADS) + pick(rng, TAILS)


def _phrase(rng: Random, zh: bool) -> str:
    return pick(rng, OPENINGS) + pick(rng, ENDINGS) if zh else f"{pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}"


def _code(rng: Random, zh: bool) -> str:
    return f"{pick(rng, PREFIXES)}-{pick(rng, SUFFIXES)}"


def _date(rng: Random, zh: bool) -> str:
    return pick(rng, ZH_DAYS) + pick(rng, ZH_PARTS) if zh else f"{pick(rng, DAYS)} {pick(rng, PARTS)}"


def _time(rng: Random, zh: bool) -> str:
    return pick(rng, ZH_HOURS) + pick(rng, ZH_MINUTES) if zh else f"{pick(rng, MINUTES)} {pick(rng, HOURS)}"


def _decimal(rng: Random, zh: bool) -> float:
    return _between(rng, 11, 99) / 10


MAKERS: dict[str, Callable[[Random, bool], Value]] = {
    "name": _name,
    "phrase": _phrase,
    "code": _code,
    "date": _date,
    "time": _time,
    "decimal": _decimal,
    "small": lambda rng, zh: _between(rng, 10, 99),
    "large": lambda rng, zh: 10 * _between(rng, 10, 99),
}


LISTS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "names": (("name",), 2, 3),
    "things": (("name", "phrase", "code"), 4, 10),
    "numbers": (("small", "large", "decimal"), 4, 10),
}
"""Kinds of lists: the kinds of their items, the fewest and the most of them."""


def held_out(value: Value) -> bool:
    """Whether a value belongs to the held-out splits; the same in every process and for every seed."""
    return zlib.crc32(json.dumps(value, ensure_ascii=False).encode()) % HELD_OUT == 0


def make(rng: Random, kind: Kind, zh: bool, training: bool) -> Value:
    """One value of a kind, from training's side of the partition or from the held-out one.

    Words of an enum and flags stand in the schema itself and cannot be parted: held-out conversations never use them.
    """
    if isinstance(kind, list):
        return pick(rng, kind)
    if kind == "flag":
        return True
    if kind in LISTS:
        kinds, fewest, most = LISTS[kind]
        return [make(rng, pick(rng, kinds), zh, training) for _ in range(_between(rng, fewest, most))]
    maker = MAKERS[kind]
    while True:
        value = maker(rng, zh)
        if held_out(value) != training:
            return value


def spoken(value: Value, kind: Kind, zh: bool) -> str:
    """A value as a question says it: names, codes and titles in quotation marks, the rest bare."""
    if isinstance(value, list):
        return ("、" if zh else ", ").join(spoken(v, "name" if isinstance(v, str) else "small", zh) for v in value)
    if kind in ("name", "phrase", "code"):
        return f"“{value}”" if zh else f'"{value}"'
    return str(value)


def schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of one argument."""
    if isinstance(kind, list):
        return {"type": "string", "enum": kind}
    if kind in LISTS:
        return {"type": "array", "items": {"type": "string"}}
    return {"type": TYPES.get(kind, "string")}
