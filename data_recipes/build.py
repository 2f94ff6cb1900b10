"""Sources to shards: a run's ``data/stage1``, ``data/stage2``, ``data/heldout.jsonl``, ``report.json`` and its page.

Source by source: convert, check, deduplicate, decontaminate (clean.py). Stage by stage: near duplicates and caps
(choose.py), mix, render in chunks, pack, write (octupus/data). What is finished and made from the same inputs is kept,
so a killed build goes on.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_recipes import page
from data_recipes.choose import Chosen, choose
from data_recipes.clean import Cleaner, clean
from data_recipes.stage import write_stage
from octupus.config import DataStage, Recipe, SourceSection, load
from octupus.data.augment import Augmentation
from octupus.data.decontaminate import Benchmark
from octupus.data.files import file_hashes, value_hash
from octupus.data.lock import check_files
from octupus.data.mix import Ingredient, Mixture, mix
from octupus.data.render import Documents, Renderer, render_all
from octupus.data.shards import Manifest, read_manifest, writing
from octupus.data.sources import open_source, rows_code
from octupus.data.store import Store
from octupus.data.workers import Workers
from octupus.errors import ConfigError, DataError, OctupusError
from octupus.publish import publish_bytes
from octupus.runs import Reporter, Run, runs_folder
from octupus.tokenizer import HfTokenizer, load_wire
from octupus.wire import Wire
from octupus.wire.messages import canonical_json

StageName = Literal["stage1", "stage2"]
STAGES: tuple[StageName, ...] = ("stage1", "stage2")


def run(recipe: Recipe, run: Run, stages: Sequence[StageName] = STAGES) -> dict[str, Any]:
    """Build everything that training (or some of its stages) and the held-out measure read.

    Returns:
        Rows, documents and tokens of each stage, and the number of held-out conversations.

    Raises:
        ConfigError: a stage without sources, an unknown source.
        DataError: a source that cannot be read, that rejects more than it may, or that leaves nothing; a full disk;
            another build at work in this run.
    """
    stage = run.stage("data")
    wire, _ = wire_of(recipe, run)
    model = model_of(run)
    with _alone(stage.path), Workers() as workers:
        with stage.reporting(None, "conversations") as reporter:
            build = _Build(recipe, run, wire, model, reporter, workers)
            build.clean_all(stages)
            held_out = build.write_heldout()
        outputs: dict[str, Any] = {"heldout": len(held_out)}
        for name in stages:
            wanted: DataStage = getattr(recipe.data, name)
            if wanted.sources:
                manifest = build.stage(name, wanted, held_out)
                outputs[name] = {k: getattr(manifest, k) for k in ("rows", "documents", "tokens", "supervised_tokens")}
        if len(outputs) == 1:
            named = " nor ".join(f"data.{name}.sources" for name in stages)
            raise ConfigError(f"recipe {recipe.name!r}: no source in {named}")
        page.publish(stage.path, build.report)
    print(f"data: {stage.path / 'report.html'} shows what is in it")
    return {**outputs, "report": "data/report.html"}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One build at a time in a folder, as two would write the same files; the kernel forgets a killed one's claim."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            why = "another build is at work here; wait until it ends, or choose another RUN"
            raise DataError(why, source=str(folder)) from error
        yield


def model_of(run: Run) -> Path:
    """Where surgery leaves the model, whose tokenizer the data are made for."""
    return run.stage("surgery").path / "model"


def wire_of(recipe: Recipe, run: Run) -> tuple[Wire, HfTokenizer]:
    """The wire that the data are rendered with.

    Raises:
        ConfigError: surgery has not been done.
    """
    if not model_of(run).is_dir():
        raise ConfigError(
            f"{model_of(run)} does not exist: the data are made for the tokenizer that surgery extends; "
            f"run: make surgery RECIPE={recipe.name} RUN={run.name}"
        )
    return load_wire(model_of(run), recipe.wire.dialect, recipe.wire.system)


@dataclass(frozen=True)
class _Found:
    """A source's store with the hash of what it was made from."""

    store: Store
    inputs: str


class _Build:
    def __init__(self, recipe: Recipe, run: Run, wire: Wire, model: Path, reporter: Reporter, workers: Workers) -> None:
        self.recipe, self.run, self.wire, self.model, self.reporter = recipe, run, wire, model, reporter
        self.workers = workers
        self.path = run.stage("data").path
        self.found: dict[str, _Found] = {}
        self.code = rows_code()
        self.report: dict[str, Any] = {"recipe": recipe.name, "fingerprint": wire.fingerprint}

    def clean_all(self, stages: Sequence[StageName]) -> None:
        """Clean each distinct source of the recipe once, then hold each against its rejection rate."""
        data = self.recipe.data
        benchmark = Benchmark.find() if data.decontaminate else None
        if data.decontaminate and benchmark is None:
            raise ConfigError(
                f"recipe {self.recipe.name!r}: BFCL's data, which training data are kept free of, are not here; run "
                "`make bfcl-data`, or set data.decontaminate=false"
            )
        self.report["decontamination"] = f"against {benchmark.description}" if benchmark else "switched off"
        trained = [s for name in stages for s in getattr(data, name).sources]
        for section in (*trained, *data.heldout):
            against = benchmark if section in trained else None
            key = source_key(section)
            if key not in self.found:
                self.found[key] = self._clean(section, key, against)
        self.report["sources"] = [f.store.report for f in self.found.values()]
        page.publish(self.path, self.report)
        for section in (*trained, *data.heldout):
            self._judge(section)

    def _clean(self, section: SourceSection, key: str, against: Benchmark | None) -> _Found:
        source = open_source(section, self.run)
        files = {} if source.path is None else file_hashes(source.path, source.label)
        if source.fetched is not None and source.path is not None:
            check_files(source.fetched, files, source.path)
        inputs = value_hash(
            {
                "source": key,
                "files": files,
                "code": self.code,
                "against": against.digest if against else None,
                "signed": self.recipe.data.near_duplicates is not None,
            }
        )
        folder = self.path / "clean" / key
        store = Store.find(folder, inputs)
        if store is None:
            work = self.path / "work" / key / inputs[:16]
            _only(work)
            signed = self.recipe.data.near_duplicates is not None
            cleaner = Cleaner(section, source.path, against.folder if against else None, signed, work)
            store = clean(source, cleaner, folder, inputs, files, self.reporter, self.workers)
            facts = store.report
            print(f"data: {source.label}: read {facts['read']}, kept {facts['kept']}; {facts['worst'] or 'no rejects'}")
        return _Found(store, inputs)

    def _judge(self, section: SourceSection) -> None:
        facts = self.found[source_key(section)].store.report
        if facts["reject_rate"] > section.max_reject_rate:
            raise DataError(
                f"{facts['reject_rate']:.1%} of {facts['read']} rows rejected, {section.max_reject_rate:.1%} allowed: "
                f"{facts['worst']}; look at {self.path / 'report.html'}, mend the source or raise its max_reject_rate",
                source=facts["source"],
            )
        if not facts["kept"]:
            raise DataError(
                f"no row is left of {facts['read']}; look at {self.path / 'report.html'}", source=facts["source"]
            )

    def write_heldout(self) -> NDArray[np.uint64]:
        """``data/heldout.jsonl``; returns the digests of its questions, which training must not see."""
        held = [self.found[source_key(s)].store for s in self.recipe.data.heldout]
        lines = [
            canonical_json({"tools": [], **row["conversation"], "split": "unseen", "kind": "", **row["labels"]})
            for store in held
            for row in store
        ]
        publish_bytes(self.path / "heldout.jsonl", "".join(f"{line}\n" for line in lines).encode())
        return np.concatenate([np.zeros(0, np.uint64), *(store.column("questions") for store in held)])

    def stage(self, name: str, wanted: DataStage, held_out: NDArray[np.uint64]) -> Manifest:
        """Mix, render, pack and write one stage, unless its shards are there."""
        found = [self.found[source_key(s)] for s in wanted.sources]
        inputs = value_hash(
            {
                "stage": wanted.model_dump(mode="json"),
                "near_duplicates": self.recipe.data.near_duplicates,
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
            chosen = choose([f.store for f in found], wanted, self.recipe.data.near_duplicates)
            ingredients = [
                Ingredient(
                    f.store.report["source"],
                    s.epochs,
                    f.store.column("identities"),
                    f.store.column("questions"),
                    chosen.left_out[i],
                )
                for i, (f, s) in enumerate(zip(found, wanted.sources, strict=True))
            ]
            mixture = mix(ingredients, held_out, wanted.seed, variants=wanted.balance.changes)
            documents = self._render(name, wanted, mixture, inputs, found)
            facts = self._facts(found, wanted, mixture, chosen)
            columns = [(f.store.column("languages"), f.store.column("tools")) for f in found]
            manifest = write_stage(folder, wanted, mixture, documents, facts, columns, inputs, self.wire.fingerprint)
            documents.close()
            shutil.rmtree(self.path / "work" / name)
            print(
                f"data: {name}: {manifest.rows} rows of {wanted.context}, {manifest.documents} documents, "
                f"{manifest.tokens} tokens, {manifest.packing_efficiency:.1%} full"
            )
        self.report[name] = manifest.model_dump(mode="json", exclude={"files"})
        return manifest

    def _facts(
        self, found: Sequence[_Found], wanted: DataStage, mixture: Mixture, chosen: Chosen
    ) -> list[dict[str, Any]]:
        return [
            {
                "source": f.store.report["source"],
                "licence": f.store.report["licence"],
                "revision": f.store.report["revision"],
                "inputs": f.store.report["files"],
                "epochs": section.epochs,
                "rows": len(f.store),
                "in_an_earlier_source": mixture.duplicates[i],
                "held_out": mixture.held_out[i],
                **chosen.facts[i],
            }
            for i, (f, section) in enumerate(zip(found, wanted.sources, strict=True))
        ]

    def _render(
        self, name: str, wanted: DataStage, mixture: Mixture, inputs: str, found: Sequence[_Found]
    ) -> Documents:
        work = self.path / "work" / name / inputs[:16]
        _only(work)
        sources = tuple((f.store.folder, f.inputs) for f in found)
        wire, change = self.recipe.wire, Augmentation(wanted.balance, wanted.seed) if wanted.balance.changes else None
        renderer = Renderer(self.model, wire.dialect, wire.system, wanted.context, sources, work, change)
        keys = mixture.unique()
        folders = []
        with self.run.stage("data").reporting(len(keys), "conversations") as reporter:
            for count, folder in render_all(renderer, keys, self.workers):
                folders.append(folder)
                reporter.advance(count, f"rendering {name}")
        return Documents(folders, keys)


def _only(folder: Path) -> None:
    """Remove what other inputs left half made beside a folder."""
    for stale in folder.parent.glob("*"):
        if stale.name != folder.name:
            shutil.rmtree(stale)


def source_key(section: SourceSection) -> str:
    """Names what is read, not how often: equal for two stages that take the same rows."""
    what = section.model_dump(mode="json", exclude={"epochs", "max_reject_rate", "max_per_function"})
    return f"{section.name}-{value_hash(what)[:10]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """``make data STAGE=stage2``: the shards of one stage; the chain's own data stage takes up what is finished."""
    parser = argparse.ArgumentParser(prog="python -m data_recipes.build", description=main.__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--recipe", default="v2")
    parser.add_argument("--run", default=None, help="folder below runs/; default: the recipe's name")
    parser.add_argument("--set", nargs="*", default=[], metavar="path=value")
    chosen = parser.parse_args(arguments)
    try:
        recipe = load(chosen.recipe, chosen.set)
        folder = Run(runs_folder() / (chosen.run or recipe.name))
        print(run(recipe, folder, [chosen.stage])[chosen.stage])
    except OctupusError as error:
        print(f"data: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
