"""What Slurm says about jobs, and ending them: the only module that runs Slurm's own commands.

With slurmdbd or without. slurmctld forgets a job some minutes after its end (MinJobAge); where there is accounting,
sacct still tells how it ended. A job that nobody knows any more is not in the answer.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from octupus.errors import ConfigError, JobError

TIMEOUT_S = 20.0
"""How long one command may take: a controller that restarts answers late, and a stuck database never."""
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "SUSPENDED", "STOPPED", "RESIZING"}
FIELDS = ["ArrayJobID", "ArrayTaskID", "State", "Reason", "NodeList", "TimeUsed", "TimeLimit", "RestartCnt"]
FIELDS += ["exit_code", "Dependency", "Name"]
WIDTH = {"Reason": 1000, "NodeList": 4000, "Dependency": 4000, "Name": 1000}
"""Characters; 64 of the others. squeue fills them up, and a thousand jobs are to be told quickly."""
ACCOUNTED = "JobID,State,NodeList,ElapsedRaw,TimelimitRaw,ExitCode,JobName"


class Silent(JobError):
    """Slurm did not answer, or not as it should: nothing is known about any job, least of all that it is gone."""


class Absent(ConfigError):
    """Slurm's commands are not installed here."""


@dataclass(frozen=True)
class Job:
    """One job (of an array: one task) as Slurm sees it."""

    id: str
    """``17``; of a task ``17_3``: what scancel takes. ``17_[3-9]`` never: waiting tasks are listed one by one."""
    state: str
    """PENDING, RUNNING, COMPLETED, FAILED, NODE_FAIL ... in Slurm's words."""
    reason: str = ""
    """Why it waits or ended, in Slurm's word, such as Priority, DependencyNeverSatisfied, NonZeroExitCode."""
    nodes: str = ""
    """As Slurm writes them, ``node[1-3]``; empty while it waits."""
    elapsed_s: float = 0.0
    limit_s: float | None = None
    """None: no limit."""
    restarts: int = 0
    """How often it was requeued; 0 where only sacct knows the job."""
    exit_code: int = 0
    signal: int = 0
    """The signal that ended it, 0: none."""
    dependency: str = ""
    name: str = ""
    linkable: bool = True
    """Whether slurmctld itself knows it; ``afterok:`` on an id that it has forgotten counts as fulfilled."""

    @property
    def array(self) -> str:
        """The id that sbatch printed: without the task."""
        return self.id.partition("_")[0]

    @property
    def task(self) -> int | None:
        number = self.id.partition("_")[2]
        return int(number) if number.isdigit() else None

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    @property
    def succeeded(self) -> bool:
        return self.state == "COMPLETED"


class Queue:
    """Slurm, by its commands; each may take ``timeout_s`` seconds.

    Raises:
        Silent: (from every method) no answer in time, or an error that is not about a single job.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s

    def jobs(self, ids: Collection[str]) -> dict[str, Job]:
        """What is known about the jobs with these ids (``17``, or ``17_3``), by id; an array's id gives all its tasks.

        An answer without an id that was asked for says that Slurm has forgotten that job.
        """
        if not ids:
            return {}
        arrays = {one.partition("_")[0] for one in ids}
        found = {job.id: job for job in self.mine() if job.array in arrays}
        forgotten = arrays - {job.array for job in found.values()}
        found |= {job.id: job for job in self._accounted(forgotten)}
        return {job.id: job for job in found.values() if job.id in ids or job.array in ids}

    def mine(self) -> list[Job]:
        """Every job of this user that slurmctld knows, the ended ones too."""
        layout = ",".join(f"{name}:{WIDTH.get(name, 64)}|" for name in FIELDS)
        command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--Format={layout}"]
        return [_listed(line) for line in self._run(command).splitlines() if line.strip()]

    def unfit(self, nodes: str) -> str:
        """Those of some nodes (``node[1-3]``) that are down, drained or do not answer, as Slurm writes them."""
        if not nodes:
            return ""
        command = ["sinfo", "--noheader", "--Node", f"--nodes={nodes}", "--states=down,drain,fail,no_respond"]
        return ",".join(sorted(set(self._run([*command, "--format=%N"], lenient=True).split())))

    def submit(self, script: Path) -> str:
        """Hand a job's script to sbatch; its id.

        Raises:
            ConfigError: Slurm does not take it; in its own words.
        """
        done = self._command(["sbatch", "--parsable", str(script)])
        if done.returncode:
            raise ConfigError(f"sbatch does not take {script}: {' '.join(done.stderr.split())}")
        return done.stdout.strip().partition(";")[0]

    def cancel(self, ids: Iterable[str], signal: Signals | None = None) -> None:
        """End jobs, or only send ``signal`` to all processes of those that run.

        One that has ended or is forgotten is no error: it is what was wanted.
        """
        wanted = sorted(set(ids))
        if wanted:
            self._run(
                ["scancel", "--quiet", *([f"--signal={signal.name.removeprefix('SIG')}"] if signal else []), *wanted],
                lenient=True,
            )

    def _accounted(self, ids: Collection[str]) -> Iterator[Job]:
        """What sacct says of jobs that slurmctld has forgotten; nothing where there is no accounting."""
        if not ids or shutil.which("sacct") is None:
            return
        words = ["-X", "--noheader", "--parsable2", f"--format={ACCOUNTED}", "-j", ",".join(sorted(ids))]
        text = self._run(["sacct", *words], lenient=True)
        yield from (_accounted(line) for line in text.splitlines() if line.strip())

    def _run(self, command: list[str], lenient: bool = False) -> str:
        """The command's output; ``lenient``: whatever its exit status."""
        done = self._command(command)
        if done.returncode and not lenient:
            raise Silent(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[:300]}; is slurmctld up?")
        return done.stdout

    def _command(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
        for name in [n for n in environment if n.startswith(("SQUEUE_", "SACCT_", "SCANCEL_"))]:
            del environment[name]  # a person's own formats
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=self.timeout_s, check=False, env=environment
            )
        except FileNotFoundError as error:
            raise Absent(
                f"no command {command[0]} here: submit from a node where Slurm is installed, or leave CLUSTER= out"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Silent(f"{command[0]} has not answered within {self.timeout_s:g} s; is slurmctld up?") from error


def reachable(node: str) -> str:
    """A node's name where it resolves, else the address that Slurm itself reaches it at, else the name."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        command = ["scontrol", "--oneliner", "show", "node", node]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False).stdout
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return node
        found = [word.partition("=")[2] for word in told.split() if word.startswith("NodeAddr=")]
        return found[0] if found else node


def _listed(line: str) -> Job:
    """One line of squeue."""
    values = [value.strip() for value in line.split("|")]
    array, task, state, reason, nodes, used, limit, restarts, status, dependency = values[: len(FIELDS) - 1]
    code = int(status) if status.isdigit() else 0
    return Job(
        id=array if task == "N/A" else f"{array}_{task}",
        state=state,
        reason="" if reason == "None" else reason,
        nodes=_given(nodes),
        elapsed_s=seconds(used) or 0.0,
        limit_s=seconds(limit),
        restarts=int(restarts) if restarts.isdigit() else 0,
        exit_code=code >> 8,
        signal=code & 0x7F,
        dependency=_given(dependency),
        name="|".join(values[len(FIELDS) - 1 : -1]),
    )


def _accounted(line: str) -> Job:
    """One line of sacct."""
    one, state, nodes, elapsed, limit, status, name = line.split("|", 6)
    code, _, signal = status.partition(":")
    return Job(
        id=one,
        state=state.split(" ")[0],
        reason=state.partition(" ")[2],  # CANCELLED by 1001
        nodes=_given(nodes),
        elapsed_s=float(elapsed or 0),
        limit_s=float(limit) * 60 if limit.isdigit() else None,
        exit_code=int(code or 0),
        signal=int(signal or 0),
        name=name,
        linkable=False,
    )


def _given(text: str) -> str:
    return "" if text in ("(null)", "N/A", "None assigned") else text


def seconds(text: str) -> float | None:
    """``1-02:03:04``, ``2:03:04`` or ``3:04`` as seconds; None for UNLIMITED and what else is no time."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, days or "0")):
        return None
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return float(total + 86400 * int(days or 0))
