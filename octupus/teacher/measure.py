"""What a run of answers looks like in numbers: lengths before and after, and rejects to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 300
"""Characters of an example's texts that are kept."""
KINDS = ("published", "kept", "rejected")


class Lengths:
    """Counts of answers by length: bucket ``k`` holds those of 2**(k-1) to 2**k - 1 characters, 0 the empty ones."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row's answer, and the published one in whose place it goes."""
        ours = row["messages"][row["opening"] :]
        said = sum(len(m["content"] or "") for m in ours if m["role"] == "assistant")
        self._count("rejected" if row.get("reason") else "kept", said)
        if row["was"]:
            self._count("published", row["was"])

    def merge(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        for kind, buckets in counts.items():
            for bucket, n in buckets.items():
                self.counts[kind][bucket] = self.counts[kind].get(bucket, 0) + n

    def _count(self, kind: str, characters: int) -> None:
        self.merge({kind: {str(characters.bit_length()): 1}})


def bucket_name(bucket: int) -> str:
    """``8 to 15``"""
    return "0" if bucket == 0 else f"{1 << (bucket - 1):,} to {(1 << bucket) - 1:,}"


def example(row: Mapping[str, Any]) -> dict[str, str]:
    """A reject as a report quotes it."""
    asked = next((m["content"] for m in reversed(row["messages"]) if m["role"] == "user"), "")
    last = row["messages"][-1]
    calls = [f"{c['function']['name']}({c['function']['arguments']})" for c in last.get("tool_calls", ())]
    said = " ".join([last["content"] or "", *calls]) if last["role"] == "assistant" else ""
    return {"id": row["id"], "reason": row["reason"][:SHOWN], "asked": asked[:SHOWN], "said": said[:SHOWN]}
