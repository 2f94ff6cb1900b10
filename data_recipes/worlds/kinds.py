"""What a parameter means: how a value of it is drawn, said, found again in what was said, and described to a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from random import Random
from typing import Any

from data_recipes.worlds import values

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


@dataclass(frozen=True)
class Kind:
    """``en`` and ``zh`` are what the parameter is called in a sentence ("due day", "到期日")."""

    en: str
    zh: str

    def label(self, zh: bool) -> str:
        return self.zh if zh else self.en

    def draw(self, rng: Random, zh: bool) -> Any:
        """A value that a user could want."""
        raise NotImplementedError

    def say(self, value: Any, zh: bool, rng: Random) -> str:
        """The value in words."""
        return str(value)

    def spellings(self, value: Any) -> Iterator[str]:
        """Everything that :meth:`say` may say, in both languages."""
        yield str(value)

    def hint(self, zh: bool) -> str:
        """How the value is written, for the description."""
        return ""

    def schema(self) -> dict[str, Any]:
        """JSON Schema keywords beside type and description."""
        return {}


@dataclass(frozen=True)
class Ref(Kind):
    """The id of a row of ``table``."""

    table: str


@dataclass(frozen=True)
class Words(Kind):
    """A free text from one of the pools of values.py."""

    pool: str

    def draw(self, rng: Random, zh: bool) -> str:
        return values.make(rng, self.pool, zh)

    def say(self, value: Any, zh: bool, rng: Random) -> str:
        if self.pool in ("person", "place", "town"):
            return str(value)
        return f"“{value}”" if zh or rng.random() < 0.3 else f'"{value}"'


@dataclass(frozen=True)
class Amount(Kind):
    """A whole number, or a decimal one where ``step`` is."""

    low: float
    high: float
    step: float = 1

    def draw(self, rng: Random, zh: bool) -> float:
        value = self.low + self.step * rng.randrange(round((self.high - self.low) / self.step) + 1)
        return value if isinstance(self.step, float) else int(value)

    def say(self, value: Any, zh: bool, rng: Random) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    def spellings(self, value: Any) -> Iterator[str]:
        yield f"{value:g}" if isinstance(value, float) else str(value)

    def schema(self) -> dict[str, Any]:
        return {"minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Day(Kind):
    """A day, YYYY-MM-DD."""

    def draw(self, rng: Random, zh: bool) -> str:
        return values.day(rng)

    def say(self, value: Any, zh: bool, rng: Random) -> str:
        ways = _days(value)
        return ways[0] if rng.random() < 0.3 else ways[3] if zh else ways[1 + (rng.random() < 0.5)]

    def spellings(self, value: Any) -> Iterator[str]:
        yield from _days(value)

    def hint(self, zh: bool) -> str:
        return "，格式为YYYY-MM-DD" if zh else ", written YYYY-MM-DD"


@lru_cache(maxsize=4096)
def _days(value: str) -> tuple[str, ...]:
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return (value,)
    month = MONTHS[day.month - 1]
    return (
        value,
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{day.year}年{day.month}月{day.day}日",
    )


@dataclass(frozen=True)
class Time(Kind):
    """A time of day, HH:MM."""

    def draw(self, rng: Random, zh: bool) -> str:
        return values.time(rng)

    def say(self, value: Any, zh: bool, rng: Random) -> str:
        ways = tuple(self.spellings(value))
        return ways[0] if rng.random() < 0.5 or len(ways) == 1 else ways[2] if zh else ways[1]

    def spellings(self, value: Any) -> Iterator[str]:
        yield value
        hour, colon, minute = value.partition(":")
        if colon and hour.isdigit():
            yield f"{(int(hour) - 1) % 12 + 1}:{minute} {'pm' if int(hour) >= 12 else 'am'}"
            yield f"{int(hour)}点{minute}分"

    def hint(self, zh: bool) -> str:
        return "，格式为HH:MM" if zh else ", written HH:MM"


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words; ``options`` maps each to how it is said in English and Chinese."""

    options: Mapping[str, tuple[str, str]]

    def __hash__(self) -> int:
        return hash((self.en, self.zh))

    def draw(self, rng: Random, zh: bool) -> str:
        return rng.choice(list(self.options))

    def say(self, value: Any, zh: bool, rng: Random) -> str:
        return self.options[value][zh]

    def spellings(self, value: Any) -> Iterator[str]:
        yield from self.options.get(value, ())
        yield str(value)

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.options)}


@dataclass(frozen=True)
class Flag(Kind):
    """Yes or no; ``yes`` and ``no`` are how each is said in English and Chinese."""

    yes: tuple[str, str]
    no: tuple[str, str]

    def draw(self, rng: Random, zh: bool) -> bool:
        return rng.random() < 0.5

    def say(self, value: Any, zh: bool, rng: Random) -> str:
        return (self.yes if value else self.no)[zh]

    def spellings(self, value: Any) -> Iterator[str]:
        yield from self.yes if value is True else self.no if value is False else ()


@dataclass(frozen=True)
class Many(Kind):
    """A list of two or three values of one kind."""

    of: Kind

    def draw(self, rng: Random, zh: bool) -> list[Any]:
        return list(dict.fromkeys(self.of.draw(rng, zh) for _ in range(rng.randint(2, 3))))

    def say(self, value: Any, zh: bool, rng: Random) -> str:
        return listed([self.of.say(part, zh, rng) for part in value], zh)

    def schema(self) -> dict[str, Any]:
        return {"minItems": 1}


def listed(parts: list[str], zh: bool) -> str:
    """a, b and c."""
    if len(parts) < 2:
        return "".join(parts) or ("无" if zh else "none")
    return f"{'、'.join(parts[:-1])}和{parts[-1]}" if zh else f"{', '.join(parts[:-1])} and {parts[-1]}"
