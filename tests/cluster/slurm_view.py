"""Slurm as it really is: its own commands and the processes of its jobs, without any code of the chain."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from slurm.devcluster.layout import Layout, find, parent, processes, started

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, within_s: float = 120, every_s: float = 0.05) -> T:
    """What ``condition`` says as soon as it says anything."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)
    return found


def slurm(*command: str, fails: bool = False) -> str:
    """One of Slurm's commands; what it says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert fails or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def job(job_id: str) -> dict[str, str]:
    """A job as slurmctld shows it; empty where it knows none of that id."""
    told = slurm("scontrol", "-o", "show", "job", job_id, fails=True)
    return dict(word.partition("=")[::2] for word in told.split(" ") if "=" in word)


def job_state(job_id: str) -> str:
    return job(job_id).get("JobState", "")


def node_state(node: str) -> str:
    return slurm("sinfo", "-h", "-n", node, "-p", "gpu", "-o", "%T").strip()


def nodes_of(job_id: str) -> list[str]:
    listed = job(job_id).get("NodeList", "")
    return slurm("scontrol", "show", "hostnames", listed).split() if listed not in ("", "(null)") else []


@dataclass(frozen=True)
class Here:
    """The cluster that this process runs in."""

    layout: Layout
    shared: bool
    holder: int

    @classmethod
    def find(cls) -> Here:
        cluster = find(os.environ.get("DEVCLUSTER", ""))
        assert cluster is not None and os.environ.get("SLURM_CONF") == str(cluster.layout.conf), (
            "no development cluster around these tests: run them with make test-cluster, or with make devcluster-run "
            'CMD=".venv/bin/python -m pytest -m cluster tests/cluster"'
        )
        shared = cluster.options.shared
        return cls(cluster.layout, shared, cluster.holder if shared else 1)

    def processes(self) -> list[int]:
        """All of this cluster's, on whichever node."""
        if not self.shared:
            return processes()
        key, value = self.layout.mark
        return [pid for pid in processes() if self.holder in lineage(pid) or environment(pid).get(key) == value]

    def ranks(self, job_id: str) -> dict[int, int]:
        """The living processes that do a job's work: process id by rank."""
        found = {}
        for pid in self.processes():
            values = environment(pid)
            mine = values.get("SLURM_JOB_ID") == job_id and values.get("SLURM_STEP_ID") == "0"
            if mine and "submitit.core._submit" in command(pid) and command(parent(pid))[:1] != command(pid)[:1]:
                found[int(values["SLURM_PROCID"])] = pid
        return {rank: pid for rank, pid in found.items() if started(pid) is not None}

    def stepd(self, job_id: str, step: str = "0") -> list[int]:
        """The slurmstepd of a job's step, one a node."""
        names = (f"slurmstepd: [{job_id}.{step}]",)
        return [pid for pid in self.processes() if " ".join(command(pid)).strip().startswith(names)]

    def daemon(self, name: str) -> int:
        """The process id of ``slurmctld`` or ``slurmd-node1``."""
        return int((self.layout.short / "run" / f"{name}.pid").read_text())

    def kill_daemon(self, name: str) -> None:
        """Seen dead when this returns."""
        pid = self.daemon(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: started(pid) is None, f"{name} ({pid}) is dead", 20)

    def start_controller(self) -> None:
        slurm("slurmctld", "-f", str(self.layout.conf))
        until(lambda: "UP" in slurm("scontrol", "ping", fails=True), "slurmctld answers again", 60)

    def start_node(self, node: str) -> None:
        enter: Sequence[str] = ()
        if not self.shared:
            keeper = (self.layout.short / "run" / f"keeper-{node}.pid").read_text().strip()
            enter = ("nsenter", f"--target={keeper}", "--net", "--uts", "--")
        slurm(*enter, "slurmd", "-f", str(self.layout.conf), "-N", node)
        until(lambda: node_state(node) in ("idle", "mixed", "allocated"), f"{node} is back", 60)


def lineage(pid: int) -> Iterable[int]:
    while pid > 0:
        yield pid
        pid = parent(pid)


def command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def environment(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return {}
    return dict(pair.partition("=")[::2] for pair in raw.split("\0") if "=" in pair)


def dead(pids: Iterable[int]) -> bool:
    return all(started(pid) is None for pid in pids)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def told(value: Any) -> str:
    """A state of the chain in one line, for a failing assertion."""
    return " ".join(str(value).split())[:600]
