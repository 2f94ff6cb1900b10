"""``make cluster-check CLUSTER=x``: a short job in each partition looks at what jobs rely on; says what to mend.

``python -m slurm.check``. Reads CLUSTER, RECIPE (whose ports and nodes count) and N, the nodes of each job (2).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from octupus import config
from octupus.config import Recipe
from octupus.errors import ConfigError, OctupusError
from octupus.runs import runs_folder
from slurm import chain, cluster, reasons
from slurm.cluster import KEEPER, Cluster
from slurm.probe import MARK, Finding, Wanted
from slurm.queue import Job, Queue

ROOT = Path(__file__).resolve().parents[1]
MISSING, DIED, OVER = "@missing", "@died", "@over"
TIME_MIN = 5
"""The limit of a job that takes a minute: torch's first import from a shared file system can take some."""
WAIT_S = 900.0
POLL_S = 1.0
ARRIVES_S = 15.0
"""How long what a job wrote may take to show here: shared file systems keep directories in caches."""


@dataclass(frozen=True)
class Part:
    """A partition with the stages that run there."""

    name: str
    stages: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"partition {self.name or '(default)'}"

    @property
    def stage(self) -> str:
        """The one whose resources the job asks for: training, where it runs there."""
        return next((s for s in ("stage1", "stage2", "serve", "teacher") if s in self.stages), self.stages[0])


@dataclass(frozen=True)
class Sent:
    """A partition's job."""

    part: Part
    id: str
    folder: Path
    nodes: int
    backend: str

    @property
    def log(self) -> Path:
        return self.folder / f"{self.id}_0_log.out"

    @property
    def paths(self) -> tuple[Path, ...]:
        """What every node must see."""
        return ROOT, self.folder


def parts(where: Cluster, recipe: Recipe) -> list[Part]:
    """Every partition that the cluster file names, in the order of the chain."""
    found = dict[str, list[str]]()
    for stage in [*(s.name for s in chain.chain_of(recipe)), *([KEEPER] if where.keeper is not None else [])]:
        found.setdefault(where.resources(stage).partition or "", []).append(stage)
    return [Part(name, tuple(stages)) for name, stages in found.items()]


def wanted(where: Cluster, recipe: Recipe, part: Part, folder: Path) -> Wanted:
    count, trains = cluster.gpus(where, recipe, part.stage), {"stage1", "stage2"} & {*part.stages}
    backend = "nccl" if count and where.device != "cpu" else "gloo" if trains else ""
    ports = (recipe.serve.port,) if "serve" in part.stages and recipe.serve.port else ()
    memory = where.resources(part.stage).gpu_memory_gb if backend == "nccl" else None
    return Wanted(str(folder), ports, count, memory, backend)


def script(where: Cluster, recipe: Recipe, part: Part, folder: Path, nodes: int) -> str:
    """The job: a shell on each node looks whether the folders are there, then the probe looks at the rest.

    What they print travels through srun to the first node, so that a node that shares no folder is heard too.
    """
    needs = wanted(where, recipe, part, folder)
    node, paths = '"${SLURMD_NODENAME:-$(hostname)}"', " ".join(shlex.quote(str(p)) for p in (ROOT, folder))
    look = f'n=0; for p in {paths}; do [ -r "$p" ] || echo {MISSING} {node} $n; n=$((n+1)); done'
    asked = shlex.quote(json.dumps(asdict(needs)))
    each = f"{look}; {cluster.python(where)} -u -m slurm.probe {asked} || echo {DIED} {node} $?"
    run = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--kill-on-bad-exit=0", *where.srun_args, "sh", "-c", each]
    made = cluster.slurm_parameters(where, recipe, part.stage, {**where.env, "PYTHONPATH": str(ROOT)})
    made |= {"job_name": f"check-{where.name}", "nodes": nodes, "ntasks_per_node": 1, "time": TIME_MIN}
    made |= {"use_srun": False, "additional_parameters": {"no-requeue": True}}
    for key in ("map_count", "array_parallelism", "srun_args"):
        made.pop(key, None)
    return cluster.sbatch_text(where, made, folder, command=f"{shlex.join(run)}\necho {OVER}")


def send(where: Cluster, recipe: Recipe, part: Part, queue: Queue, nodes: int, base: Path) -> Sent:
    """Raises:
    ConfigError: Slurm does not take the job.
    """
    folder = base / (part.name or "default")
    folder.mkdir(parents=True)
    path = folder / "check.sh"
    path.write_text(script(where, recipe, part, folder, nodes), encoding="utf-8")
    try:
        job = queue.submit(path)
    except ConfigError as error:
        why = str(error).replace(f" {path}", "")
        raise ConfigError(f"{why}; see the cluster file, or try N=1 where there is one node") from error
    return Sent(part, job, folder, nodes, wanted(where, recipe, part, folder).backend)


def wait(sent: Sent, queue: Queue, console: Console) -> Job | None:
    """The job when it is over, or has waited too long and is cancelled; None: Slurm knows it no longer."""
    deadline, last = time.monotonic() + WAIT_S, ""
    while True:
        job = queue.jobs([sent.id]).get(sent.id)
        if job is None or job.over or time.monotonic() > deadline:
            if job is not None and not job.over:
                queue.cancel([sent.id])
            return job
        if job.state == "PENDING" and job.reason and job.reason != last:
            last = job.reason
            console.print(f"  job {sent.id} waits: {reasons.told(job.reason)}", markup=False, highlight=False)
        time.sleep(POLL_S)


def heard(sent: Sent) -> list[str]:
    """The lines of a job's log, once its last one is here; none where the log does not show."""
    path, deadline = sent.log, time.monotonic() + ARRIVES_S
    while True:
        os.listdir(sent.folder)  # makes NFS look again
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        if OVER in lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.2)


def findings(sent: Sent, job: Job | None, lines: Sequence[str]) -> Iterator[Finding]:
    """What a job's log says, and what it does not say that it should."""
    if job is not None and job.state == "PENDING":
        yield Finding("", "queue", False, f"it has not started within {WAIT_S:.0f} s: {reasons.told(job.reason)}")
        return
    if not lines:
        ended = "it is over" if job is None else f"it {reasons.ended(job.state, job.exit_code, job.signal)}"
        ended = "it ran to its end" if job is not None and job.succeeded else ended
        where = job.nodes if job is not None and job.nodes else "its node"
        yield Finding("", "folder", False, f"{ended}, and what it wrote is not in {sent.folder}: {where} "
                      "does not share that folder with this machine: let OCTUPUS_RUNS name another")  # fmt: skip
        return
    # Libraries that print before their line's end (gloo does) share a line with ours.
    said = [Finding(**json.loads(line[line.index(MARK) + len(MARK) :])) for line in lines if MARK in line]
    yield from said
    started, lost = {f.node for f in said if f.check == "python"}, set[str]()
    for line in lines:
        mark, *rest = line.split()[:3] or [""]
        if mark == MISSING and len(rest) == 2:
            lost.add(rest[0])
            path = sent.paths[int(rest[1])]
            yield Finding(rest[0], "folder", False, f"{rest[0]} does not see {path}: mount it there, or let checkout "
                          "and OCTUPUS_RUNS lie where all nodes see them")  # fmt: skip
        elif mark == DIED and len(rest) == 2 and rest[0] not in lost:
            why = last_words(lines)
            what = "the check broke off" if rest[0] in started else "the interpreter of jobs does not start"
            yield Finding(rest[0], "python", False, f"{rest[0]}: {what} (code {rest[1]}: {why}); see `python` and "
                          f"`setup` of the cluster file, and the log {sent.log}")  # fmt: skip
    if sent.backend and OVER in lines and not {f.check for f in said} & {"all-reduce", "build"} and not lost:
        yield Finding("", "all-reduce", False, f"{sent.backend} gave no figure: {last_words(lines)}")
    if OVER not in lines:
        state = "is gone" if job is None else reasons.ended(job.state, job.exit_code, job.signal)
        yield Finding("", "job", False, f"it broke off ({state}): {last_words(lines)}")
    elif len(started | lost | {line.split()[1] for line in lines if line.startswith(DIED)}) < sent.nodes:
        yield Finding(
            "", "nodes", False, f"{sent.nodes} nodes were asked for, and {len(started)} answered: {last_words(lines)}"
        )


def last_words(lines: Sequence[str]) -> str:
    """The last line of a log that is not ours."""
    return next(
        (line.strip()[:200] for line in reversed(lines) if line.strip() and not line.startswith("@")), "no words"
    )


def tell(sent: Sent, job: Job | None, found: Sequence[Finding], console: Console) -> bool:
    """Print what was found in a partition; whether all is well."""
    where = f" on {job.nodes}, {job.elapsed_s:.0f} s" if job is not None and job.nodes else ""
    head = f"[bold]{sent.part.title}[/] ({', '.join(sent.part.stages)}): job {sent.id}{where}"
    console.print(head, highlight=False, soft_wrap=True)
    wrong = {f.check for f in found if not f.ok}
    for check in dict.fromkeys(f.check for f in found):
        for told in dict.fromkeys(f.told for f in found if f.check == check and f.ok == (check not in wrong)):
            mark = "[red]mend[/]" if check in wrong else "[green]ok[/]  "
            nodes = ", ".join(sorted({f.node for f in found if f.told == told and f.node}))
            of = f" ({nodes})" if check not in wrong and nodes else ""
            console.print(f"  {mark}  {check:<10}  ", end="")
            console.print(f"{told}{of}", markup=False, highlight=False, soft_wrap=True)
    return not wrong


def check(where: Cluster, recipe: Recipe, nodes: int, console: Console) -> bool:
    """Submit, wait, tell; whether every partition is sound. Its folder stays only where something is to be mended."""
    queue = Queue()
    base = runs_folder() / ".check" / f"{where.name}-{time.time_ns():x}"
    sent, sound = list[Sent](), True
    try:
        for part in parts(where, recipe):
            try:
                sent.append(send(where, recipe, part, queue, nodes, base))
                console.print(f"{part.title}: job {sent[-1].id} sent", highlight=False)
            except ConfigError as error:
                sound = False
                console.print(f"{part.title}: {error}", markup=False, highlight=False, soft_wrap=True)
        for one in sent:
            job = wait(one, queue, console)
            found = list(findings(one, job, heard(one)))
            sound = tell(one, job, found, console) and sound
    except BaseException:
        queue.cancel([one.id for one in sent])
        raise
    if sound:
        shutil.rmtree(base, ignore_errors=True)
    else:
        console.print(f"scripts and logs: {base}", markup=False, highlight=False, soft_wrap=True)
    return sound


def main(given: Mapping[str, str]) -> int:
    console = Console()
    try:
        name = given.get("CLUSTER") or "local"
        where = cluster.load(name)
        if where.executor == "local":
            raise ConfigError(
                "CLUSTER=local is this machine, where `make demo` is the check; name a cluster: CLUSTER=..."
            )
        nodes = given.get("N") or "2"
        if not nodes.isdigit() or int(nodes) < 1:
            raise ConfigError(f"N={nodes}: the number of nodes of each job, 1 or more")
        recipe = config.load(given.get("RECIPE") or "quick")
        sound = check(where, recipe, int(nodes), console)
        console.print(f"cluster {name}: {'sound' if sound else 'see what is to be mended above'}", highlight=False)
        return 0 if sound else 1
    except OctupusError as error:
        print(f"octupus: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(os.environ))
