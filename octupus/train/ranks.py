"""The processes that train together: joining, agreeing on small numbers, and saying it when one of them is gone."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from octupus.errors import ConfigError, Interrupted, Lost

T = TypeVar("T")

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "pair closure", "Socket closed")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the job."""

    rank: int
    world: int
    device: torch.device
    control: Any
    """A gloo group: counts and flags travel over it, so that agreeing never waits for the GPU."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, in fp64 (exact for counts)."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return [float(x) for x in tensor]

    def gather(self, value: float) -> list[float]:
        """Every rank's value, by rank."""
        slots = [0.0] * self.world
        slots[self.rank] = value
        return self.total(slots)

    def agreed(self, look: Callable[[], T]) -> T:
        """What the first rank sees when it looks: on a shared file system others may still see yesterday's."""
        box = [look() if self.first else None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Until every rank is here."""
        self.total([0.0])


@contextmanager
def join(per_node: int = 1, timeout_s: float = 1800.0) -> Iterator[Ranks]:
    """Meet the other ranks as RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say; alone without them.

    Args:
        per_node: ranks that share this machine's cores (they are dealt unless OMP_NUM_THREADS is set).
        timeout_s: how long a rank waits for the others, when meeting and in a collective.

    Inside, a peer that dies becomes a sentence: gloo notices at once, and every step talks over gloo.

    Raises:
        ConfigError: the variables contradict each other.
        Lost: the ranks did not find each other, or one of them died.
    """
    from deepspeed.accelerator import get_accelerator

    missing = [name for name in NEEDED if name not in os.environ]
    if missing and len(missing) < len(NEEDED) and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(f"the environment lacks {', '.join(missing)}; set all of {', '.join(NEEDED)}, or none")
    alone = bool(missing)
    try:
        rank, world = (0, 1) if alone else (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        local = int(os.environ.setdefault("LOCAL_RANK", str(rank)))  # DeepSpeed reads it, too
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE and LOCAL_RANK are numbers that a launcher sets: {error}") from error
    accelerator = get_accelerator()
    device = torch.device(accelerator.device_name(local) if accelerator.device_name() != "cpu" else "cpu")
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // min(world, per_node)))
    elif device.type != "cpu":
        accelerator.set_device(local)
    with _peers_named(rank, world):
        if not dist.is_initialized():  # once a process: DeepSpeed remembers the groups it made
            backend = accelerator.communication_backend_name() if device.type != "cpu" else "gloo"
            limit = timedelta(seconds=timeout_s)
            if alone:
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
            else:
                dist.init_process_group(backend, rank=rank, world_size=world, timeout=limit)
        control = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        atexit.unregister(dist.destroy_process_group)  # after a failure it could wait for a rank that is gone
        try:
            yield Ranks(rank, world, device, control)
        except Interrupted:
            atexit.register(dist.destroy_process_group)
            raise
        atexit.register(dist.destroy_process_group)


@contextmanager
def _peers_named(rank: int, world: int) -> Iterator[None]:
    try:
        yield
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise Lost(
            f"rank {rank} of {world} could not reach the others at {where}: {str(error).splitlines()[0]}; "
            "look for the rank that never started, in the stage's logs"
        ) from error
    except RuntimeError as error:
        if world == 1 or not any(words in str(error) for words in LOST_PEER):
            raise
        raise Lost(
            f"rank {rank} of {world} lost another rank, which died: its own log says why (this one's end is only a "
            "consequence); run the same command again to go on from the last checkpoint"
        ) from error


class Interrupts:
    """Notes SIGUSR2 (Slurm, ahead of a time limit or preemption) and SIGTERM; the loop looks between two steps."""

    SIGNALS = (signal.SIGUSR2, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give the signals back; one that stopped the loop goes to whoever listened before (submitit then requeues)."""
        for number, before in self._before.items():
            signal.signal(number, before)
        if isinstance(error, Interrupted) and self.received and callable(self._before.get(self.received)):
            signal.raise_signal(self.received)
