"""What the constraint costs inside vLLM: ``python -m benchmarks.constrain_serve [--rounds 7] [--tokens 96]``.

Sixteen requests at a time with sixteen tool sets, each seen before, with the constraint and without it, turn about in
one engine, at equal numbers of tokens; a small random Qwen2 with the real vocabulary, so that masks have their real
size. Tokens a second, of wall time and of CPU time; medians over the rounds; the last line is JSON. Needs vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import psutil

from octupus.config import ServeSection
from octupus.serve.engine import VllmEngine
from octupus.serve.engines import Sampling
from octupus.surgery import write_tokenizer
from octupus.wire import Message, ResponseFormat, Tool, ToolChoice, Wire, write_wire
from octupus.wire.grammar import CallGrammar
from tests.support.qwen import qwen_folder, qwen_wire
from tests.support.tiny_model import random_qwen2

CONCURRENT = 16
NEVER = -100.0
"""On the end of turn, on both sides: so all answers are as long as they may be."""


def checkpoint(folder: Path) -> Path:
    """A random model of four layers over Qwen's vocabulary."""
    model = folder / "model"
    model.mkdir()
    write_tokenizer(qwen_folder(), model, qwen_wire().tokenizer)  # type: ignore[arg-type]
    write_wire(model, qwen_wire())
    random_qwen2(model, rows=151_936, hidden=256, eos=qwen_wire().end_id, inner=512, layers=4)
    return model


def tool_set(number: int) -> tuple[Tool, ...]:
    """Three tools whose answers are long: lists of objects without an upper bound."""

    def tool(name: str) -> Tool:
        row = {
            "type": "object",
            "properties": {
                "title": {"type": "string"},
                "amount": {"type": "number"},
                "state": {"enum": ["open", "closed", "held"]},
                f"field_{number}": {"type": "integer"},
            },
            "required": ["title", "amount", "state"],
        }
        schema = {"type": "object", "properties": {"rows": {"type": "array", "items": row, "minItems": 40}}}
        return Tool(
            raw={"type": "function", "function": {"name": name, "parameters": {**schema, "required": ["rows"]}}}
        )

    return tuple(tool(f"{word}_{number}") for word in ("list", "create", "update"))


class Bench:
    def __init__(self, model: Path, wire: Wire) -> None:
        self.wire = wire
        section = ServeSection(max_model_len=1024)
        self.engine = VllmEngine(model, wire, section)
        self.prompts: list[list[int]] = []
        self.grammars: list[CallGrammar] = []
        for number in range(CONCURRENT):
            tools = tool_set(number)
            self.prompts.append(wire.render_prompt((Message(role="user", content=f"rows of {number}"),), tools))
            self.grammars.append(wire.grammar(tools, ToolChoice(mode="required"), True, ResponseFormat()))

    async def one(self, name: str, number: int, constrained: bool, tokens: int) -> int:
        """The tokens of one answer."""
        sampling = Sampling(max_tokens=tokens, logit_bias={self.wire.end_id: NEVER})
        grammar = self.grammars[number] if constrained else None
        found = 0
        async for step in self.engine.generate(f"{name}-{number}", self.prompts[number], grammar, sampling):
            found += len(step.ids)
        return found

    async def round(self, name: str, constrained: bool, tokens: int) -> tuple[float, float]:
        """Tokens a second of wall time, and of CPU time of all processes, of sixteen at once."""
        began, used = time.perf_counter(), processor_time()
        counts = await asyncio.gather(*(self.one(name, i, constrained, tokens) for i in range(CONCURRENT)))
        assert sum(counts) == CONCURRENT * tokens, f"unequal numbers of tokens: {counts}"
        return sum(counts) / (time.perf_counter() - began), sum(counts) / (processor_time() - used)


def processor_time() -> float:
    """Seconds that this process and its children have used: on a busy machine wall time says little."""
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(recursive=True)))


async def measure(bench: Bench, rounds: int, tokens: int) -> dict[str, Any]:
    for side in (True, False):  # warms the tool sets, and vLLM
        await bench.round(f"warm-{side}", side, tokens)
    ratios: list[tuple[float, float]] = []
    for number in range(rounds):
        speeds: dict[bool, tuple[float, float]] = {}
        for side in (True, False) if number % 2 else (False, True):
            speeds[side] = await bench.round(f"{number}-{side}", side, tokens)
        ratios.append((speeds[True][0] / speeds[False][0], speeds[True][1] / speeds[False][1]))
        print(
            f"round {number}: with {speeds[True][0]:.1f}, without {speeds[False][0]:.1f} tokens/s, "
            f"ratio {ratios[-1][0]:.3f}, of CPU time {ratios[-1][1]:.3f}",
            flush=True,
        )
    await bench.engine.close()
    figures: dict[str, Any] = {"benchmark": "constrain_serve", "rounds": rounds}
    for name, values in zip(("wall", "cpu"), zip(*ratios, strict=True), strict=True):
        low, *_, high = quantiles(values, n=4)
        figures |= {f"ratio_{name}": round(median(values), 4), f"quartiles_{name}": [round(low, 4), round(high, 4)]}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(checkpoint(Path(folder)), qwen_wire())
        print(json.dumps(asyncio.run(measure(bench, options.rounds, options.tokens))))


if __name__ == "__main__":
    np.random.seed(0)
    main()
