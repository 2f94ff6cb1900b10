"""``python -m benchmarks.chain``: what chains of jobs cost to submit, to schedule and to look at; one JSON line last.

On a development cluster of its own whose partitions are down, so that jobs stay queued and what is measured is the
way of the jobs, not their work. Submission and status are the commands that people type, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from octupus.runs import Run
from slurm.ledger import Ledger

ROOT = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
SHARDS = (1, 10, 100, 1000)
LOOKS = 5


def make(module: str, words: list[str], runs: Path, **given: str) -> float:
    """Seconds of a command of the Makefile.

    Raises:
        SystemExit: it failed; shows what it said.
    """
    environment = {**os.environ, **given, "OCTUPUS_RUNS": str(runs)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return seconds


def controller() -> int:
    """The process of slurmctld.

    Raises:
        SystemExit: there is none here.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "comm").read_text().strip() == "slurmctld":
            return int(entry.name)
    raise SystemExit("no slurmctld here")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def answer_ms() -> float:
    """How long the controller takes to list all jobs, the median of a few."""
    taken = []
    for _ in range(LOOKS):
        began = time.monotonic()
        subprocess.run(["squeue", "--noheader", "--array"], capture_output=True, check=True)
        taken.append(time.monotonic() - began)
    return median(taken) * 1000


def chain(shards: int, runs: Path) -> dict[str, float]:
    """Submit the demo's chain with so many teacher shards, a worker each, look at it, cancel it."""
    name, pid = f"shards-{shards}", controller()
    given = {
        "CLUSTER": "devcluster",
        "RECIPE": "demo",
        "RUN": name,
        "SET": f"teacher.shards={shards} teacher.workers={shards}",
    }
    before = cpu_seconds(pid)
    submit_s = make("slurm.submit", ["all"], runs, **given)
    load_s = cpu_seconds(pid) - before
    jobs = sum(len(one.job_ids()) for one in Ledger(Run(runs / name)).submissions)
    status_s = median(make("slurm.status", ["status"], runs, RUN=name) for _ in range(3))
    found = {"shards": shards, "jobs": jobs, "submit_s": submit_s, "status_s": status_s}
    found |= {"controller_cpu_s": load_s, "squeue_ms": answer_ms()}
    cancel_s = make("slurm.status", ["cancel"], runs, RUN=name)
    found = {key: round(value, 3) for key, value in {**found, "cancel_s": cancel_s}.items()}
    print(
        f"{shards:>5} shards, {jobs:>5} jobs: submit {submit_s:.2f} s, controller {load_s:.2f} s of CPU, "
        f"squeue {found['squeue_ms']:.0f} ms, status {status_s:.2f} s, cancel {cancel_s:.2f} s",
        flush=True,
    )
    return found


def measured(sizes: tuple[int, ...]) -> dict[str, object]:
    """Inside a cluster: all sizes, and whether submission is linear."""
    for name in ("gpu", "cpu"):
        subprocess.run(["scontrol", "update", f"partition={name}", "state=down"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        make("slurm.submit", ["all"], runs, CLUSTER="devcluster", RECIPE="demo", RUN="warm")  # bytecode, page cache
        make("slurm.status", ["cancel"], runs, RUN="warm")
        rows = [chain(shards, runs) for shards in sizes]
        all_s = median(make("slurm.status", ["status"], runs) for _ in range(3))
    first, last = rows[0], rows[-1]
    each = (last["submit_s"] - first["submit_s"]) / max(1, last["jobs"] - first["jobs"])
    result: dict[str, object] = {"chains": rows, "submit_ms_a_job": round(each * 1000, 2)}
    result |= {"status_all_runs_s": round(all_s, 3), "status_1000_jobs_s": last["status_s"]}
    result |= {"linear": last["submit_s"] <= first["submit_s"] * last["jobs"] / first["jobs"]}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=list(SHARDS), help="sizes of the teacher's array")
    parser.add_argument("--inside", action="store_true", help="in the cluster that this command runs in already")
    asked = parser.parse_args()
    if not asked.inside:
        words = ["--inside", "--shards", *map(str, asked.shards)]
        with_cluster = [sys.executable, "-m", "slurm.devcluster", "with", "--"]
        environment = {**os.environ, "DEVCLUSTER": f"bench-{os.getpid()}"}
        command = [*with_cluster, sys.executable, "-m", "benchmarks.chain", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    print(json.dumps({"benchmark": "chain", **measured(tuple(asked.shards))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
