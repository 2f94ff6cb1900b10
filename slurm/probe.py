"""What ``make cluster-check`` runs on each node of a partition: ``python -m slurm.probe '{...}'``, one process a node.

Whatever is found goes to standard output, which srun carries to the first node whether or not folders are shared.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MARK = "@octupus "
GREETING = b"octupus "
REACH_WITHIN_S = 20.0
CLOCK_S = 5.0
"""Nodes whose clocks differ by more than this take each other's heartbeats for stale too early, or too late."""
ELEMENTS = {"nccl": 64 * 2**20, "gloo": 2**20}
"""Of the all-reduce that is timed, four bytes each."""
ROUNDS = 5


@dataclass(frozen=True)
class Wanted:
    """What a partition is to have."""

    folder: str
    """Shared; each node writes a file there."""
    ports: tuple[int, ...] = ()
    """Besides the one where ranks meet."""
    gpus: int = 0
    gpu_memory_gb: float | None = None
    backend: str = ""
    """Of the all-reduce: nccl, gloo or none."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on one node."""

    node: str
    check: str
    ok: bool
    told: str
    """What was found; where it is not ok, one sentence that says what to mend."""


def say(check: str, ok: bool, told: str) -> None:
    print(MARK + json.dumps(asdict(Finding(here(), check, ok, told[:600]))), flush=True)


def here() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def meeting_port(job_id: str) -> int:
    """Where the ranks of a job meet (slurm/jobs.py takes the same)."""
    return random.Random(job_id).randint(20000, 60000)


def folders(wanted: Wanted) -> None:
    """The shared folder takes a file; the node's own has room."""
    try:
        Path(wanted.folder, f"node-{here()}").write_text("seen\n", encoding="utf-8")
        say("folder", True, wanted.folder)
    except OSError as error:
        say("folder", False, f"{here()} cannot write into {wanted.folder} ({error.strerror}): mount it there writable")
    named, used = os.environ.get("TMPDIR"), tempfile.gettempdir()
    if named is not None and Path(named).absolute() != Path(used).absolute():
        say("scratch", False, f"{here()} cannot use {named}: name another `scratch` in the cluster file")
    else:
        say("scratch", True, f"{used}, {shutil.disk_usage(used).free / 2**30:,.0f} GiB free")


class Door:
    """Listens on a port and tells everybody who comes this node's time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_server(("", port), backlog=64)
        self.visitors = set[str]()
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            visitor, _ = self.socket.accept()
            with visitor:
                visitor.settimeout(5)
                try:
                    visitor.sendall(GREETING + f"{time.time()}\n".encode())
                    self.visitors.add(visitor.makefile().readline().strip())
                except OSError:
                    continue  # it gave up; it says so itself


def reach(peer: str, port: int) -> tuple[str, float]:
    """What hinders a connection, or nothing, and by how many seconds the peer's clock is ahead."""
    deadline, why = time.monotonic() + REACH_WITHIN_S, ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((peer, port), timeout=5) as line:
                words = line.makefile("rb").readline()
                line.sendall(f"{here()}\n".encode())
            if not words.startswith(GREETING):
                return f"port {port} of {peer} is taken by another program: choose another serve.port", 0.0
            return "", float(words[len(GREETING) :]) - time.time()
        except socket.gaierror:
            return f"{here()} does not know the name {peer}: mend its DNS or /etc/hosts", 0.0
        except TimeoutError:
            why = "nothing comes back"
        except OSError as error:  # refused: the peer may not be up yet
            why = error.strerror or str(error)
        time.sleep(0.2)
    return f"{here()} cannot reach port {port} of {peer} ({why}): let compute nodes reach each other over TCP", 0.0


def network(wanted: Wanted, peers: Sequence[str], port: int) -> None:
    """Every node reaches every other on each port, by name."""
    doors = dict[int, Door]()
    for number in (port, *wanted.ports):
        try:
            doors[number] = Door(number)
        except OSError as error:
            say(
                "ports",
                False,
                f"port {number} of {here()} cannot be used ({error.strerror}): choose another serve.port",
            )
    others = [peer for peer in peers if peer != here()]
    found = [(number, reach(peer, number)) for number in doors for peer in others]
    for _, (wrong, _) in found:
        if wrong:
            say("ports", False, wrong)
    ahead = max((abs(seconds) for _, (wrong, seconds) in found if not wrong), default=0.0)
    if ahead > CLOCK_S:
        say("clock", False, f"{here()}'s clock and another node's differ by {ahead:.0f} s: keep them with NTP")
    if others and not any(wrong for _, (wrong, _) in found):
        say("ports", True, f"{' and '.join(map(str, doors))}, from each node to each other")
    deadline = time.monotonic() + REACH_WITHIN_S
    while any(len(door.visitors) < len(others) for door in doors.values()) and time.monotonic() < deadline:
        time.sleep(0.05)  # somebody may still be on the way to us


def driver() -> str:
    """The driver's version, as nvidia-smi tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def gpus(wanted: Wanted) -> bool:
    """The GPUs that were asked for are here, and this build of torch computes on them."""
    import torch

    build, version = torch.version.cuda, driver()
    if build is None:
        say("build", False, f"torch {torch.__version__} has no CUDA: run `make setup DEVICE=cuda` on a node with GPUs")
        return False
    if not torch.cuda.is_available():
        told = f"driver {version}" if version else "no driver answers (nvidia-smi)"
        say("build", False, f"{here()}: torch for CUDA {build} sees no GPU, {told}: update the driver, or build anew "
            "with an older CUDA (TORCH_INDEX_URL= of make setup)")  # fmt: skip
        return False
    count = torch.cuda.device_count()
    if count != wanted.gpus:
        say("gpus", False, f"{here()} gives {count} GPUs where {wanted.gpus} were asked for: correct `gres` or `gpus`")
    sizes = [torch.cuda.get_device_properties(n).total_memory / 2**30 for n in range(count)]
    if wanted.gpu_memory_gb is not None and min(sizes) < 0.9 * wanted.gpu_memory_gb:
        say(
            "gpus",
            False,
            f"a GPU of {here()} has {min(sizes):.0f} GiB, and gpu_memory_gb says {wanted.gpu_memory_gb:g}",
        )
    try:
        for number in range(count):
            square = torch.ones(256, 256, device=f"cuda:{number}", dtype=torch.bfloat16)
            assert float((square @ square)[0, 0]) == 256
    except RuntimeError as error:
        say("build", False, f"{here()}: torch for CUDA {build} cannot compute on {torch.cuda.get_device_name(0)} "
            f"({str(error).splitlines()[0]}): build for this GPU (TORCH_INDEX_URL= of make setup)")  # fmt: skip
        return False
    say("build", True, f"torch {torch.__version__} for CUDA {build}, driver {version}")
    if count == wanted.gpus:
        say("gpus", True, f"{count} x {torch.cuda.get_device_name(0)}, {min(sizes):.0f} GiB")
    return True


def all_reduce(backend: str, rank: int, size: int, first: str, port: int, local: int) -> None:
    """One process of the all-reduce; the first one says how fast it was."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    device = f"cuda:{local}" if backend == "nccl" else "cpu"
    meet = f"tcp://{first}:{port}"
    dist.init_process_group(backend, init_method=meet, rank=rank, world_size=size, timeout=timedelta(seconds=120))
    values = torch.ones(ELEMENTS[backend], device=device)
    settle: Callable[[], None] = torch.cuda.synchronize if backend == "nccl" else (lambda: None)
    dist.all_reduce(values)
    settle()
    began = time.monotonic()
    for _ in range(ROUNDS):
        dist.all_reduce(values)
    settle()
    seconds = (time.monotonic() - began) / ROUNDS
    if rank == 0:
        moved = 2 * (size - 1) / size * values.numel() * values.element_size()
        say("all-reduce", True, f"{backend} over {size} processes: {moved / seconds / 1e9:.2f} GB/s of bus bandwidth")
    dist.destroy_process_group()


def collective(wanted: Wanted, peers: Sequence[str], port: int) -> None:
    """Start this node's processes of the all-reduce, and say why where they fail."""
    probe = [sys.executable, "-P", "-m", "slurm.probe"]
    each = wanted.gpus if wanted.backend == "nccl" else 1
    size, first = each * len(peers), int(os.environ["SLURM_NODEID"]) * each
    processes = [
        subprocess.Popen(
            [*probe, wanted.backend, str(first + n), str(size), peers[0], str(port), str(n)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(each)
    ]  # fmt: skip
    said = [(p.communicate()[1], p.returncode) for p in processes]
    failed = [error.strip().splitlines()[-1:] for error, code in said if code]
    if failed:
        why = (failed[0] or ["no reason given"])[0]
        say("all-reduce", False, f"{wanted.backend} failed on {here()} ({why[:300]}): try NCCL_SOCKET_IFNAME or "
            "NCCL_IB_DISABLE=1 in `env` of the cluster file; NCCL_DEBUG=INFO tells more")  # fmt: skip


def main(text: str) -> None:
    from submitit.slurm.slurm import SlurmJobEnvironment

    values = json.loads(text)
    wanted = Wanted(**{**values, "ports": tuple(values["ports"])})
    job = SlurmJobEnvironment()
    port = meeting_port(os.environ["SLURM_JOB_ID"])
    say("python", True, f"{sys.executable} {sys.version.split()[0]}")
    folders(wanted)
    network(wanted, job.hostnames, port)
    sound = gpus(wanted) if wanted.backend == "nccl" else True
    if wanted.backend and sound:
        collective(wanted, job.hostnames, port + 1)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        backend, rank, size, first, port, local = sys.argv[1:]
        all_reduce(backend, int(rank), int(size), first, int(port), int(local))
