"""From BFCL's result and score files to our own figures: what the harness counts, and what of it we do not believe.

Never correct here, whatever the harness says: an entry that ended in a server error (it counts as correct in
irrelevance), one with a call cut by the output limit, one with a call that is no JSON object or names no tool of its
request. A call that only breaks its schema stays with the harness's verdict and shows in the legality counts.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.checker import Verdict, judge, tally
from eval.weights import MEANS, SIZES, overall, wilson

ERROR = "Error during inference"
PLAIN = ("model", "category", "id", "harness", "correct", "kind", "detail")


@dataclass(frozen=True)
class Entry:
    """One BFCL entry, judged. ``kind`` says what went wrong in a few words that can be counted."""

    model: str
    category: str
    id: str
    harness: bool
    kind: str
    detail: str
    calls: tuple[tuple[str, Mapping[str, Any], Verdict], ...]
    replies: Sequence[Mapping[str, Any]]

    @property
    def correct(self) -> bool:
        return self.kind == "correct"

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in PLAIN}


def result_files(root: Path, model: str, categories: Collection[str] | None = None) -> Iterator[Path]:
    """The harness's result files of one model (it writes ``/`` in a name as ``_``), of some categories or of all."""
    names = None if categories is None else {f"BFCL_v4_{c}{p}_result.json" for c in categories for p in ("", "_prereq")}
    found = sorted((root / "result" / model.replace("/", "_")).rglob("BFCL_v4_*_result.json"))
    yield from (path for path in found if names is None or path.name in names)


def parse_row(line: bytes) -> dict[str, Any] | None:
    """A result row, or None where a kill has torn the line."""
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return row


def read_results(root: Path, model: str, categories: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """Whole result rows by id."""
    lines = (line for path in result_files(root, model, categories) for line in path.read_bytes().splitlines())
    return {row["id"]: row for line in lines if (row := parse_row(line)) is not None}


def read_failures(root: Path, model: str, category: str) -> dict[str, dict[str, Any]]:
    """The entries that the harness judged wrong, by id."""
    (path,) = (root / "score" / model.replace("/", "_")).rglob(f"BFCL_v4_{category}_score.json")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row for row in rows[1:]}


def failed(row: Mapping[str, Any]) -> bool:
    """Whether an entry ended in an inference error."""
    return isinstance(row["result"], str) and row["result"].startswith(ERROR)


def score_model(root: Path, model: str, ids: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], list[Entry]]:
    """Everything about one model name: figures by category, summaries, legality; and each entry's verdict."""
    rows = read_results(root, model)
    judged: dict[str, list[Entry]] = {}
    for category, asked in ids.items():
        failures = read_failures(root, model, category)
        judged[category] = [judge_entry(model, category, rows[id], failures.get(id)) for id in asked if id in rows]
    categories = {name: _figures(name, entries, len(ids[name])) for name, entries in judged.items()}
    accuracy = {name: c["accuracy"] for name, c in categories.items()}
    measured = {name: c["n"] for name, c in categories.items()}
    entries = [entry for of in judged.values() for entry in of]
    return {
        "categories": categories,
        "summaries": {mean: overall(mean, accuracy, measured) for mean in MEANS},
        **_counts(entries),
    }, entries


def judge_entry(model: str, category: str, row: Mapping[str, Any], failure: Mapping[str, Any] | None) -> Entry:
    """``row`` from the result file, ``failure`` from the score file where the harness says wrong."""
    replies = row.get("replies", ())
    calls = []
    for reply in replies:
        for position, call in enumerate(reply["calls"], 1):
            # Only a reply's last call can have been cut; servers other than ours do not say that it was.
            last = reply["finish_reason"] == "length" and position == len(reply["calls"])
            cut = call["incomplete"] or (last and not _parses(call["arguments"]))
            schemas = {call["name"]: call["parameters"]} if call["offered"] else {}
            calls.append((row["id"], call, judge({**call, "incomplete": cut}, schemas)))
    verdicts = [verdict for _, _, verdict in calls]
    unusable = " ".join(f"{v.status}: {v.detail}" for v in verdicts if not v.usable)
    if failed(row):
        kind, detail = "server error", row["result"]
    elif unusable:
        kind, detail = "cut call" if any(v.status == "cut" for v in verdicts) else "illegal call", unusable
    else:
        kind, detail = _kind(category, failure, calls), _words(failure)
    return Entry(model, category, row["id"], failure is None, kind, detail[:300], tuple(calls), replies)


def _parses(arguments: Any) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, TypeError):
        return False
    return True


def _words(failure: Mapping[str, Any] | None) -> str:
    """The harness's own sentence about what is wrong."""
    error = failure.get("error", "") if failure else ""
    error = error.get("error_message", error.get("error", error)) if isinstance(error, dict) else error
    return " ".join(map(str, error)) if isinstance(error, list) else str(error)


def _kind(category: str, failure: Mapping[str, Any] | None, calls: Sequence[tuple[str, Mapping[str, Any], Any]]) -> str:
    if failure is None:
        return "correct"
    if "irrelevance" in category:
        return "extra call"
    error = failure.get("error")
    label = str(failure.get("error_type") or (error.get("error_type") if isinstance(error, dict) else ""))
    if category.startswith(("memory", "web_search")):
        return "wrong answer"
    if not calls or "decoder" in label or "empty_turn" in label:
        return "missing call"
    if label.startswith("multi_turn"):
        return "too many steps" if "force" in label else "wrong end state" if "state" in label else "wrong calls"
    wanted = Counter(name.replace(".", "_") for truth in failure["possible_answer"] for name in truth)
    return mismatch(wanted, Counter(call["name"] for _, call, _ in calls))


def mismatch(wanted: Counter[str], got: Counter[str]) -> str:
    """What is wrong with calls that are not the wanted ones, from the functions' names alone."""
    if got.total() == wanted.total():
        return "wrong argument" if got == wanted else "wrong function"
    return "missing call" if got.total() < wanted.total() else "extra call"


def repeats(models: Mapping[str, Mapping[str, Any]], main: str) -> dict[str, Any]:
    """Mean and standard deviation of each summary over the main model and its repeats with other seeds."""
    mine = [m["summaries"] for name, m in models.items() if name == main or name.startswith(f"{main}-seed")]
    values = {mean: [s[mean]["value"] for s in mine if s[mean]["value"] is not None] for mean in MEANS}
    return {
        mean: {"runs": len(some), "mean": statistics.fmean(some), "sd": statistics.stdev(some)}
        for mean, some in values.items()
        if len(some) > 1
    }


def _counts(entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "errors": sum(e.kind == "server error" for e in entries),
        "legality": tally(call for e in entries for call in e.calls),
        "kinds": dict(Counter(e.kind for e in entries).most_common()),
    }


def _figures(category: str, entries: Sequence[Entry], asked: int) -> dict[str, Any]:
    n, correct = len(entries), sum(e.correct for e in entries)
    replies = [reply for e in entries for reply in e.replies]
    seconds = [reply["seconds"] for reply in replies]
    usage = [reply["usage"] or {} for reply in replies]
    return {
        "n": n,
        "asked": asked,
        "of": SIZES[category],
        "correct": correct,
        "accuracy": correct / n if n else 0.0,
        "interval": wilson(correct, n),
        "harness_correct": sum(e.harness for e in entries),
        "call_rate": sum(bool(e.calls) for e in entries) / n if n else 0.0,
        "requests": len(replies),
        "cut_replies": sum(reply["finish_reason"] == "length" for reply in replies),
        "tokens_in": sum(u.get("prompt_tokens") or 0 for u in usage),
        "tokens_out": sum(u.get("completion_tokens") or 0 for u in usage),
        "latency_mean": statistics.fmean(seconds) if seconds else None,
        "latency_p95": statistics.quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else None,
        **_counts(entries),
    }
