"""Counters and histograms in Prometheus' text form; no library, because these few are all there is."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping

from octupus.constrain.figures import NAMES

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

HELP = {
    "requests_total": "Answers by route and HTTP status",
    "refusals_total": "Requests refused, by code",
    "calls_total": "Calls that left, by whether they were complete",
    "prompt_tokens_total": "Tokens in prompts",
    "completion_tokens_total": "Tokens generated",
    "request_seconds": "From request to last byte",
    "first_token_seconds": "From request to the first tokens",
    "requests_at_work": "Requests being answered now",
    "ready": "1 while requests are taken",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What one server has counted since its start."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[Labels]] = defaultdict(Counter)
        self._times: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        self._counts[name][tuple(labels.items())] += by  # type: ignore[assignment]

    def time(self, name: str, seconds: float) -> None:
        buckets = self._times.setdefault(name, [0] * (len(SECONDS) + 1))
        buckets[bisect_left(SECONDS, seconds)] += 1
        self._sums[name] += seconds  # type: ignore[assignment]

    def text(self, constraint: Mapping[str, float], **gauges: float) -> str:
        """Everything, with ``gauges`` and the constraint's figures as they stand now."""
        lines: list[str] = []

        def head(name: str, kind: str, help: str = "") -> str:
            lines.extend((f"# HELP octupus_{name} {help or HELP[name]}", f"# TYPE octupus_{name} {kind}"))
            return f"octupus_{name}"

        for name, value in constraint.items():
            kind, end = ("gauge", "") if name == "cached_bytes" else ("counter", "_total")
            lines.append(f"{head(f'constraint_{name}{end}', kind, NAMES[name])} {value:.15g}")

        for name, value in gauges.items():
            lines.append(f"{head(name, 'gauge')} {value:g}")
        for name, counts in self._counts.items():
            full = head(name, "counter")
            for labels, value in counts.items():
                inside = ",".join(f'{key}="{label}"' for key, label in labels)
                lines.append(f"{full}{{{inside}}} {value:.15g}" if inside else f"{full} {value:.15g}")
        for name, buckets in self._times.items():
            full, seen = head(name, "histogram"), 0
            for bound, number in zip((*SECONDS, "+Inf"), buckets, strict=True):
                seen += number
                lines.append(f'{full}_bucket{{le="{bound}"}} {seen}')
            lines.append(f"{full}_sum {self._sums[name]:.6f}")
            lines.append(f"{full}_count {seen}")
        return "\n".join(lines) + "\n"
