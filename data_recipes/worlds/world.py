"""A simulated domain: tables of rows, methods that read and change them, and an error for each misuse.

A domain is a class with ``NAME``, ``TABLES``, ``fill`` and methods marked :func:`finds`, :func:`reads` or
:func:`changes`. Everything that a model sees of a method, in English and in Chinese, is derived from its signature,
its docstring ("English | 中文") and the kinds of its parameters.

Conventions that the planner relies on: a row's field that is named like a table holds an id of it, its other fields are
plain values; a finder's parameter ``<table>_id`` or ``<field>`` selects rows by that field; a method refuses before it
changes anything; ids of new rows follow from their content, so the order of independent calls does not matter.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter, signature
from random import Random
from typing import Any, ClassVar, Self, TypeVar, get_args, get_type_hints

from data_recipes.worlds import values
from data_recipes.worlds.kinds import Choice, Kind, Many, Ref

Row = dict[str, Any]
Result = dict[str, Any]
Marked = TypeVar("Marked", bound=Callable[..., Result])
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class WorldError(Exception):
    """A misuse, which the model reads as a result. ``remedy`` is the call that would remove the obstacle."""

    def __init__(self, text: str, remedy: tuple[str, dict[str, Any]] | None = None, unknown: bool = False) -> None:
        super().__init__(text)
        self.text, self.remedy, self.unknown = text, remedy, unknown


@dataclass(frozen=True)
class Table:
    """Rows of one sort. ``says`` is how a user speaks of one, with ``{field}``s; its words identify the row."""

    prefix: str
    en: str
    zh: str
    says: tuple[str, str]

    def label(self, zh: bool) -> str:
        return self.zh if zh else self.en

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields that a user's words name."""
        return tuple(re.findall(r"\{(\w+)\}", self.says[0]))


@dataclass(frozen=True)
class Param:
    name: str
    type: str
    kind: Kind
    required: bool

    @property
    def refs(self) -> Ref | None:
        """What its value, or each of its values, is the id of."""
        kind = self.kind.of if isinstance(self.kind, Many) else self.kind
        return kind if isinstance(kind, Ref) else None


@dataclass(frozen=True)
class Method:
    """One function of a world as it is offered, asked for and reported."""

    name: str
    doc: tuple[str, str]
    params: tuple[Param, ...]
    does: str
    """``finds``, ``reads`` or ``changes``."""
    table: str | None
    """What a finder finds."""
    ask: tuple[str, str] | None
    """How a user asks for it; None: never a goal of its own. Alternatives are separated by ``|``."""
    tell: tuple[str, str] | None
    sets: str | None
    """The parameter that a later call of the same method overwrites: what a user can correct."""

    @property
    def changes(self) -> bool:
        return self.does == "changes"

    @property
    def goal(self) -> bool:
        return self.ask is not None

    def param(self, name: str) -> Param:
        return next(p for p in self.params if p.name == name)


@dataclass(frozen=True)
class _Mark:
    does: str
    table: str | None = None
    ask: tuple[str, str] | None = None
    tell: tuple[str, str] | None = None
    sets: str | None = None


def _marking(mark: _Mark) -> Callable[[Marked], Marked]:
    def put(function: Marked) -> Marked:
        function.__dict__["mark"] = mark
        return function

    return put


def finds(
    table: str, ask: tuple[str, str] | None = None, tell: tuple[str, str] | None = None
) -> Callable[[Marked], Marked]:
    """Returns rows of a table with their ids."""
    return _marking(_Mark("finds", table, ask, tell))


def reads(ask: tuple[str, str], tell: tuple[str, str]) -> Callable[[Marked], Marked]:
    """Answers a question, changes nothing."""
    return _marking(_Mark("reads", None, ask, tell))


def changes(ask: tuple[str, str], tell: tuple[str, str], sets: str | None = None) -> Callable[[Marked], Marked]:
    """Changes the state."""
    return _marking(_Mark("changes", None, ask, tell, sets))


@dataclass
class Maker:
    """Draws the initial state of a world."""

    world: World
    rng: Random
    size: int
    used: set[str] = field(default_factory=set)

    def row(self, table: str, **fields: Any) -> str:
        """Add a row; returns its id."""
        prefix, rows = self.world.TABLES[table].prefix, self.world.state[table]
        while (id := f"{prefix}-{self.rng.randrange(1000, 10000)}") in rows:
            pass
        rows[id] = fields
        return id

    def many(self, low: int, high: int) -> range:
        """So many rows; ten times as many where results shall be bulky."""
        return range(self.rng.randint(low, high) * self.size)

    def words(self, pool: str) -> str:
        """A text that no other row has, as far as the pool reaches."""
        for _ in range(20):
            text = values.make(self.rng, pool, self.world.zh)
            if text not in self.used:
                break
        self.used.add(text)
        return text

    def some(self, choices: Collection[str], low: int, high: int) -> list[str]:
        return self.rng.sample(list(choices), min(len(choices), self.rng.randint(low, high)))

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def day(self) -> str:
        return values.day(self.rng)

    def time(self) -> str:
        return values.time(self.rng)

    def of(self, table: str) -> str:
        """The id of some row."""
        return self.rng.choice(list(self.world.state[table]))


class World:
    """See the module."""

    NAME: ClassVar[str]
    TABLES: ClassVar[Mapping[str, Table]]
    METHODS: ClassVar[Mapping[str, Method]]
    KINDS: ClassVar[Mapping[str, Kind]]

    def __init__(self, seed: int, zh: bool = False, size: int = 1) -> None:
        self.zh = zh
        self.state: dict[str, dict[str, Row]] = {table: {} for table in self.TABLES}
        self.fill(Maker(self, Random(f"{self.NAME}:{seed}:{zh}:{size}"), size))

    def __init_subclass__(cls) -> None:
        marked = {name: f for name, f in vars(cls).items() if "mark" in getattr(f, "__dict__", {})}
        cls.METHODS = {name: _method(function) for name, function in marked.items()}
        cls.KINDS = {p.name: p.kind for method in cls.METHODS.values() for p in method.params}

    def fill(self, new: Maker) -> None:
        """Make the initial state."""
        raise NotImplementedError

    def broken(self) -> Iterator[str]:
        """The domain's own invariants that do not hold."""
        return iter(())

    # What the planner, the replay and the tests use.

    def fork(self) -> Self:
        """An independent copy."""
        other = object.__new__(type(self))
        other.zh, other.state = self.zh, marshal.loads(marshal.dumps(self.state))
        return other

    def digest(self) -> str:
        """Equal for equal states."""
        text = json.dumps(self.state, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def call(self, name: str, arguments: Mapping[str, Any]) -> Result:
        """What a legal call returns.

        Raises:
            WorldError: a misuse; the state is as before.
        """
        result: Result = getattr(self, self.METHODS[name].name)(**arguments)
        return result

    def execute(self, name: str, arguments: Mapping[str, Any]) -> Result:
        """:meth:`call`, with a misuse as ``{"error": ...}``."""
        try:
            return self.call(name, arguments)
        except WorldError as error:
            return {"error": error.text}

    def violations(self) -> list[str]:
        """Ids that point nowhere, and :meth:`broken`."""
        dangling = [
            f"{table} {id}: {name} {value} does not exist"
            for table, rows in self.state.items()
            for id, row in rows.items()
            for name, value in row.items()
            if name in self.TABLES and value is not None and value not in self.state[name]
        ]
        return [*dangling, *self.broken()]

    def phrase(self, table: str, id: str, zh: bool) -> str:
        """How a user speaks of a row."""
        row, spec = self.state[table][id], self.TABLES[table]
        return spec.says[zh].format_map({name: self._word(name, row[name], zh) for name in spec.fields})

    def _word(self, name: str, value: Any, zh: bool) -> Any:
        """A field's value in words; that of a choice as its parameter would be said."""
        if name in self.TABLES and value is not None:
            return self.phrase(name, value, zh)
        kind = self.KINDS.get(name)
        return kind.options[value][zh] if isinstance(kind, Choice) else value

    # What the methods of a domain are written with.

    def get(self, table: str, id: str) -> Row:
        """A row, or the error that there is none."""
        if id not in self.state[table]:
            label = self.TABLES[table].label(self.zh)
            raise WorldError(f"没有编号为{id}的{label}。" if self.zh else f"There is no {label} {id}.", unknown=True)
        return self.state[table][id]

    def need(self, holds: bool, en: str, zh: str, remedy: tuple[str, dict[str, Any]] | None = None) -> None:
        """Refuse where a condition does not hold."""
        if not holds:
            raise WorldError(zh if self.zh else en, remedy)

    def found(self, table: str, **wanted: Any) -> Result:
        """The rows whose fields match: a table's id exactly, a text anywhere in it."""
        rows = [
            {f"{table}_id": id, **shown(row, self.TABLES)}
            for id, row in self.state[table].items()
            if all(_matches(row[name], value, name in self.TABLES) for name, value in wanted.items())
        ]
        return {plural(table): rows}

    def show(self, table: str, id: str) -> Result:
        """A row with its id."""
        return {f"{table}_id": id, **shown(self.get(table, id), self.TABLES)}

    def rows(self, table: str, **wanted: Any) -> list[tuple[str, Row]]:
        """Ids and rows whose fields equal what is wanted."""
        found = self.state[table].items()
        return [(id, row) for id, row in found if all(row[name] == value for name, value in wanted.items())]

    def made(self, table: str, **fields: Any) -> Result:
        """Add a row and show it."""
        text = json.dumps([table, fields], sort_keys=True, ensure_ascii=False)
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
        while (id := f"{self.TABLES[table].prefix}-{1000 + number % 9000}") in self.state[table]:
            number += 1
        self.state[table][id] = fields
        return self.show(table, id)


def plural(table: str) -> str:
    """The key under which a finder lists rows."""
    if table.endswith("y") and table[-2] not in "aeiou":
        return f"{table[:-1]}ies"
    return f"{table}es" if table.endswith(("ch", "sh", "x", "s")) else f"{table}s"


def shown(row: Row, tables: Collection[str]) -> Row:
    """A row as results show it: ids under the name that parameters have."""
    return {f"{name}_id" if name in tables else name: value for name, value in row.items()}


def _matches(value: Any, wanted: Any, exact: bool) -> bool:
    if exact or not isinstance(value, str):
        return bool(value == wanted)
    return str(wanted).casefold() in value.casefold()


def _method(function: Callable[..., Result]) -> Method:
    mark: _Mark = function.__dict__["mark"]
    hints = get_type_hints(function, include_extras=True)
    params = tuple(
        _param(name, hints[name], parameter)
        for name, parameter in signature(function).parameters.items()
        if name != "self"
    )
    en, _, zh = (function.__doc__ or "").partition(" | ")
    return Method(
        function.__name__, (en.strip(), zh.strip()), params, mark.does, mark.table, mark.ask, mark.tell, mark.sets
    )


def _param(name: str, hint: Any, parameter: Parameter) -> Param:
    bare, kind = get_args(hint)
    type_ = "array" if isinstance(kind, Many) else JSON_TYPES[bare]
    return Param(name, type_, kind, parameter.default is Parameter.empty)


def offer(world: type[World], name: str, zh: bool) -> dict[str, Any]:
    """A method as a tool in OpenAI's form."""
    method = world.METHODS[name]
    parameters = {
        "type": "object",
        "properties": {p.name: _schema(p, zh) for p in method.params},
        "required": [p.name for p in method.params if p.required],
    }
    return {"type": "function", "function": {"name": name, "description": method.doc[zh], "parameters": parameters}}


def _schema(param: Param, zh: bool) -> dict[str, Any]:
    kind = param.kind
    inner = kind.of if isinstance(kind, Many) else kind
    label = inner.label(zh)
    named = f"{label}的编号" if zh else f"id of the {label}"
    text = named if isinstance(inner, Ref) else f"{label}{inner.hint(zh)}"
    if isinstance(kind, Many):
        text = f"一个或多个：{text}" if zh else f"one or more: {text}"
    described: dict[str, Any] = {
        "type": param.type,
        "description": f"{text}。" if zh else f"{text[:1].upper()}{text[1:]}.",
    }
    if isinstance(kind, Many):
        described["items"] = {"type": "string", **inner.schema()}
    return {**described, **kind.schema()}
