"""What a run shows of itself: one JSON line a step, progress for the live view, a plain line in the log."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from octupus.runs import Reporter, append_jsonl, publish_bytes

EVERY_S = 5.0
STRAGGLES = 1.5
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12}
"""Dense bf16 operations per second of a GPU, from its data sheet (SXM where there are several)."""


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of forward and backward, recomputation not counted (as MFU is defined)."""

    token: float
    square: float
    """Attention: of the sum of squared document lengths, the causal half."""
    supervised: float
    """The head, which runs over supervised positions only."""

    @staticmethod
    def of(config: PretrainedConfig) -> Cost:
        """Of an architecture like Qwen2's: grouped attention and a gated MLP."""
        width, layers = config.hidden_size, config.num_hidden_layers
        head = getattr(config, "head_dim", None) or width // config.num_attention_heads  # absent in some configs
        queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
        layer = width * (2 * queries + 2 * keys) + 3 * width * config.intermediate_size
        return Cost(6.0 * layers * layer, 6.0 * layers * queries, 6.0 * width * config.vocab_size)

    def mfu(self, tokens: float, squares: float, supervised: float, seconds: float, world: int) -> float | None:
        """Share of the GPUs' peak that was useful work; None on a device whose peak is not known."""
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        peak = next((flops for part, flops in PEAK_BF16.items() if part in name), None)
        done = self.token * tokens + self.square * squares + self.supervised * supervised
        return None if peak is None else done / (seconds * peak * world)


class Stopwatch:
    """Seconds inside its ``with`` blocks, added up; on a GPU by its own events, read when it has caught up."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds, self._events = 0.0, list[tuple[torch.cuda.Event, torch.cuda.Event]]()

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        if self._cuda:
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._events[-1][1].record()
        self._seconds += time.perf_counter() - self._began

    @property
    def seconds(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
            return sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
        return self._seconds


def memory_mib() -> dict[str, int]:
    """Peak memory of this process so far, and of its GPU where it has one."""
    found = {"rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if torch.cuda.is_available():
        found["gpu_mib"] = int(torch.cuda.max_memory_allocated()) >> 20
    return found


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run is about to do again, and a last line that was cut."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= step:
            kept.append(line)
    publish_bytes(path, b"".join(kept))


class Metrics:
    """Writes what happened at a step; only the first rank has one.

    Args:
        path: ``metrics.jsonl``.
        reporter: publishes progress.
        label: begins every plain line.
    """

    def __init__(self, path: Path, reporter: Reporter, label: str, total: int) -> None:
        self.path, self.reporter, self.label, self.total = path, reporter, label, total
        self._printed = 0.0
        self._began: tuple[int, float] | None = None

    def step(self, step: int, row: dict[str, Any], forwards: list[float]) -> None:
        """Record optimizer step ``step`` (from 1).

        Args:
            row: at least loss, lr, tokens_per_s.
            forwards: seconds that each rank spent in forward passes, where no rank waits for another (below ZeRO-3).
        """
        if len(forwards) > 1:
            row = {**row, "forward_s": [round(s, 4) for s in forwards]}
        append_jsonl(self.path, {"step": step, **row, **memory_mib()})
        now = time.monotonic()
        first, since = self._began = self._began or (step, now)
        loss = row["loss"]
        shown = "not finite" if loss is None else f"{loss:.4f}"
        self.reporter.update(step, f"loss {shown}")
        if step == self.total or now - self._printed >= EVERY_S:
            self._printed = now
            left = (now - since) / (step - first) * (self.total - step) if step > first else None
            eta = "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
            slowest, usual = max(forwards), sorted(forwards)[len(forwards) // 2]
            slow = f", rank {forwards.index(slowest)} is slow: forward {slowest:.2f} s, the median {usual:.2f} s"
            print(
                f"{self.label}: step {step}/{self.total}, loss {shown}, lr {row['lr']:.2e}, "
                f"{row['tokens_per_s']:,.0f} tokens/s{eta}{slow if slowest > STRAGGLES * usual else ''}",
                flush=True,
            )
