"""The faults by name, and the table that the tests print."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from tests.cluster.chained import Chain, Checkout
from tests.cluster.slurm_view import Here


@dataclass
class Scene:
    """What a fault is injected into."""

    checkout: Checkout
    here: Here
    prepared: Chain
    """Surgery, teacher and data are done; stage 1 and 2 were trained undisturbed."""
    pair: Chain
    """The same, with stage 1 on two nodes."""
    limits: int = 3
    """How often a time limit is to be reached; each takes two minutes."""
    name: str = ""
    seen: list[str] = field(default_factory=list)

    def chain(self, cluster: str = "plain", nodes: int = 1, trained: bool = False, name: str = "") -> Chain:
        """A run of its own, for which the data are there (and, on request, both models)."""
        undisturbed = self.prepared if nodes == 1 else self.pair
        made = Chain(self.checkout, self.here, name or self.name, undisturbed.recipe, cluster)
        made.start_from(undisturbed, trained)
        return made

    def happened(self, what: str) -> None:
        """Note what was seen, for the table."""
        self.seen.append(what)


Fault = Callable[[Scene], str]


@dataclass(frozen=True)
class Entry:
    title: str
    inject: Fault
    alone: bool = False
    """Everybody on the cluster would feel it."""
    node: bool = False
    """It takes one of the two nodes that may fail away: two at a time would leave none."""
    short: bool = False
    """Also in the other configurations of make test-cluster."""

    @property
    def name(self) -> str:
        return self.inject.__name__


FAULTS: dict[str, Entry] = {}


def fault(title: str, *, alone: bool = False, node: bool = False, short: bool = False) -> Callable[[Fault], Fault]:
    """Registers a function that injects a fault, sees it happen, and checks what becomes of it; it returns that."""

    def register(inject: Fault) -> Fault:
        FAULTS[inject.__name__] = Entry(title, inject, alone, node, short)
        return inject

    return register


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    title: str
    seen: str
    end: str
    seconds: float


class Performance:
    """Injects faults: several at once, and one after the other those that everybody feels."""

    def __init__(self, scene: Scene, chosen: list[Entry], at_once: int = 3) -> None:
        self.scene = scene
        self.lines: list[Line] = []
        self._pool, self._node = ThreadPoolExecutor(at_once), threading.Lock()
        together = [entry for entry in chosen if not entry.alone]
        self.results: dict[str, Future[None]] = {e.name: self._pool.submit(self._perform, e) for e in together}
        self._waiting = {entry.name: entry for entry in chosen if entry.alone}

    def result(self, name: str) -> None:
        """Raises what went wrong."""
        if name in self._waiting:
            for other in self.results.values():
                other.exception()
            self._perform(self._waiting.pop(name))
            return
        self.results[name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _perform(self, entry: Entry) -> None:
        scene = replace(self.scene, name=entry.name, seen=[])
        began = time.monotonic()
        try:
            with self._node if entry.node else nullcontext():
                began = time.monotonic()
                end = entry.inject(scene)
        except BaseException as error:
            end = f"WRONG: {' '.join(str(error).split())[:120]}"
            raise
        finally:
            self.lines.append(Line(entry.title, ", ".join(scene.seen), end, time.monotonic() - began))


def table(lines: list[Line]) -> str:
    """The rows as aligned text."""
    rows = [("fault", "seen to happen", "how it ended", "seconds")]
    rows += [(line.title, line.seen, line.end, f"{line.seconds:.0f}") for line in lines]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows)
