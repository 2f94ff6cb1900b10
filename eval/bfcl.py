"""BFCL against an endpoint: the real ``bfcl generate`` and ``bfcl evaluate``, then scores that say what they rest on.

Everything lies in ``<run>/bfcl``, the project root of the harness: result/, score/ (its own), plan.json (which ids),
entries.jsonl (each entry judged), scores.json (format_version 1). Calling :func:`run` again goes on: entries with an
answer are kept, entries that ended in an inference error are asked again.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.endpoint import Server, identity, wait_for
from eval.sample import CLI, BfclData, Plan, counter, harness_python, plan
from eval.scores import ERROR, Entry, failed, parse_row, read_results, result_files, score_model
from octupus.config import BfclSection, Recipe
from octupus.errors import ConfigError, JobError
from octupus.runs import Reporter, Run, publish_bytes, publish_json, read_json

STALL_S = 1800.0
"""No new answer for so long: the harness waits for something that does not come (it retries a 429 for ever)."""


def run(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Measure the run's endpoint and publish ``bfcl/scores.json``.

    Raises:
        ConfigError: no BFCL environment, an unknown category, a ``.env`` that would lead the harness elsewhere.
        JobError: no endpoint came up, it died, or the harness did; names the log.
    """
    stage, section = run.stage("bfcl"), recipe.bfcl
    root = stage.path
    if not section.models or any("_" in name for name in section.models):
        raise ConfigError(f"bfcl.models {list(section.models)}: at least one, none with '_' (bfcl evaluate reads '/')")
    if (root / ".env").exists():
        raise ConfigError(f"{root / '.env'} would override the endpoint's address and key for BFCL; remove it")
    data = BfclData.ready()
    server = wait_for(run, recipe.serve)
    print(f"bfcl: measuring {server.endpoint.model} at {server.root_url}", flush=True)
    set_aside_other_models(root, identity(server))
    chosen = plan(section, recipe.serve, data, counter(server.folder))
    publish_json(root / "plan.json", asdict(chosen))
    for what, why in chosen.left_out.items():
        print(f"bfcl: not run: {what}: {why}", flush=True)
    with stage.reporting(chosen.total, "entries") as reporter:
        harness = Harness(harness_python(), root, section, server, _counter(root, chosen, reporter))
        for model, ids in chosen.ids.items():
            harness.ask(model, ids)
    harness.evaluate(chosen)
    return publish_scores(root, chosen, server)


def set_aside_other_models(root: Path, subject: str) -> None:
    """Answers of other weights must not be mixed with this model's; they are kept under another name."""
    marker = root / "subject.json"
    before = read_json(marker)
    if before is not None and before["subject"] != subject and (root / "result").exists():
        aside = root / f"result-of-{before['subject']}"
        shutil.rmtree(aside, ignore_errors=True)
        (root / "result").rename(aside)
        print(f"bfcl: another model is served now; the answers of the last one are in {aside}", flush=True)
    publish_json(marker, {"subject": subject})


def _counter(root: Path, chosen: Plan, reporter: Reporter) -> Callable[[], int]:
    """Publishes and returns how many entries have an answer; counts lines, unparsed: it is asked twice a second."""

    def count() -> int:
        files = [path.read_bytes() for model in chosen.ids for path in result_files(root, model)]
        done = sum(text.count(b"\n") - text.count(f'"result": "{ERROR}'.encode()) for text in files)
        reporter.update(done)
        return done

    return count


@dataclass(frozen=True)
class Harness:
    """How the stock command line is called; ``root`` is its project folder."""

    python: Path
    root: Path
    section: BfclSection
    server: Server
    count: Callable[[], int]

    def ask(self, model: str, ids: Mapping[str, Sequence[str]]) -> None:
        """Run ``generate`` until every entry has an answer, or errors have been asked again ``bfcl.retries`` times."""
        for attempt in range(self.section.retries + 1):
            mend(self.root, model)
            have = read_results(self.root, model)
            missing = {c: left for c, asked in ids.items() if (left := [id for id in asked if id not in have])}
            if not missing:
                return
            if attempt:
                print(
                    f"bfcl: asking again {sum(map(len, missing.values()))} entries that ended in an error", flush=True
                )
            # Memory entries depend on a conversation before them, which only a call by category brings along.
            linked = [c for c in missing if c.startswith("memory")]
            by_id = {c: left for c, left in missing.items() if c not in linked}
            if by_id:
                path = self.root / f"ids-{model.replace('/', '_')}.json"
                publish_json(path, by_id)
                self.generate(model, ["--run-ids"], path)
            if linked:
                self.generate(model, ["--test-category", ",".join(linked)])

    def generate(self, model: str, selection: Sequence[str], ids: Path | None = None) -> None:
        """One real ``bfcl generate``, watched: its progress, its server, its end.

        Raises:
            JobError: it or the server died, or nothing moved for STALL_S.
        """
        log = self.root / "log" / "generate.txt"
        options = ["--num-threads", str(self.section.threads), "--temperature", str(self.section.temperature)]
        process = self._start(log, ["generate", "--model", model, *options, *selection], ids)
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
            last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
            raise JobError(
                f"bfcl generate {how} after {self.count()} answers, which are kept; the same command goes on from "
                f"there; see {log}, whose last lines are:\n{last}"
            )

    def evaluate(self, chosen: Plan) -> None:
        """One real ``bfcl evaluate --partial-eval`` over all models and categories.

        Raises:
            JobError: a score file is missing afterwards.
        """
        log = self.root / "log" / "evaluate.txt"
        shutil.rmtree(self.root / "score", ignore_errors=True)  # stale files would enter the harness's tables
        categories = sorted({c for by_category in chosen.ids.values() for c in by_category})
        asked = ["--model", ",".join(chosen.ids), "--test-category", ",".join(categories)]
        process = self._start(log, ["evaluate", "--partial-eval", *asked])
        try:
            code = process.wait()
        finally:
            end(process)
        for model, by_category in chosen.ids.items():
            for category in by_category:
                if not any((self.root / "score" / model).rglob(f"BFCL_v4_{category}_score.json")):
                    raise JobError(f"bfcl evaluate ended with code {code} without a score for {category}; see {log}")
        if code:
            # It writes every score and then fails over its own table when a model has a single latency to average.
            print(f"bfcl evaluate: scores written, its summary table failed (code {code}); see {log}", flush=True)

    def _start(self, log: Path, arguments: Sequence[str], ids: Path | None = None) -> subprocess.Popen[bytes]:
        """In our environment, less what would lead the harness elsewhere."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "BFCL_", "PYTHON"))}
        # With a SOCKS proxy in sight the client ends at once (it lacks the package), NO_PROXY or not.
        kept = {k: v for k, v in kept.items() if not (k.lower().endswith("_proxy") and v.startswith("socks"))}
        hosts = f"127.0.0.1,localhost,{self.server.root_url.split('/')[2].rpartition(':')[0]}"
        environment = kept | {
            "BFCL_PROJECT_ROOT": str(self.root),
            "OPENAI_BASE_URL": self.server.base_url,
            "OPENAI_API_KEY": self.server.api_key,
            **dict.fromkeys(("NO_PROXY", "no_proxy"), hosts),
            **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"), "1"),
            "OCTUPUS_BFCL_NAMES": " ".join(self.section.models),
            "OCTUPUS_BFCL_PARENT": str(os.getpid()),
            "OCTUPUS_BFCL_IDS": str(ids or ""),
        }
        command = [str(self.python), "-I", "-X", "utf8", "-u", str(CLI), *arguments]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
            return subprocess.Popen(command, env=environment, cwd=self.root, **files)


def end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process behind, however the stage ends."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def mend(root: Path, model: str) -> None:
    """Drop from the result files what must be asked again: inference errors, and a line that a kill has torn."""
    for path in result_files(root, model):
        lines = path.read_bytes().splitlines(keepends=True)
        rows = [(line, parse_row(line)) for line in lines]
        kept = [line for line, row in rows if row is not None and not failed(row) and line.endswith(b"\n")]
        if not kept:
            path.unlink()
        elif len(kept) < len(lines):
            publish_bytes(path, b"".join(kept))


def publish_scores(root: Path, chosen: Plan, server: Server) -> dict[str, Any]:
    """Write scores.json and entries.jsonl; returns the stage's outputs."""
    models, entries = {}, list[Entry]()
    for model, ids in chosen.ids.items():
        models[model], judged = score_model(root, model, ids)
        models[model]["stock_overall"] = _stock_overall(root, model)
        entries += judged
    main = list(chosen.ids)[-1]
    scores = {
        "format_version": 1,
        "harness": "bfcl-eval 2026.3.23",
        "served": server.endpoint.model,
        "fingerprint": server.endpoint.fingerprint,
        "subject": identity(server),
        "measured_at": time.time(),
        "main": main,
        "models": models,
        "left_out": chosen.left_out,
    }
    rows = "".join(json.dumps(entry.as_json(), ensure_ascii=False) + "\n" for entry in entries)
    publish_bytes(root / "entries.jsonl", rows.encode())
    publish_json(root / "scores.json", scores)
    return {
        "scores": "bfcl/scores.json",
        "entries": len(entries),
        "errors": sum(m["errors"] for m in models.values()),
        "legality": {
            k: sum(m["legality"][k] for m in models.values()) for k in ("complete", "legal", "illegal", "cut")
        },
        "overall_v4": models[main]["summaries"]["Overall v4"]["value"],
        "overall_v3": models[main]["summaries"]["Overall v3"]["value"],
    }


def _stock_overall(root: Path, model: str) -> str | None:
    """What the harness itself prints as Overall, where categories that were not run count zero."""
    path = root / "score" / "data_overall.csv"
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as lines:
        return next((row["Overall Acc"] for row in csv.DictReader(lines) if row["Model"] == model), None)
