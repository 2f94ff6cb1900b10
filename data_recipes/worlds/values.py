"""Invented values: names, titles, notes, days, put together from ``words.yaml`` in English and Chinese."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from random import Random

import yaml

FIRST_DAY, DAYS = date(2031, 1, 6), 720
"""Days lie in a future that no training text knows, so that a model must copy them."""


def _load() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    table = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))

    def split(text: str) -> tuple[str, ...]:
        return tuple(text.split("|") if "|" in text else text.split())

    return {name: (split(both["en"]), split(both["zh"])) for name, both in table.items()}


WORDS = _load()


def word(rng: Random, pool: str, zh: bool) -> str:
    """One entry of a list."""
    choices = WORDS[pool][zh]
    return choices[int(rng.random() * len(choices))]


def _person(rng: Random, zh: bool) -> str:
    return f"{word(rng, 'first', zh)}{'' if zh else ' '}{word(rng, 'last', zh)}"


def _title(rng: Random, zh: bool) -> str:
    first, second = word(rng, "adjective", zh), word(rng, "noun", zh)
    if zh:
        return f"{first}的{second}"
    return rng.choice((f"The {first.title()} {second.title()}", f"{first.title()} {second.title()}"))


def _note(rng: Random, zh: bool) -> str:
    verb, thing, when = (word(rng, pool, zh) for pool in ("verb", "object", "when"))
    return f"{when}{verb}{thing}" if zh else f"{verb} {thing} {when}"


def _task(rng: Random, zh: bool) -> str:
    return f"{word(rng, 'verb', zh)}{'' if zh else ' '}{word(rng, 'object', zh)}"


def _product(rng: Random, zh: bool) -> str:
    return f"{word(rng, 'material', zh)}{'' if zh else ' '}{word(rng, 'thing', zh)}"


def _place(rng: Random, zh: bool) -> str:
    tree = word(rng, "tree", zh)
    return (
        f"{tree}{rng.choice(('厅', '阁', '轩', '苑'))}"
        if zh
        else f"{tree} {rng.choice(('Hall', 'House', 'Court', 'Wing'))}"
    )


def _slug(rng: Random, zh: bool) -> str:
    return f"{word(rng, 'adjective', False)}-{word(rng, 'noun', False)}"


def _team(rng: Random, zh: bool) -> str:
    return f"{word(rng, 'town', zh)}{'' if zh else ' '}{word(rng, 'noun', zh).title()}"


MAKERS: dict[str, Callable[[Random, bool], str]] = {
    "person": _person,
    "title": _title,
    "note": _note,
    "task": _task,
    "product": _product,
    "place": _place,
    "slug": _slug,
    "team": _team,
    "town": lambda rng, zh: word(rng, "town", zh),
    "tag": lambda rng, zh: word(rng, "tag", zh),
}
"""What a text can be made of."""


def make(rng: Random, pool: str, zh: bool) -> str:
    """A text of one of :data:`MAKERS`."""
    return MAKERS[pool](rng, zh)


def day(rng: Random) -> str:
    """A day as YYYY-MM-DD."""
    return (FIRST_DAY + timedelta(days=int(rng.random() * DAYS))).isoformat()


def time(rng: Random) -> str:
    """A time of day as HH:MM, on the quarter."""
    return f"{rng.randrange(7, 22):02d}:{rng.choice(('00', '15', '30', '45'))}"
