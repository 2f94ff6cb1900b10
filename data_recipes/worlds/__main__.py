"""``python -m data_recipes.worlds make|show``: trajectories by the hundred thousand, or some of them to read.

``make`` samples, replays and counts, tells how diverse the result is, and writes rows in OpenAI's form with ``--out``;
its last line is the report as JSON. ``show`` prints trajectories and what the replay says of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from data_recipes.worlds.blueprint import Trajectory
from data_recipes.worlds.make import make
from data_recipes.worlds.produce import SHARES, Order, produce
from data_recipes.worlds.replay import judge
from data_recipes.worlds.sampler import KINDS
from octupus.errors import OctupusError


def show(trajectory: Trajectory) -> str:
    """A trajectory to read: turns, calls, results, and the verdict of its replay."""
    lines = [f"{trajectory.world.NAME}, {trajectory.kind}, {'Chinese' if trajectory.zh else 'English'}"]
    before: tuple[str, ...] = ()
    for number, turn in enumerate(trajectory.turns, 1):
        if turn.offered != before:
            lines.append(f"tools: {', '.join(turn.offered)}")
            before = turn.offered
        lines.append(f"\n{number} ({turn.kind}) user: {turn.user}")
        for message in turn.messages:
            lines += [f"    {call.name}({call.arguments_text})" for call in message.tool_calls]
            said = "    -> " if message.role == "tool" else "  assistant: "
            lines += [f"{said}{message.content[:400]}"] if message.content else []
    verdict = judge(trajectory.messages(), trajectory)
    return "\n".join([*lines, f"\nreplayed: score {verdict.score:g}{''.join(f'; {r}' for r in verdict.reasons)}"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_recipes.worlds", description=__doc__)
    parser.add_argument("command", choices=("make", "show"))
    parser.add_argument("--n", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "heldout"), default="train")
    parser.add_argument("--kind", choices=KINDS, help="only this one")
    parser.add_argument("--easy", action="store_true", help="one or two turns of one or two calls")
    parser.add_argument("--out", type=Path, help="write rows in OpenAI's form (jsonl)")
    chosen = parser.parse_args(arguments)
    shares = SHARES if chosen.kind is None else {chosen.kind: 1}
    order = Order(chosen.seed, chosen.split, tuple(shares.items()), chosen.easy)
    try:
        if chosen.command == "show":
            print("\n\n".join(show(produce(order, index)[0]) for index in range(min(chosen.n, 20))))
        else:
            print(json.dumps(make(order, chosen.n, chosen.out), ensure_ascii=False))
    except OctupusError as error:
        print(f"worlds: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
