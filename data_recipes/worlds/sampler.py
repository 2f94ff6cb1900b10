"""Writes trajectories: walks a world's states from goal to goal, one hard turn of the asked kind among easy ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

from data_recipes.worlds import wording as w
from data_recipes.worlds.blueprint import Call, Trajectory, Turn, TurnKind, objects
from data_recipes.worlds.goals import MAX_CALLS, Goal, Plan, Stuck, draw, independent, visible
from data_recipes.worlds.replay import rows_of
from data_recipes.worlds.world import Method, Param, World
from octupus.wire.messages import Message, ToolCall, canonical_json

Kind = Literal["base", "miss_func", "miss_param", "irrelevance", "error", "long", "correction", "no_call"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ATTEMPTS = 60
BULK = 6
"""How many times as many rows a long trajectory's world has."""


@dataclass
class _Draft:
    """A turn before it is known what is on offer."""

    kind: TurnKind
    user: str
    messages: tuple[Message, ...]
    needed: tuple[Call, ...]
    results: tuple[str, ...]
    changes: int
    state: str


@dataclass
class _Request:
    """A user's turn that is thought out but not carried out."""

    goals: list[Goal]
    plan: Plan
    say: dict[str, str]
    then: list[bool]
    """Which goals, from the second on, wait for the one before."""


def sample(
    world: type[World], kind: Kind, seed: str, worlds: Mapping[str, type[World]], easy: bool = False
) -> Trajectory:
    """One trajectory; the same for the same arguments.

    Args:
        world: where it happens.
        kind: what is hard about it.
        seed: anything.
        worlds: where tools of other worlds may come from.
        easy: one or two turns of one or two calls, and few tools.

    Raises:
        Stuck: none found in a bounded number of attempts.
    """
    rng = Random(f"{world.NAME}:{kind}:{seed}")
    for _ in range(ATTEMPTS):
        try:
            return _Writer(world, kind, rng, worlds, easy).write()
        except Stuck:
            continue
    raise Stuck(f"{world.NAME}: no trajectory of kind {kind} for seed {seed}")


def _names(result: Mapping[str, Any], row: Mapping[str, Any], table: str, world: World) -> bool:
    """Whether a row shows everything that a user's words name."""
    fields = world.TABLES[table].fields
    return row is not result or all(f in row or f"{f}_id" in row for f in fields)


class _Writer:
    def __init__(
        self, world: type[World], kind: Kind, rng: Random, worlds: Mapping[str, type[World]], easy: bool
    ) -> None:
        self.kind, self.rng, self.worlds, self.easy = kind, rng, worlds, easy
        self.zh = rng.random() < 0.4
        self.seed, self.size = rng.randrange(1 << 30), BULK if kind == "long" else 1
        self.world = world(self.seed, self.zh, self.size)
        self.speaker = w.Speaker(self.zh, rng)
        self.known: dict[str, str] = {}
        self.by_id: set[str] = set()
        """What the user named by its id alone: nobody can say more of it."""
        self.turns: list[_Draft] = []
        self.calls = 0
        self.withheld: str | None = None
        """A method that is not on offer before turn ``joins``."""
        self.joins = 0
        self.goals = [m for m in world.METHODS.values() if m.goal]
        self.prefixes = {f"{table.prefix}-": name for name, table in world.TABLES.items()}

    def write(self) -> Trajectory:
        getattr(self, f"_{self.kind}")()
        if len(self.turns) > 8:
            raise Stuck
        names = self._offered()
        turns = tuple(
            Turn(d.kind, d.user, self._at(names, number), d.needed, d.results, d.changes, d.state, d.messages)
            for number, d in enumerate(self.turns)
        )
        tools_zh = self.zh and self.rng.random() < 0.7
        own = type(self.world)
        return Trajectory(own, self.seed, self.zh, self.size, tools_zh, self.kind, turns, self.worlds)

    def _at(self, names: Sequence[str], number: int) -> tuple[str, ...]:
        """What is on offer in a turn; a tool that joins comes last."""
        if self.withheld is None:
            return tuple(names)
        return (*(n for n in names if n != self.withheld), *([self.withheld] if number >= self.joins else []))

    def _offered(self) -> list[str]:
        """Everything that is called, others of the same world (sometimes all), and now and then strangers."""
        rng, called = self.rng, {call.name for d in self.turns for m in d.messages for call in m.tool_calls}
        if self.withheld is not None:
            called.add(self.withheld)
        others = [name for name in self.world.METHODS if name not in called]
        count = rng.randint(0 if len(called) > 1 else 1, 2) if self.easy else rng.choice((1, 3, 5, len(others)))
        names = [*sorted(called), *rng.sample(others, min(len(others), count))]
        if rng.random() < (0.1 if self.easy else 0.3):
            stranger = rng.choice([n for n in self.worlds if n != self.world.NAME])
            methods = [m for m in self.worlds[stranger].METHODS if m not in self.world.METHODS]
            names += [f"{stranger}.{m}" for m in rng.sample(methods, rng.randint(1, 4))]
        return rng.sample(names, len(names))

    # Turns.

    def _think(self, count: int, methods: Sequence[Method] | None = None) -> _Request:
        """Goals that hold now, the calls for them, and the words for their ids."""
        methods = [m for m in (methods or self.goals) if m.name != self.withheld]
        request = _Request([], Plan(self.world, self.known, self.rng), {}, [])
        fork, level = self.world.fork(), 0
        for _ in range(count):
            goal = draw(fork, self.rng, list(self.known), methods)
            waits = self._waits(request.goals, goal)
            request.then += [waits] if request.goals else []
            level = self._place(request, goal, level if waits else 0)
        return request

    def _waits(self, before: Sequence[Goal], goal: Goal) -> bool:
        """Whether a goal needs what the last one made; one that needs more than that is not asked for."""
        needs = [self._needs(before[:i], other, goal) for i, other in enumerate(before)]
        if any(needs[:-1]) or any(other.call.key == goal.call.key for other in before):
            raise Stuck
        return bool(needs) and needs[-1]

    def _needs(self, before: Sequence[Goal], other: Goal, goal: Goal) -> bool:
        world = self.world.fork()
        for earlier in before:
            world.execute(earlier.method.name, earlier.arguments)
        return not independent(world, other, goal)

    def _place(self, request: _Request, goal: Goal, not_before: int = 0) -> int:
        """Add a goal to a request; returns the level behind it."""
        own = self.world.state
        for table, id in goal.ids():
            if id not in request.say:
                request.say[id] = self._words(table, id)
            if id in self.known:
                request.plan.new(id, 0)
        level = request.plan.add(goal, not_before)
        for table in own:
            made = goal.result.get(f"{table}_id")
            if isinstance(made, str) and made not in own[table]:
                request.plan.new(made, level)
        request.goals.append(goal)
        return level

    def _words(self, table: str, id: str) -> str:
        """How the user speaks of a row: by its id, by what identifies it, or as new where this turn makes it."""
        label = self.world.TABLES[table].label(self.zh)
        if id not in self.world.state[table]:
            return w.NEW[self.zh].format(label)
        if id in self.by_id or self.rng.random() < (0.25 if id in self.known else 0.1):
            if id not in self.known:
                self.known[id] = table
                self.by_id.add(id)
            return f"{label}{id}" if self.zh else f"{label} {id}"
        return self.world.phrase(table, id, self.zh)

    def _wishes(self, request: _Request, instead: Mapping[str, str] = w.NOTHING) -> str:
        wishes = [self.speaker.wish(self.world, goal, request.say, instead) for goal in request.goals]
        return self.speaker.request(wishes, request.then)

    def _carry_out(self, request: _Request) -> list[Message]:
        """The calls level by level, executed."""
        if self.easy and request.plan.calls > 2:
            raise Stuck
        messages: list[Message] = []
        for finders, goals in zip(request.plan.finders, request.plan.goals, strict=True):
            messages += self._execute([*finders, *(goal.call for goal in goals)])
        return messages

    def _execute(self, calls: Sequence[Call]) -> list[Message]:
        if not calls:
            raise Stuck
        named = [(f"call_{self.calls + i}", call) for i, call in enumerate(calls)]
        self.calls += len(calls)
        made = tuple(ToolCall(name=c.name, arguments=dict(c.arguments), id=id) for id, c in named)
        messages = [Message(role="assistant", tool_calls=made)]
        for id, call in named:
            result = self.world.execute(call.name, call.arguments)
            self._learn(result)
            messages.append(Message(role="tool", content=canonical_json(result), tool_call_id=id))
        return messages

    def _learn(self, result: Mapping[str, Any]) -> None:
        """Remember the rows that a result shows, the newest last: those that a user's words tell from the others."""
        for rows in rows_of(result):
            found = [(id, self.prefixes[id[:3]]) for id in rows if id[:3] in self.prefixes]
            seen = [visible(self.world, table, id, self.known) for id, table in found if id in self.world.state[table]]
            if len(seen) < len(found):
                continue  # a row that the call has deleted
            for (id, table), words in zip(found, seen, strict=True):
                if seen.count(words) == 1 and (len(found) > 1 or _names(result, rows[id], table, self.world)):
                    self.known.pop(id, None)
                    self.known[id] = table
                    self.by_id.discard(id)

    def _add(
        self, kind: TurnKind, user: str, messages: Sequence[Message], answer: str, needed: Sequence[Call] = ()
    ) -> None:
        if sum(len(m.tool_calls) for m in messages) > MAX_CALLS:
            raise Stuck
        changing = {m.name for m in self.world.METHODS.values() if m.changes}
        changes = sum(call.name in changing for m in messages for call in m.tool_calls)
        said = (*messages, Message(role="assistant", content=answer))
        results = {m.tool_call_id: m.content for m in messages if m.role == "tool"}
        given = {Call(c.name, objects(c.arguments)).key: results[c.id] for m in messages for c in m.tool_calls}
        found = tuple(given[call.key] for call in needed)
        self.turns.append(_Draft(kind, user, said, tuple(needed), found, changes, self.world.digest()))

    def _goal_turn(self, methods: Sequence[Method] | None = None, count: int | None = None) -> _Request:
        count = count or (1 if self.easy else self.rng.choice((1, 1, 1, 2, 2, 3)))
        request = self._think(count, methods)
        user = self._wishes(request)
        self._reach(request, user)
        return request

    def _reach(self, request: _Request, user: str) -> None:
        """The turn that carries a request out."""
        messages = self._carry_out(request)
        report = self.speaker.report(request.goals, request.say)
        self._add("goal", user, messages, report, [goal.call for goal in request.goals])

    def _some(self, low: int, high: int) -> None:
        for _ in range(self.rng.randint(low, high)):
            self._goal_turn()

    # Kinds.

    def _base(self) -> None:
        self._some(1, 2 if self.easy else self.rng.choice((2, 3, 4, 6, 8)))

    def _long(self) -> None:
        listing = [m for m in self.goals if m.does == "finds"]
        self._goal_turn(listing or None, 1)
        self._some(1, 3)

    def _no_call(self) -> None:
        self._some(1, 1 if self.easy else 2)
        if self.rng.random() < 0.5:
            self._recall()
        else:
            self._add("talk", self.speaker.pick(w.THANKS), (), self.speaker.pick(w.WELCOME))
        self._some(0, 0 if self.easy else 2)

    def _recall(self) -> None:
        """A question that earlier results answer."""
        rows = [(t, id) for id, t in self.known.items() if id in self.world.state[t] and id not in self.by_id]
        if not rows:
            raise Stuck
        table, id = self.rng.choice(rows)
        words = self.world.phrase(table, id, self.zh)
        if sum(self.world.phrase(table, other, self.zh) == words for other in self.world.state[table]) > 1:
            raise Stuck
        answer = w.sentence(self.speaker.pick(w.RECALLED).format(words, id))
        self._add("talk", self.speaker.pick(w.RECALL).format(words), (), answer)

    def _refuse(self) -> _Request:
        """A wish whose function is not on offer, and the answer that says so."""
        used = {call.name for draft in self.turns for m in draft.messages for call in m.tool_calls}
        request = self._think(1, [m for m in self.goals if m.name not in used and m.does != "finds"])
        self.withheld = request.goals[0].method.name
        self._add("refuse", self._wishes(request), (), self.speaker.pick(w.REFUSALS))
        return request

    def _irrelevance(self) -> None:
        if not self.easy and self.rng.random() < 0.45:
            self._some(1, 2)
        self._refuse()
        self.joins = len(self.turns)

    def _miss_func(self) -> None:
        self._some(0, 0 if self.easy else 2)
        request = self._refuse()
        name, self.withheld, self.joins = self.withheld, None, len(self.turns)
        self._reach(request, self.speaker.pick(w.JOINED))
        self._some(0, 0 if self.easy else 1)
        self.withheld = name

    def _miss_param(self) -> None:
        self._some(0, 0 if self.easy else 2)
        request = self._think(1)
        param = self._open(request.goals[0])
        label = self.speaker.label(param, self.world)
        user = self._wishes(request, {param.name: self.speaker.pick(w.VAGUE).format(label)})
        self._add("ask", user, (), w.sentence(self.speaker.pick(w.WHICH).format(label)))
        value = self.speaker.value(param, request.goals[0].arguments[param.name], request.say)
        self._reach(request, w.sentence(self.speaker.pick(w.GIVEN).format(value, label)))
        self._some(0, 0 if self.easy else 1)

    def _open(self, goal: Goal) -> Param:
        params = w.open_params(goal)
        if not params:
            raise Stuck
        return self.rng.choice(params)

    def _error(self) -> None:
        self._some(0, 0 if self.easy else 1)
        request = _Request([], Plan(self.world, self.known, self.rng), {}, [])
        changing = [m for m in self.goals if m.changes]
        goal = draw(self.world, self.rng, list(self.known), changing, fails=True)
        assert goal.error is not None
        self._place(request, goal)
        user, messages = self._wishes(request), self._carry_out(request)
        if goal.error.remedy is None:
            self._add("error", user, messages, self.speaker.report([goal], request.say), [goal.call])
            self._goal_turn([goal.method], 1)
            return
        messages += self._execute([Call(*goal.error.remedy)])
        messages += self._execute([goal.call])
        result = json.loads(messages[-1].content)
        if "error" in result:
            raise Stuck
        reached = Goal(goal.method, goal.arguments, result)
        user += f"{'' if self.zh else ' '}{self.speaker.pick(w.WHATEVER)}"
        self._add("goal", user, messages, self.speaker.report([reached], request.say), [goal.call])
        self._some(0, 0 if self.easy else 1)

    def _correction(self) -> None:
        if self.rng.random() < 0.5:
            return self._slip()
        request = self._goal_turn([m for m in self.goals if m.sets], 1)
        goal = request.goals[0]
        param = goal.method.param(str(goal.method.sets))
        fork = self.world.fork()
        corrected = draw(
            fork, self.rng, (), [goal.method], given={k: v for k, v in goal.arguments.items() if k != param.name}
        )
        again = _Request([], Plan(self.world, self.known, self.rng), {}, [])
        self._place(again, corrected)
        value = self.speaker.value(param, corrected.arguments[param.name], again.say)
        label = self.speaker.label(param, self.world)
        self._reach(again, w.sentence(self.speaker.pick(w.INSTEAD).format(label, value)))
        self._some(0, 0 if self.easy else 1)

    def _slip(self) -> None:
        """A value that the user takes back in the same breath."""
        self._some(0, 0 if self.easy else 1)
        request = self._think(1)
        goal = request.goals[0]
        param = self._open(goal)
        if param.refs is not None:
            raise Stuck
        wrong = param.kind.draw(self.rng, self.zh)
        right = goal.arguments[param.name]
        if wrong == right:
            raise Stuck
        both = (self.speaker.value(param, value, request.say) for value in (wrong, right))
        user = self._wishes(request, {param.name: self.speaker.pick(w.SLIP).format(*both)})
        self._reach(request, user)
        self._some(0, 0 if self.easy else 1)
