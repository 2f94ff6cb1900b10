"""``make preview``: examples as the model will see them, supervised tokens in colour.

From the run's shards where they are built, else straight from the recipe's sources.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from data_recipes.build import STAGES, wire_of
from data_recipes.check import check
from octupus.config import DataStage, load
from octupus.data.shards import Shards
from octupus.data.sources import open_source
from octupus.errors import DataError, OctupusError, WireError
from octupus.runs import Run, runs_folder
from octupus.tokenizer import HfTokenizer
from octupus.wire import Rendered, Wire

PLAIN, SUPERVISED = ("\033[2m", "\033[0m"), ("\033[1;32m", "\033[0m")
UNCOLOURED, MARKED = ("", ""), ("«", "»")


def shown(tokenizer: HfTokenizer, rendered: Rendered, colour: bool) -> str:
    """One example as text; supervised runs in green, or between « and » without colours."""
    names = {id: text for text, id in tokenizer.added_tokens.items()}
    parts = []
    for supervised, run in groupby(zip(rendered.ids, rendered.mask, strict=True), key=lambda pair: pair[1]):
        ids = [id for id, _ in run]
        before, after = (SUPERVISED if supervised else PLAIN) if colour else (MARKED if supervised else UNCOLOURED)
        parts.append(f"{before}{''.join(_words(tokenizer, names, ids))}{after}")
    return "".join(parts)


def _words(tokenizer: HfTokenizer, names: dict[int, str], ids: Sequence[int]) -> Iterator[str]:
    for added, run in groupby(ids, key=lambda id: id in names):
        some = list(run)
        yield "".join(names[id] for id in some) if added else tokenizer.decode(some)


def from_shards(folder: Path, n: int, seed: int) -> Iterator[tuple[str, Rendered]]:
    """``n`` documents of finished shards, drawn by seed."""
    shards = Shards(folder)
    for row in np.random.default_rng(seed).choice(len(shards), min(n, len(shards)), replace=False).tolist():
        documents = list(shards[row].documents())
        place = seed % len(documents)
        ids, mask = documents[place]
        yield f"row {row}, document {place} of {len(documents)}", Rendered(ids.tolist(), mask.tolist())


def from_sources(stage: DataStage, run: Run, wire: Wire, n: int) -> Iterator[tuple[str, Rendered]]:
    """The first good rows of each source, in turns."""
    for section in stage.sources:
        source, left = open_source(section, run), max(1, n // len(stage.sources))
        for row_id, row in source.rows():
            try:
                conversation = source.conversation(row_id, row)
                check(conversation)
                yield f"{source.label} row {row_id}", wire.render(conversation)
            except (DataError, WireError) as error:
                print(f"  (left out: {error})")
                continue
            left -= 1
            if not left:
                break


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_recipes.preview", description=__doc__)
    parser.add_argument("--recipe", default="v2")
    parser.add_argument("--run", default=None, help="folder below runs/; default: the recipe's name")
    parser.add_argument("--n", type=int, default=3, help="examples of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="path=value")
    chosen = parser.parse_args(arguments)
    try:
        recipe = load(chosen.recipe, chosen.set)
        run = Run(runs_folder() / (chosen.run or recipe.name))
        wire, tokenizer = wire_of(recipe, run)
        for name in STAGES:
            stage: DataStage = getattr(recipe.data, name)
            folder = run.stage("data").path / name
            built = (folder / "manifest.json").is_file()
            found = from_shards(folder, chosen.n, chosen.seed) if built else from_sources(stage, run, wire, chosen.n)
            for what, rendered in found:
                line = f"{name}: {what}: {len(rendered.ids)} tokens, {sum(rendered.mask)} supervised"
                print(f"== {line}\n{shown(tokenizer, rendered, _coloured())}\n")
    except OctupusError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


if __name__ == "__main__":
    sys.exit(main())
