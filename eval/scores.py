"""From BFCL's result and score files to our own figures: what the harness counts, and what of it we do not believe.

Never correct here, whatever the harness says: an entry that ended in a server error (it counts as correct in
irrelevance), one with a call cut by the output limit, one with a call that is no JSON object or names no tool of its
request. A call that only breaks its schema stays with the harness's verdict and shows in the legality counts.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.checker import Tally, Verdict, judge_against
from eval.weights import SIZES, SUMMARIES, overall, wilson

ERROR = "Error during inference"


@dataclass(frozen=True)
class Entry:
    """One BFCL entry, judged. ``kind`` says what went wrong in a few words that can be counted."""

    model: str
    category: str
    id: str
    harness: bool
    correct: bool
    kind: str
    called: bool
    detail: str = ""


@dataclass
class _Sums:
    """What is added up over one category's replies."""

    tally: Tally = field(default_factory=Tally)
    seconds: list[float] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    cut_replies: int = 0


def result_files(root: Path, model: str) -> Iterator[Path]:
    """The harness's result files of one model (it writes ``/`` in a name as ``_``)."""
    yield from sorted((root / "result" / model.replace("/", "_")).rglob("BFCL_v4_*_result.json"))


def read_results(root: Path, model: str) -> dict[str, dict[str, Any]]:
    """Result rows by id; a last line that a kill has torn is not counted."""
    rows = {}
    for path in result_files(root, model):
        for line in path.read_bytes().splitlines():
            row = parse_row(line)
            if row is not None:
                rows[row["id"]] = row
    return rows


def parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return row


def failed(row: Mapping[str, Any]) -> bool:
    """Whether an entry ended in an inference error."""
    return isinstance(row["result"], str) and row["result"].startswith(ERROR)


def read_failures(root: Path, model: str, category: str) -> dict[str, dict[str, Any]]:
    """The entries that the harness judged wrong, by id."""
    (path,) = (root / "score" / model.replace("/", "_")).rglob(f"BFCL_v4_{category}_score.json")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row for row in rows[1:]}


def score_model(root: Path, model: str, ids: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], list[Entry]]:
    """Everything about one model name: figures by category, summaries, legality; and each entry's verdict."""
    rows = read_results(root, model)
    categories, entries, whole = {}, [], Tally()
    for category, asked in ids.items():
        failures = read_failures(root, model, category)
        sums = _Sums()
        judged = [_judge(model, category, rows[id], failures.get(id), sums) for id in asked if id in rows]
        categories[category] = _figures(category, judged, len(asked), sums)
        entries += judged
        _merge(whole, sums.tally)
    accuracy = {name: c["correct"] / c["n"] for name, c in categories.items()}
    measured = {name: int(c["n"]) for name, c in categories.items()}
    return {
        "categories": categories,
        "summaries": {mean.name: asdict(overall(mean, accuracy, measured)) for mean in SUMMARIES},
        "legality": whole.as_json(),
        "errors": sum(int(c["errors"]) for c in categories.values()),
        "kinds": dict(Counter(e.kind for e in entries).most_common()),
    }, entries


def _judge(model: str, category: str, row: Mapping[str, Any], failure: Mapping[str, Any] | None, sums: _Sums) -> Entry:
    verdicts = []
    for reply in row.get("replies", ()):
        sums.seconds.append(reply["seconds"])
        usage = reply["usage"] or {}
        sums.tokens_in += usage.get("prompt_tokens") or 0
        sums.tokens_out += usage.get("completion_tokens") or 0
        sums.cut_replies += reply["finish_reason"] == "length"
        for position, call in enumerate(reply["calls"]):
            # Only the last call of a reply can have been cut; servers other than ours do not say which.
            last = position == len(reply["calls"]) - 1
            cut = call["incomplete"] or (reply["finish_reason"] == "length" and last and not _parses(call["arguments"]))
            verdict = judge_against({**call, "incomplete": cut}, call["offered"], call["parameters"])
            verdicts.append(verdict)
            sums.tally.add(verdict, row["id"], call)
    called = bool(verdicts)
    broken = [f"{v.status}: {v.detail}" for v in verdicts if v.malformed]
    detail = row["result"][:300] if failed(row) else " ".join(broken)[:300] or _words(failure)
    kind = _kind(category, row, failure, verdicts)
    return Entry(model, category, row["id"], failure is None, kind == "correct", kind, called, detail)


def _parses(arguments: Any) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, TypeError):
        return False
    return True


def _words(failure: Mapping[str, Any] | None) -> str:
    """The harness's own sentence about what is wrong."""
    if failure is None:
        return ""
    error = failure.get("error", "")
    error = error.get("error_message", error.get("error", error)) if isinstance(error, dict) else error
    return (" ".join(map(str, error)) if isinstance(error, list) else str(error))[:300]


def _kind(category: str, row: Mapping[str, Any], failure: Mapping[str, Any] | None, verdicts: Sequence[Verdict]) -> str:
    if failed(row):
        return "server error"
    if any(v.status == "cut" for v in verdicts):
        return "cut call"
    if any(v.malformed for v in verdicts):
        return "illegal call"
    if failure is None:
        return "correct"
    error = failure.get("error")
    label = str(failure.get("error_type") or (error.get("error_type") if isinstance(error, dict) else ""))
    if "irrelevance" in category:
        return "extra call"
    if not verdicts or "decoder" in label or "empty_turn" in label or "no_last_message" in label:
        return "missing call" if not category.startswith(("memory", "web_search")) else "wrong answer"
    if "force_terminated" in label:
        return "too many steps"
    if label.startswith("multi_turn"):
        return "wrong end state" if "state" in label else "wrong calls"
    if label.startswith("agentic"):
        return "wrong answer"
    wanted = Counter(name.replace(".", "_") for truth in failure["possible_answer"] for name in truth)
    return mismatch(wanted, Counter(call["name"] for reply in row["replies"] for call in reply["calls"]))


def mismatch(wanted: Counter[str], got: Counter[str]) -> str:
    """What is wrong with calls that are not the wanted ones, from the functions' names alone."""
    if got == wanted:
        return "wrong argument"
    if got.total() == wanted.total():
        return "wrong function"
    return "missing call" if got.total() < wanted.total() else "extra call"


def _figures(category: str, judged: Sequence[Entry], asked: int, sums: _Sums) -> dict[str, Any]:
    n, correct = len(judged), sum(e.correct for e in judged)
    return {
        "n": n,
        "asked": asked,
        "of": SIZES[category],
        "correct": correct,
        "accuracy": correct / n if n else 0.0,
        "interval": wilson(correct, n),
        "harness_correct": sum(e.harness for e in judged),
        "errors": sum(e.kind == "server error" for e in judged),
        "call_rate": sum(e.called for e in judged) / n if n else 0.0,
        "legality": sums.tally.as_json(),
        "cut_replies": sums.cut_replies,
        "requests": len(sums.seconds),
        "tokens_in": sums.tokens_in,
        "tokens_out": sums.tokens_out,
        "latency_mean": statistics.fmean(sums.seconds) if sums.seconds else None,
        "latency_p95": statistics.quantiles(sums.seconds, n=20)[-1] if len(sums.seconds) > 1 else None,
        "kinds": dict(Counter(e.kind for e in judged).most_common()),
    }


def _merge(whole: Tally, part: Tally) -> None:
    whole.legal += part.legal
    whole.illegal += part.illegal
    whole.cut += part.cut
    whole.reasons += part.reasons
    whole.examples += part.examples[: 20 - len(whole.examples)]
