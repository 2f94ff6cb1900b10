"""Sources to shards: ``data/stage1``, ``data/stage2``, ``data/heldout.jsonl`` and ``data/report.json`` of a run.

Source by source: convert, check, deduplicate, decontaminate (clean.py). Stage by stage: mix, render in chunks, pack,
write (octupus/data). What is finished and made from the same inputs is kept, so a killed build goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_recipes.clean import Rejects, clean
from octupus.config import DataStage, Recipe, SourceSection
from octupus.data.decontaminate import Benchmark
from octupus.data.files import content_hash, value_hash
from octupus.data.mix import Ingredient, Mixture, mix, shuffled
from octupus.data.render import Documents, Renderer, render_all
from octupus.data.shards import Manifest, ShardWriter, read_manifest
from octupus.data.sources import open_source, rows_code
from octupus.data.store import Store
from octupus.errors import ConfigError, DataError
from octupus.runs import Reporter, Run, publish_bytes, publish_json
from octupus.tokenizer import load_wire
from octupus.wire import Wire
from octupus.wire.messages import canonical_json

STAGES: tuple[Literal["stage1", "stage2"], ...] = ("stage1", "stage2")


def run(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Build everything that training and the held-out measure read.

    Returns:
        Rows, documents and tokens of each stage, and the number of held-out conversations.

    Raises:
        ConfigError: a stage without sources, an unknown source.
        DataError: a source that cannot be read, that rejects more than it may, or that leaves nothing; a full disk.
    """
    stage = run.stage("data")
    model = run.stage("surgery").path / "model"
    wire, _ = load_wire(model, recipe.wire.dialect, recipe.wire.system)
    with stage.reporting(None, "conversations") as reporter:
        build = _Build(recipe, run, wire, model, reporter)
        build.clean_all()
        held_out = build.write_heldout()
    outputs: dict[str, Any] = {"heldout": len(held_out)}
    for name in STAGES:
        wanted: DataStage = getattr(recipe.data, name)
        if wanted.sources:
            manifest = build.stage(name, wanted, held_out)
            outputs[name] = {k: getattr(manifest, k) for k in ("rows", "documents", "tokens", "supervised_tokens")}
    if len(outputs) == 1:
        raise ConfigError(f"recipe {recipe.name!r}: neither data.stage1.sources nor data.stage2.sources names a source")
    publish_json(stage.path / "report.json", build.report)
    return {**outputs, "report": "data/report.json"}


@dataclass(frozen=True)
class _Found:
    """A source's store with the hash of what it was made from."""

    store: Store
    inputs: str


class _Build:
    def __init__(self, recipe: Recipe, run: Run, wire: Wire, model: Path, reporter: Reporter) -> None:
        self.recipe, self.run, self.wire, self.model, self.reporter = recipe, run, wire, model, reporter
        self.path = run.stage("data").path
        self.found: dict[str, _Found] = {}
        self.code = rows_code()
        self.report: dict[str, Any] = {"recipe": recipe.name, "fingerprint": wire.fingerprint}

    def clean_all(self) -> None:
        """Clean each distinct source of the recipe once, then hold each against its rejection rate."""
        data = self.recipe.data
        benchmark = Benchmark.find() if data.decontaminate else None
        self.report["decontamination"] = (
            f"against {benchmark.description}"
            if benchmark
            else "not done: run `make bfcl-data` first, then build again"
            if data.decontaminate
            else "switched off by data.decontaminate"
        )
        trained = [s for name in STAGES for s in getattr(data, name).sources]
        for section in (*trained, *data.heldout):
            against = benchmark if section in trained else None
            key = source_key(section)
            if key not in self.found:
                self.found[key] = self._clean(section, key, against)
        self.report["sources"] = [f.store.report for f in self.found.values()]
        publish_json(self.path / "report.json", self.report)
        for section in (*trained, *data.heldout):
            self._judge(section)

    def _clean(self, section: SourceSection, key: str, against: Benchmark | None) -> _Found:
        source = open_source(section, self.run)
        inputs = value_hash(
            {
                "source": key,
                "files": content_hash(source.path) if source.path is not None else None,
                "code": self.code,
                "against": against.digest if against else None,
            }
        )
        folder = self.path / "clean" / key
        store = Store.find(folder, inputs)
        if store is None:
            store = clean(source, folder, inputs, against, self.reporter)
            facts = store.report
            print(f"data: {source.label}: read {facts['read']}, kept {facts['kept']}; {facts['worst'] or 'no rejects'}")
        return _Found(store, inputs)

    def _judge(self, section: SourceSection) -> None:
        facts = self.found[source_key(section)].store.report
        if facts["reject_rate"] > section.max_reject_rate:
            raise DataError(
                f"{facts['reject_rate']:.1%} of {facts['read']} rows rejected, {section.max_reject_rate:.1%} allowed: "
                f"{facts['worst']}; look at {self.path / 'report.json'}, mend the source or raise its max_reject_rate",
                source=facts["source"],
            )
        if not facts["kept"]:
            raise DataError(
                f"no row is left of {facts['read']}; look at {self.path / 'report.json'}", source=facts["source"]
            )

    def write_heldout(self) -> NDArray[np.uint64]:
        """``data/heldout.jsonl``; returns the digests of its questions, which training must not see."""
        parts = [self.found[source_key(s)].store for s in self.recipe.data.heldout]
        lines = [
            canonical_json({"tools": [], **row["conversation"], "split": "unseen", "kind": "", **row["labels"]})
            for part in parts
            for row in part
        ]
        publish_bytes(self.path / "heldout.jsonl", "".join(f"{line}\n" for line in lines).encode())
        return np.concatenate([p.questions for p in parts]) if parts else np.zeros(0, np.uint64)

    def stage(self, name: str, wanted: DataStage, held_out: NDArray[np.uint64]) -> Manifest:
        """Mix, render, pack and write one stage, unless its shards are there."""
        found = [self.found[source_key(s)] for s in wanted.sources]
        inputs = value_hash(
            {
                "stage": wanted.model_dump(mode="json"),
                "sources": [f.inputs for f in found],
                "held_out": value_hash(np.unique(held_out).tolist()),
                "fingerprint": self.wire.fingerprint,
                "code": self.code,
            }
        )
        folder = self.path / name
        try:
            manifest = read_manifest(folder)
        except DataError:
            manifest = None
        if manifest is None or manifest.inputs != inputs:
            parts = [
                Ingredient(f.store.report["source"], s.epochs, f.store.identities, f.store.questions)
                for f, s in zip(found, wanted.sources, strict=True)
            ]
            mixture = mix(parts, held_out, wanted.seed)
            documents = self._render(name, wanted, mixture, inputs, found)
            facts = self._facts(found, wanted, mixture)
            manifest = write_stage(folder, wanted, mixture, documents, facts, inputs, self.wire.fingerprint)
            shutil.rmtree(self.path / "work" / name)
            print(
                f"data: {name}: {manifest.rows} rows of {wanted.context}, {manifest.documents} documents, "
                f"{manifest.tokens} tokens, {manifest.packing_efficiency:.1%} full"
            )
        self.report[name] = manifest.model_dump(mode="json", exclude={"files"})
        return manifest

    def _facts(self, found: Sequence[_Found], wanted: DataStage, mixture: Mixture) -> list[dict[str, Any]]:
        return [
            {
                "source": f.store.report["source"],
                "licence": f.store.report["licence"],
                "epochs": section.epochs,
                "rows": len(f.store),
                "in_an_earlier_source": mixture.duplicates[i],
                "held_out": mixture.held_out[i],
            }
            for i, (f, section) in enumerate(zip(found, wanted.sources, strict=True))
        ]

    def _render(
        self, name: str, wanted: DataStage, mixture: Mixture, inputs: str, found: Sequence[_Found]
    ) -> Documents:
        work = self.path / "work" / name
        for stale in work.glob("*"):
            if stale.name != inputs[:16]:
                shutil.rmtree(stale)
        sources = tuple((f.store.folder, f.inputs) for f in found)
        wire = self.recipe.wire
        renderer = Renderer(self.model, wire.dialect, wire.system, wanted.context, sources, work / inputs[:16])
        pairs = mixture.unique()
        folders = []
        with self.run.stage("data").reporting(len(pairs), "conversations") as reporter:
            try:
                for count, folder in render_all(renderer, pairs, len(os.sched_getaffinity(0))):
                    folders.append(folder)
                    reporter.advance(count, f"rendering {name}")
            except BrokenProcessPool as error:
                raise DataError(
                    "a process that rendered was killed, most likely for want of memory; run the same command again, "
                    "what is finished is kept",
                    source=f"data.{name}",
                ) from error
        return Documents(folders, pairs)


def write_stage(
    folder: Path,
    wanted: DataStage,
    mixture: Mixture,
    documents: Documents,
    sources: list[dict[str, Any]],
    inputs: str,
    fingerprint: str,
) -> Manifest:
    """Pack each pass on its own (so that no row holds a document twice) and write the shards.

    Raises:
        DataError: nothing is left to train on.
    """
    if not len(documents):
        raise DataError("no document is left to train on; look at data/report.json", source=str(folder))
    counts = np.zeros((len(sources), 2), np.int64)
    with ShardWriter(folder) as writer:
        for number, pairs in enumerate(mixture.passes):
            chosen = documents.find(shuffled(pairs, wanted.seed, number))
            np.add.at(counts[:, 0], documents.pairs[chosen, 0], 1)
            np.add.at(counts[:, 1], documents.pairs[chosen, 0], documents.tokens[chosen])
            documents.write_packed(chosen, wanted.context, writer)
        dropped = Rejects()
        for source, row, reason in documents.dropped:
            dropped.add(reason, f"{sources[source]['source']}#{row}")
        mixed = [
            {**facts, "documents": int(n), "tokens": int(tokens)}
            for facts, (n, tokens) in zip(sources, counts, strict=True)
        ]
        return writer.publish(
            context=wanted.context,
            fingerprint=fingerprint,
            inputs=inputs,
            details={"sources": mixed, "dropped": dropped.report()},
        )


def source_key(section: SourceSection) -> str:
    """Names what is read, not how often: equal for two stages that take the same rows."""
    what = section.model_dump(mode="json", exclude={"epochs", "max_reject_rate"})
    return f"{section.name}-{value_hash(what)[:10]}"
