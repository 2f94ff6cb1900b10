"""The stock command line at work: started, watched, ended; what it left is mended before it is started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.endpoint import Server
from eval.sample import CLI, Plan
from eval.scores import ERROR, failed, parse_row, read_results, result_files
from octupus.config import BfclSection
from octupus.errors import ConfigError, JobError
from octupus.publish import publish_bytes, publish_json
from octupus.runs import Reporter

STALL_S = 1800.0
"""No new answer for so long: the harness waits for something that does not come (it retries a 429 for ever)."""
EMBEDDING = "all-MiniLM-L6-v2"
"""The model of memory_vector: a folder of this name in the harness's current folder is taken in the hub's place."""


def environment(root: Path, names: Sequence[str]) -> dict[str, str]:
    """Ours, less what would lead the harness elsewhere; nothing is fetched."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "BFCL_", "PYTHON"))}
    # With a SOCKS proxy in sight the client ends at once (it lacks the package), NO_PROXY or not.
    kept = {k: v for k, v in kept.items() if not (k.lower().endswith("_proxy") and v.startswith("socks"))}
    return kept | {
        "BFCL_PROJECT_ROOT": str(root),
        "OPENAI_API_KEY": "none",  # asked for by evaluate too
        **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"), "1"),
        "OCTUPUS_BFCL_NAMES": " ".join(names),
        "OCTUPUS_BFCL_PARENT": str(os.getpid()),
    }


def start(
    python: Path, root: Path, log: Path, arguments: Sequence[str], env: dict[str, str]
) -> subprocess.Popen[bytes]:
    command = [str(python), "-I", "-X", "utf8", "-u", str(CLI), *arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=env, cwd=root, **files)


def end(process: subprocess.Popen[bytes], grace_s: float = 5) -> None:
    """Leave no process behind, however the stage ends; it may take ``grace_s`` to finish."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Counter:
    """How many entries of some categories have an answer; reads what is new, for it is asked twice a second."""

    def __init__(self, root: Path, models: Collection[str], categories: Collection[str], reporter: Reporter) -> None:
        self.root, self.models, self.categories, self.reporter = root, models, categories, reporter
        self._seen: dict[Path, tuple[int, int]] = {}

    def __call__(self) -> int:
        files = [path for model in self.models for path in result_files(self.root, model, self.categories)]
        done = sum(self._count(path) for path in files if "_prereq_" not in path.name)
        self.reporter.update(done)
        return done

    def _count(self, path: Path) -> int:
        offset, done = self._seen.get(path, (0, 0))
        with path.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) < offset:  # mended meanwhile
                offset, done = 0, 0
            stream.seek(offset)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        done += whole.count(b"\n") - whole.count(f'"result": "{ERROR}'.encode())
        self._seen[path] = (offset + len(whole), done)
        return done


@dataclass(frozen=True)
class Harness:
    """How ``generate`` is called; ``root`` is its project folder, ``name`` that of the task, for its own files."""

    python: Path
    root: Path
    section: BfclSection
    server: Server
    count: Counter
    name: str = "all"
    names: Sequence[str] = field(default=())

    def ask(self, model: str, ids: Mapping[str, Sequence[str]]) -> None:
        """Run ``generate`` until every entry has an answer, or errors have been asked again ``bfcl.retries`` times."""
        for attempt in range(self.section.retries + 1):
            mend(self.root, model, ids)
            have = read_results(self.root, model, ids)
            missing = {c: left for c, asked in ids.items() if (left := [id for id in asked if id not in have])}
            if not missing:
                return
            if attempt:
                again = sum(map(len, missing.values()))
                print(f"bfcl: asking again {again} entries that ended in an error", flush=True)
            # Memory entries depend on a conversation before them, which only a call by category brings along.
            linked = [c for c in missing if c.startswith("memory")]
            by_id = {c: left for c, left in missing.items() if c not in linked}
            if by_id:
                path = self.root / f"ids-{self.name}-{model.replace('/', '_')}.json"
                publish_json(path, by_id)
                self.generate(model, ["--run-ids"], path)
            if linked:
                self.generate(model, ["--test-category", ",".join(linked)])

    def generate(self, model: str, selection: Sequence[str], ids: Path | None = None) -> None:
        """One real ``bfcl generate``, watched: its progress, its server, its end.

        Raises:
            JobError: it or the server died, or nothing moved for STALL_S.
        """
        log = self.root / "log" / f"generate-{self.name}.txt"
        options = ["--num-threads", str(self.section.threads), "--temperature", str(self.section.temperature)]
        process = start(
            self.python, self.root, log, ["generate", "--model", model, *options, *selection], self._env(ids)
        )
        try:
            moved, done, turn, code = time.monotonic(), self.count(), 0, None
            while code is None:
                try:
                    code = process.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    turn += 1
                if turn % 4 == 0:
                    self.server.check()
                if self.count() != done:
                    moved, done = time.monotonic(), self.count()
                if time.monotonic() - moved > STALL_S:
                    raise JobError(f"bfcl generate: no new answer for {STALL_S:g} s; see {log} and {self.server.log}")
        finally:
            end(process)
        self.server.check()
        if code:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
            last = "\n".join([", whose last lines are:", *said]) if said else ""
            raise JobError(
                f"bfcl generate {how} after {self.count()} answers, which are kept; the same command goes on from "
                f"there; see {log}{last}"
            )

    def _env(self, ids: Path | None) -> dict[str, str]:
        urls = self.server.base_urls
        hosts = ",".join(["127.0.0.1", "localhost", *(url.split("/")[2].rpartition(":")[0] for url in urls)])
        known = environment(self.root, self.names or self.section.models)
        return known | {
            "OPENAI_BASE_URL": self.server.base_url,
            "OCTUPUS_BFCL_URLS": " ".join(urls),
            "OPENAI_API_KEY": self.server.api_key,
            **dict.fromkeys(("NO_PROXY", "no_proxy"), hosts),
            "OCTUPUS_BFCL_IDS": str(ids or ""),
        }


def mend(root: Path, model: str, categories: Collection[str]) -> None:
    """Drop from the result files what must be asked again: inference errors, and a line that a kill has torn.

    A memory category whose preparing conversation ended in an error is dropped whole: its memory is not what it was
    to be.
    """
    for path in list(result_files(root, model, categories)):
        if not path.exists():
            continue  # dropped with its preparing conversation
        lines = path.read_bytes().splitlines(keepends=True)
        rows = [(line, parse_row(line)) for line in lines]
        kept = [line for line, row in rows if row is not None and not failed(row) and line.endswith(b"\n")]
        if "_prereq_" in path.name and any(row is not None and failed(row) for _, row in rows):
            for relative in path.parent.glob(path.name.replace("_prereq_", "*")):
                relative.unlink()
            category = path.name.removeprefix("BFCL_v4_").removesuffix("_prereq_result.json")
            shutil.rmtree(root / "result" / model.replace("/", "_") / "memory_snapshot" / category, ignore_errors=True)
        elif not kept:
            path.unlink()
        elif len(kept) < len(lines):
            publish_bytes(path, b"".join(kept))


def evaluate(python: Path, root: Path, chosen: Plan) -> None:
    """One real ``bfcl evaluate --partial-eval`` over all models and categories.

    Raises:
        JobError: a score file is missing afterwards.
    """
    log = root / "log" / "evaluate.txt"
    shutil.rmtree(root / "score", ignore_errors=True)  # stale files would enter the harness's tables
    categories = sorted({c for by_category in chosen.ids.values() for c in by_category})
    asked = ["--model", ",".join(chosen.ids), "--test-category", ",".join(categories)]
    process = start(python, root, log, ["evaluate", "--partial-eval", *asked], environment(root, list(chosen.ids)))
    try:
        code = process.wait()
    finally:
        end(process)
    for model, by_category in chosen.ids.items():
        for category in by_category:
            if not any((root / "score" / model).rglob(f"BFCL_v4_{category}_score.json")):
                raise JobError(f"bfcl evaluate ended with code {code} without a score for {category}; see {log}")
    if code:
        # It writes every score and then fails over its own table when a model has a single latency to average.
        print(f"bfcl evaluate: scores written, its summary table failed (code {code}); see {log}", flush=True)


def place_embedding(root: Path, model: str) -> None:
    """Put memory_vector's embedding model where the harness, which is offline, finds it.

    Raises:
        ConfigError: no folder.
    """
    if not Path(model).is_dir():
        raise ConfigError(f"bfcl.embedding_model {model}: no such folder; name one that holds {EMBEDDING}")
    link = root / EMBEDDING
    link.unlink(missing_ok=True)
    link.symlink_to(Path(model).absolute())
