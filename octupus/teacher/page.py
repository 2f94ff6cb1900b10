"""``teacher/report.html``: what was answered, rejected and why, lengths before and after; needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from octupus.config import TeacherSection
from octupus.publish import publish_bytes
from octupus.teacher.measure import KINDS, Lengths, bucket_name

EXAMPLES = 5
"""Rejects of each reason that the page quotes."""


def publish(
    path: Path, counts: Mapping[str, Any], markers: Mapping[int, Mapping[str, Any]], section: TeacherSection
) -> None:
    """Write the page from the shards' markers.

    Raises:
        JobError: no space.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["n"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}%"
    examples: dict[str, list[dict[str, str]]] = {}
    lengths = Lengths()
    for _, marker in sorted(markers.items()):
        lengths.merge(marker["lengths"])
        for reason, quoted in marker["examples"].items():
            found = examples.setdefault(reason, [])
            found += quoted[: EXAMPLES - len(found)]
    facts = {"counts": counts, "teacher": section, "examples": examples, "lengths": _histogram(lengths)}
    publish_bytes(path, environment.get_template("page.html.j2").render(facts).encode())


def _histogram(lengths: Lengths) -> list[dict[str, Any]]:
    """A row a bucket: its name and, for each kind of answer, count and share of that kind."""
    totals = {kind: sum(lengths.counts[kind].values()) for kind in KINDS}
    buckets = sorted({int(b) for kind in KINDS for b in lengths.counts[kind]})
    top = max((n / totals[kind] for kind in KINDS for n in lengths.counts[kind].values()), default=1)
    return [
        {
            "name": bucket_name(bucket),
            "kinds": [
                (kind, n := lengths.counts[kind].get(str(bucket), 0), n / totals[kind] / top if n else 0)
                for kind in KINDS
            ],
        }
        for bucket in buckets
    ]
