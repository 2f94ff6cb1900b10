"""What ``make oracle`` prints: the path's ceiling by category, and why entries fail that got the true answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.scores import read_failures, read_results
from eval.weights import overall
from octupus.publish import read_json

MODEL = "octupus-FC"
REFUSED = re.compile(r"arguments of .*|function .* cannot be called.*|tools\[\d+\].*|the arguments of .*")


def read(root: Path, category: str) -> dict[str, Any]:
    """One category's figures and failures from the project folder of the harness."""
    scores = read_json(root / "scores.json")
    assert scores is not None
    figures = scores["models"][MODEL]["categories"][category]
    kept = ("n", "correct", "accuracy", "errors", "requests")
    return {"category": category, **{key: figures[key] for key in kept}, "failures": list(_failures(root, category))}


def _failures(root: Path, category: str) -> Iterator[dict[str, str]]:
    """Each entry that is not right, with the reason in the words of whoever refused it."""
    failures, results = read_failures(root, MODEL, category), read_results(root, MODEL)
    for line in (root / "entries.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["correct"]:
            continue
        if entry["kind"] == "server error":
            text = str(results[entry["id"]]["result"]).replace("\\'", "'")
            found = REFUSED.search(text)
            why = f"the server refused the truth: {found.group() if found else text}"
        else:
            wanted = json.dumps(failures.get(entry["id"], {}).get("possible_answer", ""), ensure_ascii=False)
            why = f"{entry['kind']} for the harness: {entry['detail']} (acceptable: {wanted[:200]})"
        yield {"id": entry["id"], "why": " ".join(why.split())[:500]}


def line(found: Mapping[str, Any]) -> str:
    """``live_multiple   1053   98.58%   15 fail``"""
    failing = len(found["failures"])
    share = f"{100 * found['accuracy']:6.2f}%"
    return f"{found['category']:26} {found['n']:5} {share}{f'  {failing} fail' if failing else ''}"


def report(all_of: Sequence[Mapping[str, Any]]) -> str:
    """The failures with their reasons; the last line holds the v3-style overall."""
    lines = ["", "What fails with the truth:"] if any(found["failures"] for found in all_of) else [""]
    lines += [f"  {failure['id']}: {failure['why']}" for found in all_of for failure in found["failures"]]
    accuracy = {found["category"]: found["accuracy"] for found in all_of}
    v3 = overall("Overall v3", accuracy, {found["category"]: found["n"] for found in all_of})
    share = "no category of it" if v3["value"] is None else f"{100 * v3['value']:.2f}%"
    rest = f" over {100 * v3['covered']:.0f}% of its weight" if v3["missing"] and v3["value"] is not None else ""
    return "\n".join([*lines, "", f"v3-style overall: {share}{rest}"])
