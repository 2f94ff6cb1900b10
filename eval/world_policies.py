"""Policies of which worldbench's outcome is known: a perfect one, one that never calls, one that always does.

``serve.engine: eval.world_policies:Engine`` with ``serve.engine_args: {policy: perfect|never|always, sizes: ...}`` runs
one behind our own server, so that the path itself is measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_recipes.worlds.blueprint import Trajectory, objects
from eval.oracle import CANNOT, DONE, Answers, Calls, Oracle
from eval.worldbench import SIZES, Item, items
from octupus.config import ServeSection
from octupus.errors import ConfigError
from octupus.wire import Message, Wire


class Perfect:
    """Does what the reference does, found by the conversation so far."""

    def __init__(self, wanted: Sequence[Item]) -> None:
        self.known: dict[str, list[Trajectory]] = defaultdict(list)
        for item in wanted:
            self.known[item.trajectory.turns[0].user].append(item.trajectory)

    def answer(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Calls, str]:
        """Calls, or none and a text.

        Raises:
            LookupError: no conversation of the benchmark opens like this.
        """
        spoken = [m for m in messages if m.role != "system"]
        said = [(m.role, m.content) for m in spoken]
        names = [tool["function"]["name"] for tool in tools]
        for trajectory in self.known.get(spoken[0].content, ()):
            reference = trajectory.messages()
            past = [(m.role, m.content) for m in reference[: len(said)]]
            if len(said) < len(reference) and said == past and _offered(trajectory, spoken) == names:
                reply = reference[len(said)]
                return [(c.name, dict(objects(c.arguments))) for c in reply.tool_calls], reply.content
        raise LookupError(f"no conversation of worldbench goes {spoken[0].content[:80]!r}")


def _offered(trajectory: Trajectory, spoken: Sequence[Message]) -> list[str]:
    """The names of the tools on offer in the turn that has been reached."""
    turn = trajectory.turns[sum(m.role == "user" for m in spoken) - 1]
    return [tool.name for tool in trajectory.tools(turn)]


class Never:
    def answer(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Calls, str]:
        """Text, whatever is asked."""
        return [], CANNOT


class Always:
    def answer(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Calls, str]:
        """Some call, whatever is asked; text only where a result has just come."""
        if messages[-1].role == "tool" or not tools:
            return [], DONE
        function = tools[0]["function"]
        schema = function["parameters"]
        return [(function["name"], {name: _least(schema["properties"][name]) for name in schema["required"]})], ""


def _least(schema: Mapping[str, Any]) -> Any:
    """A value that a parameter of a world allows."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "array":
        return [_least(schema["items"])]
    return {"string": "x", "boolean": True}.get(schema["type"], schema.get("minimum", 1))


class Engine(Oracle):
    """One of the policies as an engine; see octupus/serve/engines.py for the protocol."""

    def __init__(self, model_dir: Path, wire: Wire, section: ServeSection) -> None:
        given = {"policy": "perfect", "sizes": dict(SIZES), **section.engine_args}
        makers: dict[str, Callable[[], Answers]] = {
            "perfect": lambda: Perfect(list(items(given["sizes"]))),
            "never": Never,
            "always": Always,
        }
        if given["policy"] not in makers:
            raise ConfigError("eval.world_policies:Engine needs serve.engine_args: {policy: perfect|never|always}")
        self.wire, self.options, self.wrong = wire, section.constraint, False
        self.truth = makers[given["policy"]]()
