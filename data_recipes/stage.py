"""The last step of a stage: its documents packed pass by pass and written, with what its manifest and page tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_recipes.clean import Rejects
from octupus.config import DataStage
from octupus.data.language import LANGUAGES
from octupus.data.mix import Mixture, parts, shuffled
from octupus.data.render import Documents
from octupus.data.shards import Manifest, ShardWriter
from octupus.errors import DataError


def write_stage(
    folder: Path,
    wanted: DataStage,
    mixture: Mixture,
    documents: Documents,
    sources: list[dict[str, Any]],
    columns: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint16]]],
    inputs: str,
    fingerprint: str,
) -> Manifest:
    """Pack each pass on its own (so that no row holds a document twice) and write the shards.

    Raises:
        DataError: nothing is left to train on.
    """
    if not len(documents):
        raise DataError("no document is left to train on; look at data/report.html", source=str(folder))
    taken: list[NDArray[np.int64]] = []
    with ShardWriter(folder) as writer:
        for number, keys in enumerate(mixture.passes):
            chosen = documents.find(shuffled(keys, wanted.seed, number))
            taken.append(chosen)
            documents.write_packed(chosen, wanted.context, writer)
        dropped = Rejects()
        for source, row, reason in documents.dropped:
            dropped.add(reason, f"{sources[source]['source']}#{row}")
        all_taken = np.concatenate(taken)
        mixed = [
            {**facts, **mine} for facts, mine in zip(sources, _counted(documents, all_taken, columns), strict=True)
        ]
        return writer.publish(
            context=wanted.context,
            fingerprint=fingerprint,
            inputs=inputs,
            details={
                "sources": mixed,
                "dropped": dropped.report(),
                "lengths": histogram(documents.tokens[all_taken], wanted.context),
            },
        )


def _counted(
    documents: Documents,
    taken: NDArray[np.int64],
    columns: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint16]]],
) -> list[dict[str, Any]]:
    """For each source what it gave to the shards: documents, tokens, documents by language and by number of tools."""
    sources, _, rows = parts(documents.keys[taken])
    tokens, found = documents.tokens[taken], []
    for number, (languages, tools) in enumerate(columns):
        mine = sources == number
        by_language = np.bincount(languages[rows[mine]], minlength=len(LANGUAGES)).tolist()
        offered, documents_of = np.unique(tools[rows[mine]], return_counts=True)
        found.append(
            {
                "documents": int(mine.sum()),
                "tokens": int(tokens[mine].sum()),
                "languages": {name: n for name, n in zip(LANGUAGES, by_language, strict=True) if n},
                "tools": dict(zip(map(str, offered.tolist()), documents_of.tolist(), strict=True)),
            }
        )
    return found


def histogram(tokens: NDArray[np.int64], context: int) -> dict[str, list[int]]:
    """Documents by length: ``{"upto": [...], "documents": [...]}``, twenty bins of equal width."""
    edges = np.linspace(0, context, 21).round().astype(np.int64)
    counts, _ = np.histogram(tokens, bins=edges + np.int64(1))
    return {"upto": edges[1:].tolist(), "documents": counts.tolist()}
