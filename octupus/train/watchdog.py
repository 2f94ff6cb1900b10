"""Names the rank that everybody waits for: a hanging collective raises nothing, burns every GPU and says nothing.

Each rank keeps ``<stage>/ranks/rank-N.json`` fresh from a thread: what it does, since when, and whether it is inside a
collective. Where that takes too long, it leaves its stacks in ``rank-N.stack``, says which rank is at fault, and ends.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from octupus.errors import Lost
from octupus.publish import publish_json, read_json

COLLECTIVE = ("torch/distributed/", "deepspeed/comm/")


class Watchdog:
    """Watches this process's loop.

    Args:
        folder: ``<stage>/ranks``, shared by all ranks.
        limit_s: how long one step may take.
    """

    def __init__(self, folder: Path, rank: int, world: int, limit_s: float) -> None:
        self.folder, self.rank, self.world, self.limit_s = folder, rank, world, limit_s
        self.every_s = min(5.0, limit_s / 4)
        self._doing, self._since, self._until = "starting", time.time(), time.time() + limit_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, doing: str, patience: float = 1.0) -> None:
        """The loop begins something that may take ``patience`` times the limit."""
        self._doing, self._since = doing, time.time()
        self._until = self._since + self.limit_s * patience

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self.every_s):
            self._publish()
            if time.time() > self._until:
                self._hang()

    def _publish(self) -> None:
        frames = sys._current_frames().values()
        waits = any(self._in_collective(frame) for frame in frames)
        state = {"doing": self._doing, "since": self._since, "waits": waits, "heartbeat_at": time.time()}
        publish_json(self.folder / f"rank-{self.rank}.json", state)

    @staticmethod
    def _in_collective(frame: Any) -> bool:
        while frame is not None:
            if any(part in frame.f_code.co_filename for part in COLLECTIVE):
                return True
            frame = frame.f_back
        return False

    def _hang(self) -> None:
        with (self.folder / f"rank-{self.rank}.stack").open("w") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
        self._ended.wait(2 * self.every_s)  # until the others have looked, too
        if self._ended.is_set() or time.time() <= self._until:
            return
        self._publish()
        states = [read_json(self.folder / f"rank-{rank}.json") for rank in range(self.world)]
        print(self.sentence(states, time.time()), file=sys.stderr, flush=True)
        os._exit(Lost.exit_code)  # the main thread sits in a call that no exception reaches

    def sentence(self, states: list[dict[str, Any] | None], now: float) -> str:
        """Who hangs, as far as the ranks' own words tell."""
        silent = [r for r, s in enumerate(states) if s is None or now - s["heartbeat_at"] > 3 * self.every_s]
        busy = [r for r, s in enumerate(states) if r not in silent and s is not None and not s["waits"]]
        if silent:
            who = f"rank {', '.join(map(str, silent))} is silent (stopped, or its machine gone), the others wait for it"
        elif busy and len(busy) < self.world:
            who = f"rank {', '.join(map(str, busy))} hangs outside any collective, the others wait for it"
        else:
            who = "all ranks are inside a collective: look at the network between them"
        return (
            f"{self._doing} has taken {now - self._since:.0f} s: {who}. Stacks are in {self.folder}/rank-*.stack; "
            "run the same command again to go on from the newest checkpoint"
        )
