"""``data/report.html``: the data of a run as one page that needs nothing else, from ``data/report.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from octupus.data.language import LANGUAGES
from octupus.publish import publish_bytes, publish_json

STAGES = ("stage1", "stage2")
MOST_TOOLS = 8
"""From here on examples are counted together by their number of tools."""
NAMES = dict(zip(LANGUAGES, ("Latin letters", "Chinese", "other", "no letters"), strict=True))


def publish(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.html``; stages that are not built yet are left out.

    Raises:
        JobError: no space.
    """
    publish_json(folder / "report.json", report)
    publish_bytes(folder / "report.html", html(report).encode())


def html(report: Mapping[str, Any]) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["n"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}%"
    facts = {
        "report": report,
        "sources": report["sources"],
        "stages": {name: stage(report[name]) for name in STAGES if name in report},
    }
    return environment.get_template("page.html.j2").render(facts)


def stage(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of one stage's manifest."""
    sources = manifest["details"]["sources"]
    lengths = manifest["details"]["lengths"]
    languages: Counter[str] = Counter()
    tools: Counter[int] = Counter()
    for source in sources:
        languages.update(source["languages"])
        for count, documents in source["tools"].items():
            tools[min(int(count), MOST_TOOLS)] += documents
    counted = {str(n) if n < MOST_TOOLS else f"{n} or more": tools[n] for n in range(max(tools, default=0) + 1)}
    return {
        "manifest": manifest,
        "sources": sources,
        "languages": {NAMES[name]: n for name, n in languages.most_common()},
        "tools": counted,
        "lengths": list(zip([0, *lengths["upto"]], lengths["upto"], lengths["documents"], strict=False)),
        "dropped": manifest["details"]["dropped"],
    }
