"""Does a conversation do what its blueprint asks? Replayed in a fresh world; also the reward of a policy.

Calls must be legal and grounded in what was said or returned, results must be what execution gives, and after each turn
the world must be in the blueprint's state, with every needed call made and no state-changing one too many.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_recipes.worlds.blueprint import Call, Trajectory, Turn
from data_recipes.worlds.kinds import Kind, Many, Ref
from data_recipes.worlds.world import World, offer
from octupus.constrain import Validator
from octupus.wire.messages import Message, canonical_json

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_FIGURES = re.compile(r"[A-Z]{2}-\d+|\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Verdict:
    """``score`` is the share of turns that are right: 1.0 exactly where there is no reason."""

    score: float
    reasons: tuple[str, ...]

    @property
    def right(self) -> bool:
        return not self.reasons


class Replay:
    """A fresh world in which calls are executed, and what the policy may know so far."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory, self.world = trajectory, trajectory.start()
        self.said, self.numbers, self.returned, self.shown = "", set[str](), set[str](), set[str]()
        self.turn: Turn = trajectory.turns[0]
        self.made: list[Call] = []
        self.given: list[str] = []
        """The result of each call of the turn."""
        self.wrong: list[str] = []
        self._unused: list[tuple[Call, set[str]]] = []

    def begin(self, turn: Turn, user: str) -> None:
        """The user speaks."""
        self.turn, self.made, self.given, self.wrong = turn, [], [], []
        text = _folded(user)
        self.said += f"\n{text}"
        self.numbers |= _numbers(text)

    def act(self, calls: Sequence[Call]) -> list[str]:
        """Execute the calls of one message; the results as texts. What is wrong with them goes to ``wrong``."""
        for call in calls:
            self.wrong += self._problems(call)
        texts = []
        for call in calls:
            result = self._execute(call)
            self.made.append(call)
            texts.append(canonical_json(result))
        self.given += texts
        for call, text in zip(calls, texts, strict=True):
            result = json.loads(text)
            found = {id for rows in rows_of(result) for id in rows}
            self.said += f"\n{_folded(str(result.get('error', '')))}"  # what an error advises may be done
            method = self.trajectory.world.METHODS.get(call.name)
            if method is None or not method.changes:
                self._unused.append((call, found - self.shown))
            self.shown |= found
            self.returned |= set(leaves(result))
        return texts

    def answer(self, text: str) -> None:
        """The assistant says something: figures and ids in it must come from somewhere."""
        known: set[str] | None = None
        for figure in _FIGURES.findall(text):
            if _plain(figure) in self.numbers or figure in self.returned or _folded(figure) in self.said:
                continue
            known = known if known is not None else _numbers("\n".join(self.returned))
            if _plain(figure) not in known:
                self.wrong.append(f"says {figure}, which nobody has")

    def outcome(self) -> list[str]:
        """What the turn should have come to and did not, whatever the way: the measure of worldbench."""
        turn, reasons = self.turn, []
        if turn.kind in ("refuse", "talk") and self.made:
            reasons.append(f"calls {self.made[0].name} where no call is wanted")
        changes = sum(self._changes(call) for call in self.made)
        if changes > turn.changes:
            reasons.append(f"{changes} state-changing calls, {turn.changes} wanted")
        made = Counter(_with(c, r) for c, r in zip(self.made, self.given, strict=True))
        missing = Counter(_with(c, r) for c, r in zip(turn.needed, turn.results, strict=True)) - made
        reasons += [f"lacks {what}" for what in missing]
        if self.world.digest() != turn.state:
            reasons.append("another state than wanted")
        return reasons

    def untidy(self) -> list[str]:
        """What a reference would not do on the way to the same outcome."""
        last = {call.key: result for call, result in zip(self.made, self.given, strict=True)}
        reasons = [
            f"ends with another result of {call.name}"
            for call, result in zip(self.turn.needed, self.turn.results, strict=True)
            if last.get(call.key, result) != result
        ]
        made = Counter(_with(c, r) for c, r in zip(self.made, self.given, strict=True))
        reasons += [f"repeats {what}" for what, count in made.items() if count > 1]
        changes = sum(self._changes(call) for call in self.made)
        return [*reasons, *([f"{changes} state-changing calls only"] if changes < self.turn.changes else [])]

    def needless(self) -> list[str]:
        """Calls that found nothing which anything later used; asked for at the end."""
        return [f"needless call of {call.name}" for call, _ in self._unused]

    def _changes(self, call: Call) -> bool:
        method = self.trajectory.world.METHODS.get(call.name)
        return method is not None and method.changes

    def _problems(self, call: Call) -> Iterator[str]:
        if call.name not in self.turn.offered:
            yield f"calls {call.name}, which is not on offer"
            return
        world = self.trajectory.world
        problems = validator(world, call.name).problems(call.arguments)
        if problems or call.arguments.keys() - {p.name for p in world.METHODS[call.name].params}:
            yield f"illegal call of {call.name}: {problems[:1] or 'undeclared arguments'}"
            return
        for name, value in call.arguments.items():
            kind = world.METHODS[call.name].param(name).kind
            for part in value if isinstance(kind, Many) else [value]:
                if not self._grounded(kind.of if isinstance(kind, Many) else kind, part):
                    yield f"{call.name}: {name} {part!r} was neither said nor returned"
        used = set(leaves(call.arguments))
        self._unused = [(earlier, new) for earlier, new in self._unused if not new & used and not self._needed(earlier)]

    def _needed(self, call: Call) -> bool:
        return any(call.key == c.key for c in self.turn.needed)

    def _grounded(self, kind: Kind, value: Any) -> bool:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return f"{value:g}" in self.numbers or f"{value:g}" in self.returned
        if isinstance(kind, Ref):
            return value in self.shown or _folded(str(value)) in self.said
        ways = [_folded(way) for way in kind.spellings(value)]
        if str(value) not in self.returned and not any(way in self.said for way in ways):
            return False
        for way in ways:
            self.numbers |= _numbers(way)  # "2:30 pm" is as good as "14:30" from here on
        return True

    def _execute(self, call: Call) -> Mapping[str, Any]:
        world = self.trajectory.world
        if call.name not in self.turn.offered or call.name not in world.METHODS:
            return {"error": f"There is no function {call.name}."}
        problems = validator(world, call.name).problems(call.arguments)
        unknown = call.arguments.keys() - {p.name for p in world.METHODS[call.name].params}
        if problems or unknown:
            return {"error": f"Illegal arguments: {problems[0] if problems else sorted(unknown)}"}
        return self.world.execute(call.name, call.arguments)


def judge(messages: Sequence[Message], trajectory: Trajectory) -> Verdict:
    """Score a whole conversation (user, assistant and tool messages, one user message a turn) against its blueprint."""
    replay, reasons, right = Replay(trajectory), list[str](), 0
    turns = list(_turns(messages))
    for number, turn in enumerate(trajectory.turns):
        if number >= len(turns):
            reasons.append(f"turn {number + 1}: missing")
            continue
        user, answers = turns[number]
        replay.begin(turn, user)
        wrong = [*_replayed(replay, answers), *replay.wrong, *replay.outcome(), *replay.untidy()]
        if turn is trajectory.turns[-1]:
            wrong += replay.world.violations()
        replay._unused = [(call, new) for call, new in replay._unused if not replay._needed(call)]
        reasons += [f"turn {number + 1}: {reason}" for reason in wrong]
        right += not wrong
    late = replay.needless() + (["more turns than the blueprint"] if len(turns) > len(trajectory.turns) else [])
    score = right / len(trajectory.turns)
    return Verdict(min(score, 0.99) if late or reasons else score, (*reasons, *late))


def _replayed(replay: Replay, answers: Sequence[Message]) -> Iterator[str]:
    """Go through one turn's assistant and tool messages."""
    if not answers or answers[-1].role != "assistant" or answers[-1].tool_calls or not answers[-1].content:
        yield "does not end in an answer"
    at = 0
    while at < len(answers):
        message = answers[at]
        at += 1
        if message.content:
            replay.answer(message.content)
        calls = [Call(c.name, c.arguments) for c in message.tool_calls if isinstance(c.arguments, dict)]
        if len(calls) < len(message.tool_calls):
            yield "arguments are no JSON object"
        if calls:
            results = [m.content for m in answers[at : at + len(calls)] if m.role == "tool"]
            at += len(results)
            if results != replay.act(calls):
                yield "a result is not what execution gives"


def _turns(messages: Sequence[Message]) -> Iterator[tuple[str, list[Message]]]:
    user: str | None = None
    answers: list[Message] = []
    for message in messages:
        if message.role == "user":
            if user is not None:
                yield user, answers
            user, answers = message.content, []
        elif message.role != "system":
            answers.append(message)
    if user is not None:
        yield user, answers


_VALIDATORS: dict[tuple[type[World], str], Validator] = {}


def validator(world: type[World], name: str) -> Validator:
    """The compiled schema of a method's arguments."""
    if (world, name) not in _VALIDATORS:
        _VALIDATORS[world, name] = Validator(offer(world, name, False)["function"]["parameters"])
    return _VALIDATORS[world, name]


def leaves(value: Any) -> Iterator[str]:
    """Every string and number in a JSON value, as text."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{value:g}"


def rows_of(result: Mapping[str, Any]) -> Iterator[dict[str, Mapping[str, Any]]]:
    """The rows that a result shows, list by list, by id (their first key); the result itself comes first."""
    lists = [value for value in result.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    for rows in ([result], *lists):
        yield {row[key]: row for row in rows if (key := next(iter(row), "")).endswith("_id")}


def _with(call: Call, result: str) -> str:
    return f"{call.key} -> {result}"


def _numbers(text: str) -> set[str]:
    return {_plain(number) for number in _NUMBER.findall(text)}


def _plain(figure: str) -> str:
    """07 as 7."""
    return f"{float(figure):g}" if figure[0].isdigit() else figure


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
