"""What a run came to: ``report/index.html`` (self-contained), ``report/report.md`` and a table for the terminal."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.markdown import Markdown

from eval import figures
from eval.figures import rows_of
from eval.sample import BfclData
from eval.scores import mismatch, read_failures, read_results
from octupus.config import Recipe
from octupus.errors import JobError
from octupus.publish import publish_bytes, read_json
from octupus.runs import Run

HERE = Path(__file__).parent
STAGES = ("surgery", "teacher", "data", "baseline", "stage1", "stage2", "serve", "bfcl", "score")
SHOWN_FAILURES = 60


def run(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Write the report from what the run's stages left behind; what was not run is absent and said so.

    Raises:
        JobError: there is neither a BFCL score nor a held-out figure.
    """
    facts = collect(recipe, run)
    folder = run.stage("report").path
    page = _templates().get_template("report.html.j2").render(**facts, data=_embedded(facts))
    publish_bytes(folder / "index.html", page.encode())
    publish_bytes(folder / "report.md", _markdown(facts).encode())
    print(f"report: {folder / 'index.html'}", flush=True)
    return {"html": "report/index.html", "markdown": "report/report.md"}


def markdown(recipe: Recipe, run: Run) -> str:
    """The report as Markdown.

    Raises:
        JobError: as :func:`run`.
    """
    return _markdown(collect(recipe, run))


def _markdown(facts: Mapping[str, Any]) -> str:
    return _templates().get_template("report.md.j2").render(**facts)


def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=lambda name: bool(name) and ".html" in str(name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "duration": duration, "span": span, "short": short}
    return made


def _embedded(facts: Mapping[str, Any]) -> str:
    """JSON that cannot close the script element it stands in."""
    kept = {k: facts[k] for k in ("categories", "anchors", "ours", "heldout_kinds", "curves", "steps", "failures")}
    return json.dumps(kept, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", " ").replace("\u2029", " ")


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def span(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f}"


def short(count: int) -> str:
    """12,345 as 12k."""
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k" if count >= 10_000 else f"{count:,}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def collect(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Everything the templates show, as plain data."""
    scores = read_json(run.path / "bfcl" / "scores.json")
    heldout = {label: read_json(run.path / "heldout" / f"{label}.json") for label in ("before", "after")}
    if scores is None and heldout["after"] is None:
        raise JobError(
            f"{run.path}: nothing to report, neither bfcl/scores.json nor heldout/after.json; run: make bfcl"
        )
    main = scores["models"][scores["main"]] if scores else {"categories": {}, "summaries": {}, "kinds": {}}
    anchors = yaml.safe_load((HERE / "anchors.yaml").read_text(encoding="utf-8"))
    parts = [*(scores["models"].values() if scores else ()), *(h for h in heldout.values() if h)]
    legality = {key: sum(p["legality"][key] for p in parts) for key in ("calls", "complete", "legal", "illegal", "cut")}
    facts = {
        "name": run.name,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "scratch": recipe.model.scratch is not None,
        "start": start_words(recipe),
        "base": recipe.model.base,
        "scores": scores,
        "main": main,
        "side": [(n, m) for n, m in scores["models"].items() if n != scores["main"]] if scores else [],
        "categories": [{"name": name, **figures} for name, figures in main["categories"].items()],
        "heldout": heldout,
        "heldout_kinds": _heldout_kinds(heldout),
        "legality": legality,
        "illegal": [e for p in parts for e in p["legality"]["examples"]][:6],
        "errors": sum(p["errors"] for p in parts),
        "curves": {name: curve for name in ("stage1", "stage2") if (curve := loss_curve(run.stage(name).metrics))},
        "stages": list(_stage_times(run)),
        # What this run must be held against stands beside it, then the boards.
        "anchors": sorted(anchors["anchors"], key=lambda a: not (a.get("ours") or a.get("baseline"))),
        "boards": anchors["boards"],
        "ours": main["summaries"],
        "failures": list(_failures(run, scores)),
        "throughput": list(figures.throughput(recipe, run)),
        "kinds": figures.kinds(main["categories"]),
        "others": figures.beside(recipe, run),
        "steps": figures.steps(run),
        "constraint": scores is None or (scores.get("constraint") or {"enforce": True})["enforce"],
        "repeats": (scores or {}).get("repeats") or {},
    }
    return {**facts, "verdict": verdict(facts)}


def verdict(facts: Mapping[str, Any]) -> list[str]:
    """What the figures mean, the uncomfortable part first."""
    lines = []
    v3 = facts["ours"].get("Overall v3")
    if v3 is not None and v3["value"] is not None:
        figure = f"{percent(v3['value'])}% (95% interval {span(v3['interval'])})"
        if facts["scratch"]:
            lines.append(
                "A tiny model scores near nothing on BFCL, and so does this one. It was trained within minutes from "
                f"{facts['start']} to show that every stage runs; over the entries that were asked it gets {figure}."
            )
        elif v3["missing"]:
            told = f"BFCL v3-style over what was run: {figure}; not comparable with a board until all of it is run."
            lines.append(" ".join([*_beaten(facts, []), told]))
        else:
            known = [anchor for anchor in facts["anchors"] if anchor.get("baseline") or anchor.get("ours")]
            beats = [a for a in known if a.get("baseline") and v3["interval"][0] <= a["Overall v3"] / 100]
            first, *rest = [_against(anchor, v3) for anchor in known]
            lines.append(" ".join([*_beaten(facts, beats), f"BFCL v3-style overall {figure}.", first]))
            lines += rest
    lines += figures.against(facts["others"])
    if not facts["constraint"]:
        lines.append("It was measured WITHOUT the constraint: nothing kept its calls legal.")
    quiet = [c["name"] for c in facts["categories"] if "irrelevance" in c["name"] and c["accuracy"] > 0.2]
    if quiet and facts["scratch"]:
        lines.append(
            f"What it gets right in {' and '.join(quiet)} is silence, not judgement: no call is the right answer there."
        )
    before, after = facts["heldout"]["before"], facts["heldout"]["after"]
    for split in ("seen", "unseen"):
        if after and split in after["exact"]:
            was = f"{percent(before['exact'][split]['accuracy'])}% → " if before and split in before["exact"] else ""
            now = after["exact"][split]
            words = (
                "tools it was trained on, with new questions and values"
                if split == "seen"
                else "tools it has never seen"
            )
            lines.append(f"Exact calls on {words}: {was}{percent(now['accuracy'])}% of {now['n']}.")
    return lines


def _beaten(facts: Mapping[str, Any], unbeaten: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first thing to say of a run that does not beat its baseline: a measured one where there is one."""
    measured = facts["others"][:1]
    names = [o["name"] for o in measured if o["interval"][0] <= 0] if measured else [a["name"] for a in unbeaten]
    return [f"This run does not beat its baseline, {' and '.join(names)}."] if names else []


def start_words(recipe: Recipe) -> str:
    """What a model of ours started from."""
    if recipe.model.scratch is None:
        return str(recipe.model.base)
    if recipe.model.scratch.mimetic:
        return "random weights whose attention starts near the identity (mimetic initialisation, octupus/mimetic.py)"
    return "random weights"


def _against(anchor: Mapping[str, Any], v3: Mapping[str, Any]) -> str:
    theirs, (low, high) = anchor["Overall v3"] / 100, v3["interval"]
    word = "above" if low > theirs else "below" if high < theirs else "not distinguishable from"
    return f"That is {word} {anchor['name']} ({anchor['Overall v3']})."


def _heldout_kinds(heldout: Mapping[str, Any]) -> list[dict[str, Any]]:
    after = heldout["after"] or heldout["before"] or {"by_kind": {}}
    before = (heldout["before"] or {"by_kind": {}})["by_kind"]
    return [{"name": kind, "before": before.get(kind), "after": figure} for kind, figure in after["by_kind"].items()]


def loss_curve(path: Path, points: int = 300) -> list[list[float]]:
    """``[step, loss]`` from a metrics file, averaged down to ``points``."""
    pairs = [(row["step"], row["loss"]) for row in rows_of(path) if row.get("loss") is not None]
    size = max(1, -(-len(pairs) // points))
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [[group[-1][0], sum(loss for _, loss in group) / len(group)] for group in groups]


def _stage_times(run: Run) -> Iterator[dict[str, Any]]:
    for name in STAGES:
        state = run.stage(name).state()
        if state is not None and state.started_at is not None:
            seconds = None if state.ended_at is None else state.ended_at - state.started_at
            yield {"name": name, "status": state.status, "seconds": seconds, "attempt": state.attempt}


def _failures(run: Run, scores: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A few dozen wrong answers, evenly from every category and kind of error."""
    rows = rows_of(run.path / "heldout" / "calls-after.jsonl")
    yield from _spread([_heldout_failure(row) for row in rows if not row.get("exact")], SHOWN_FAILURES // 3)
    if scores is not None:
        yield from _spread(list(_bfcl_failures(run.path / "bfcl", scores["main"])), SHOWN_FAILURES * 2 // 3)


def _heldout_failure(row: Mapping[str, Any]) -> dict[str, Any]:
    wanted, got = [c["function"] for c in row["wanted"].get("tool_calls", ())], row.get("calls", ())
    names = [Counter(call["name"] for call in calls) for calls in (wanted, got)]
    return {
        "where": f"held-out {row['split']}, {row['kind']}",
        "kind": "server error" if "error" in row else mismatch(*names),
        "id": row["id"],
        "prompt": _spoken(row["messages"]),
        "expected": _calls_text(wanted) or row["wanted"]["content"],
        "got": row.get("error") or _calls_text(got) or row["content"],
        "why": "",
    }


def _bfcl_failures(root: Path, model: str) -> Iterator[dict[str, Any]]:
    wrong = [row for row in rows_of(root / "entries.jsonl") if row["model"] == model and not row["correct"]]
    categories = sorted({entry["category"] for entry in wrong})
    asked = {q.id: q.turns for q in BfclData.ready().questions(categories)} if wrong else {}
    failures = {category: read_failures(root, model, category) for category in categories}
    results = read_results(root, model)
    for entry in wrong:
        failure = failures[entry["category"]].get(entry["id"], {})
        yield {
            "where": entry["category"],
            "kind": entry["kind"],
            "id": entry["id"],
            "prompt": _spoken([message for turn in asked[entry["id"]] for message in turn]),
            "expected": _pretty(failure.get("possible_answer", "no call")),
            "got": _pretty(results[entry["id"]]["result"]),
            "why": entry["detail"],
        }


def _spread(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["where"], row["kind"]].append(row)
    rounds = [group[i] for i in range(most) for group in groups.values() if i < len(group)]
    return sorted(rounds[:most], key=lambda row: row["where"])


def _spoken(messages: Sequence[Mapping[str, Any]]) -> str:
    said = [
        (m["role"], m["content"] or _calls_text([c["function"] for c in m.get("tool_calls", ())])) for m in messages
    ]
    return "\n".join(f"{role}: {text}" for role, text in said)[:1500]


def _calls_text(calls: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(f"{call['name']}({call['arguments']})" for call in calls)[:1500]


def _pretty(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1))[:1500]


def terminal(run: Run, console: Console | None = None) -> None:
    """Print the first part of the Markdown report: the verdict, the BFCL table, held-out figures and legality.

    Raises:
        JobError: as :func:`run`.
    """
    frozen = read_json(run.path / "recipe.json")
    if frozen is None:
        raise JobError(f"{run.path} holds no recipe.json: it is no run")
    text = markdown(Recipe.model_validate(frozen["recipe"]), run)
    (console or Console()).print(Markdown(text.partition("<!-- more -->")[0]))
