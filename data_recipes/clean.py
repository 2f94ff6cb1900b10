"""One source, read once: converted, checked, deduplicated, decontaminated; what is left goes to a store on disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_recipes.check import arranged, check
from octupus.data.sources import Source
from octupus.data.store import Store, StoreWriter, as_json, identity
from octupus.errors import DataError
from octupus.runs import Reporter
from octupus.wire.messages import Conversation

EXAMPLES = 5


@dataclass
class Rejects:
    """Rows left out, by reason, with the ids and the full reason of some."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[list[str]]] = field(default_factory=dict)

    def add(self, reason: str, row_id: str) -> None:
        kind = reason.partition(": ")[0]
        self.counts[kind] += 1
        some = self.examples.setdefault(kind, [])
        if len(some) < EXAMPLES:
            some.append([row_id, reason])

    @property
    def total(self) -> int:
        return self.counts.total()

    def report(self) -> dict[str, Any]:
        return {k: {"count": n, "examples": self.examples[k]} for k, n in self.counts.most_common()}

    def sentence(self) -> str:
        """The most frequent reasons, each with one row in full."""
        return "; ".join(
            f"{n} x {kind} (row {self.examples[kind][0][0]}: {self.examples[kind][0][1]})"
            for kind, n in self.counts.most_common(3)
        )


class Contamination(Protocol):
    """What the training data must be kept free of."""

    def hit(self, conversation: Conversation) -> str | None:
        """Why the conversation must not be trained on, or None."""
        ...

    def same_name(self, conversation: Conversation) -> bool:
        """Whether only a tool's name is known: counted, not removed."""
        ...


def clean(source: Source, folder: Path, inputs: str, against: Contamination | None, reporter: Reporter) -> Store:
    """Read every row of a source; see the module.

    Raises:
        DataError: a file that cannot be read, or no space for the result.
    """
    rejects, removed = Rejects(), Rejects()
    seen: set[int] = set()
    read = same_name = 0
    with StoreWriter(folder) as store:
        for row_id, row in source.rows():
            read += 1
            reporter.advance(note=source.label)
            try:
                conversation = source.conversation(row_id, row)
                check(conversation)
                conversation = arranged(conversation)
                text = as_json(conversation)
            except DataError as error:
                rejects.add(error.reason, row_id)
                continue
            same = identity(conversation)
            hit = "exact duplicate" if same in seen else against.hit(conversation) if against else None
            if hit is not None:
                removed.add(hit, row_id)
                continue
            seen.add(same)
            same_name += against is not None and against.same_name(conversation)
            store.add(row_id, {k: row[k] for k in ("split", "kind") if k in row}, conversation, text, same)
    report = {
        "inputs": inputs,
        "source": source.label,
        "licence": source.licence,
        "read": read,
        "rejected": rejects.report(),
        "removed": removed.report(),
        "same_tool_name_as_bfcl": same_name,
        "reject_rate": round(rejects.total / read, 6) if read else 0.0,
        "worst": rejects.sentence(),
    }
    store.publish(report)
    found = Store.find(folder, inputs)
    assert found is not None
    return found
