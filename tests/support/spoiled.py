"""Trajectories with one thing wrong; results are those of executing the spoiled calls, so only sense betrays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from data_recipes.worlds.blueprint import Call, Trajectory, objects
from data_recipes.worlds.goals import Stuck, draw
from data_recipes.worlds.kinds import Kind, Many, Ref
from data_recipes.worlds.replay import Replay, judge
from octupus.wire.messages import Message, ToolCall

Turns = list[list[list[Call]]]
"""Turn by turn, message by message, the calls."""


def calls_of(trajectory: Trajectory) -> Turns:
    return [
        [[Call(c.name, objects(c.arguments)) for c in m.tool_calls] for m in turn.messages if m.tool_calls]
        for turn in trajectory.turns
    ]


def retold(trajectory: Trajectory, turns: Turns) -> list[Message]:
    """The conversation with other calls, executed."""
    replay, messages, count = Replay(trajectory), list[Message](), 0
    for turn, steps in zip(trajectory.turns, turns, strict=True):
        replay.begin(turn, turn.user)
        messages.append(Message(role="user", content=turn.user))
        for step in filter(None, steps):
            ids = [f"call_{count + i}" for i in range(len(step))]
            count += len(step)
            made = [ToolCall(name=c.name, arguments=dict(c.arguments), id=id) for c, id in zip(step, ids, strict=True)]
            messages.append(Message(role="assistant", tool_calls=tuple(made)))
            results = replay.act(step)
            messages += [Message(role="tool", content=r, tool_call_id=id) for r, id in zip(results, ids, strict=True)]
        messages.append(turn.messages[-1])
    return messages


def _place(turns: Turns, rng: Random) -> tuple[list[Call], int] | None:
    places = [(step, i) for steps in turns for step in steps for i in range(len(step))]
    return rng.choice(places) if places else None


def _changed(trajectory: Trajectory, turns: Turns, rng: Random, value: Callable[[Kind, Any], Any]) -> bool:
    """Replace one argument (or one part of a list)."""
    place = _place(turns, rng)
    if place is None or not place[0][place[1]].arguments:
        return False
    step, at = place
    call = step[at]
    name = rng.choice(list(call.arguments))
    kind, old = trajectory.world.METHODS[call.name].param(name).kind, call.arguments[name]
    new = [value(kind.of, old[0]), *old[1:]] if isinstance(kind, Many) else value(kind, old)
    step[at] = Call(call.name, {**call.arguments, name: new})
    return bool(new != old)


def wrong_argument(trajectory: Trajectory, turns: Turns, rng: Random) -> bool:
    """Another value that the world knows, or that a user could have said."""
    world = trajectory.start()

    def other(kind: Kind, old: Any) -> Any:
        if isinstance(kind, Ref):
            return rng.choice([*world.state[kind.table], old])
        return kind.draw(rng, trajectory.zh)

    return _changed(trajectory, turns, rng, other)


def ungrounded_value(trajectory: Trajectory, turns: Turns, rng: Random) -> bool:
    """A value that nobody has said or returned."""

    def invented(kind: Kind, old: Any) -> Any:
        if isinstance(kind, Ref):
            return f"{old[:2]}-{rng.randrange(100, 1000)}"
        return kind.draw(rng, trajectory.zh)

    return _changed(trajectory, turns, rng, invented)


def dropped_call(trajectory: Trajectory, turns: Turns, rng: Random) -> bool:
    place = _place(turns, rng)
    if place is not None:
        del place[0][place[1]]
    return place is not None


def swapped_order(trajectory: Trajectory, turns: Turns, rng: Random) -> bool:
    """Two messages of a turn change places; something of the later one needs the earlier one."""
    places = [(steps, i) for steps in turns for i in range(len(steps) - 1) if steps[i] != steps[i + 1]]
    if places:
        steps, i = rng.choice(places)
        steps[i], steps[i + 1] = steps[i + 1], steps[i]
    return bool(places)


def extra_change(trajectory: Trajectory, turns: Turns, rng: Random) -> bool:
    """A state-changing call that nobody asked for, legal and successful where it stands."""
    number = rng.randrange(len(turns))
    world = trajectory.start()
    for steps in turns[: number + 1]:
        for call in (call for step in steps for call in step):
            world.execute(call.name, call.arguments)
    offered = [m for m in world.METHODS.values() if m.changes and m.name in trajectory.turns[number].offered]
    try:
        goal = draw(world, rng, (), offered)
    except Stuck:
        return False
    turns[number].append([goal.call])
    return True


SPOILS = (wrong_argument, dropped_call, swapped_order, extra_change, ungrounded_value)


def spoil(
    trajectory: Trajectory, rng: Random, ways: Sequence[Callable[..., bool]] = SPOILS
) -> tuple[str, list[Message]] | None:
    """What was spoiled, and the conversation; None where nothing of the chosen sort can be."""
    way = rng.choice(ways)
    turns = calls_of(trajectory)
    if not way(trajectory, turns, rng):
        return None
    return way.__name__, retold(trajectory, turns)


def passed(trajectory: Trajectory, messages: Sequence[Message]) -> bool:
    return judge(messages, trajectory).right
