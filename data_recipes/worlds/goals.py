"""Goals and the calls that reach them: what a user could want in a state, and how the ids that it takes are found."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from data_recipes.worlds.blueprint import Call
from data_recipes.worlds.kinds import Many
from data_recipes.worlds.world import Method, Param, Result, World, WorldError, plural

TRIES, MAX_CALLS, DEPTH = 30, 8, 4


class Stuck(Exception):
    """No way on from here; the caller draws again."""


@dataclass(frozen=True)
class Goal:
    """A call that a user could ask for, with what it gives or why it is refused."""

    method: Method
    arguments: Mapping[str, Any]
    result: Result
    error: WorldError | None = None

    @property
    def call(self) -> Call:
        return Call(self.method.name, self.arguments)

    def ids(self) -> Iterator[tuple[str, str]]:
        """(table, id) of everything that its arguments refer to."""
        for param in self.method.params:
            value, refs = self.arguments.get(param.name), param.refs
            if refs is not None and value is not None:
                yield from ((refs.table, id) for id in (value if isinstance(value, list) else [value]))


def draw(
    world: World,
    rng: Random,
    recent: Sequence[str],
    methods: Sequence[Method],
    *,
    fails: bool = False,
    given: Mapping[str, Any] | None = None,
) -> Goal:
    """A goal that holds in ``world``, which is then in the state after it; or one that is refused for a good reason.

    Args:
        world: changed where the goal changes it.
        rng: decides.
        recent: ids that users like to come back to.
        methods: what may be asked for.
        fails: want a refusal (not of an unknown id); nothing changes then.
        given: arguments that are fixed.

    Raises:
        Stuck: none found in a bounded number of tries.
    """
    for _ in range(TRIES if methods else 0):
        method = methods[int(rng.random() * len(methods))]
        arguments = _arguments(world, method, rng, recent)
        if arguments is None:
            continue
        if given is not None:
            arguments = {**{n: v for n, v in arguments.items() if method.param(n).required}, **given}
        trial = world.fork() if method.changes else world
        try:
            result = trial.call(method.name, arguments)
        except WorldError as error:
            if fails and not error.unknown:
                return Goal(method, arguments, {"error": error.text}, error)
            continue
        if fails or (method.changes and trial.state == world.state):
            continue
        world.state = trial.state
        return Goal(method, arguments, result)
    raise Stuck


def _arguments(world: World, method: Method, rng: Random, recent: Sequence[str]) -> dict[str, Any] | None:
    """Arguments that make sense; those of a finder are taken from one of the rows that it would find."""
    chosen: dict[str, Any] = {}
    row: Mapping[str, Any] = {}
    if method.table is not None:
        rows = world.state[method.table]
        if not rows:
            return None
        row = rows[rng.choice(list(rows))]
    for param in method.params:
        if not param.required and rng.random() < 0.65:
            continue
        if method.table is not None:
            chosen[param.name] = row[column(param)]
        elif param.refs is not None:
            ids = world.state[param.refs.table]
            known = [id for id in recent if id in ids] if rng.random() < 0.4 else []
            if not ids:
                return None
            some = [
                rng.choice(known or list(ids)) for _ in range(rng.randint(2, 3) if isinstance(param.kind, Many) else 1)
            ]
            chosen[param.name] = list(dict.fromkeys(some)) if isinstance(param.kind, Many) else some[0]
        else:
            chosen[param.name] = param.kind.draw(rng, world.zh)
    return chosen


def column(param: Param) -> str:
    """The field of a row that a finder's parameter selects by."""
    return param.name.removesuffix("_id") if param.refs is not None else param.name


class Plan:
    """The calls of one turn in levels: those of a level need nothing from each other and are made at once."""

    def __init__(self, world: World, known: Mapping[str, str], rng: Random) -> None:
        self.world, self.rng = world, rng
        self.finders: list[list[Call]] = []
        self.goals: list[list[Goal]] = []
        self._ready = dict.fromkeys(known, 0)
        self._found: set[str] = set()

    def add(self, goal: Goal, not_before: int = 0) -> int:
        """Place a goal and whatever finds its ids; returns the level behind it.

        Raises:
            Stuck: an id that cannot be found, too many calls, or one that would be made twice.
        """
        level = max([not_before, *(self._locate(table, id) for table, id in goal.ids())])
        self._grow(level)
        self.goals[level].append(goal)
        asked = {g.call.key for some in self.goals for g in some}
        if self.calls > MAX_CALLS or asked & self._found:
            raise Stuck
        return level + 1

    @property
    def calls(self) -> int:
        return sum(map(len, self.finders)) + sum(map(len, self.goals))

    def new(self, id: str, level: int) -> None:
        """An id that exists from a level on."""
        self._ready[id] = level

    def _grow(self, level: int) -> None:
        while len(self.goals) <= level:
            self.goals.append([])
            self.finders.append([])

    def _locate(self, table: str, id: str, depth: int = 0) -> int:
        """The first level at which an id is known, with the calls that find it."""
        if id in self._ready:
            return self._ready[id]
        finders = [m for m in self.world.METHODS.values() if m.table == table]
        if depth == DEPTH or not finders or id not in self.world.state[table]:
            raise Stuck
        finder, row, level = self.rng.choice(finders), self.world.state[table][id], 0
        for param in finder.params:
            if param.refs is not None:
                level = max(level, self._locate(param.refs.table, row[column(param)], depth + 1))
        call = Call(finder.name, {p.name: row[column(p)] for p in finder.params if p.required})
        ids = [r[f"{table}_id"] for r in self.world.call(call.name, call.arguments)[plural(table)]]
        seen = [visible(self.world, table, other, self._ready) for other in ids]
        told = [other for other, words in zip(ids, seen, strict=True) if seen.count(words) == 1]
        if id not in told:
            raise Stuck  # the user's words fit several of the rows that are found
        self._grow(level)
        if call.key not in self._found:
            self._found.add(call.key)
            self.finders[level].append(call)
        for other in told:
            self._ready.setdefault(other, level + 1)
        return self._ready[id]


def visible(world: World, table: str, id: str, known: Container[str]) -> list[Any]:
    """What the user's words tell of a row, as far as it can be seen: the id of something unknown says nothing."""
    row, tables = world.state[table][id], world.TABLES
    return [row[f] for f in tables[table].fields if f not in tables or row[f] in known]


def independent(world: World, first: Goal, second: Goal) -> bool:
    """Whether two goals give the same in either order."""
    there, back = world.fork(), world.fork()
    one = [there.execute(g.method.name, g.arguments) for g in (first, second)]
    two = [back.execute(g.method.name, g.arguments) for g in (second, first)]
    return one == two[::-1] and there.state == back.state
