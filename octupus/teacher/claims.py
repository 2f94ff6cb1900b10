"""Who works on which shard: claims that several workers, on several nodes, agree on through the run folder.

A claim is ``claims/<name>.<generation>.json``, created with O_EXCL, so that one worker gets it. Its owner rewrites it
while it lives. Whoever finds its owner dead creates the next generation, which one contender can do; the owner before,
should it live after all, sees that file before it writes anything more. Finished work removes all generations.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octupus.data.shards import writing
from octupus.publish import publish_json
from octupus.runs import HEARTBEAT_S, STALE_AFTER_S, this_host


@dataclass(frozen=True)
class Claim:
    """The right to work on ``name``, until a later generation exists."""

    folder: Path
    name: str
    generation: int

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.{self.generation}.json"

    @property
    def lost(self) -> bool:
        """Somebody took us for dead and goes on in our place, or has already finished."""
        return (self.folder / f"{self.name}.{self.generation + 1}.json").exists() or not self.path.exists()


@dataclass
class _Seen:
    """What a claim's file said, and when it last said something else (our own clock: nodes' clocks may differ)."""

    content: bytes
    since: float = field(default_factory=time.monotonic)


class Claims:
    """The claims of one worker, kept alive by one thread."""

    def __init__(self, folder: Path, stale_after_s: float = STALE_AFTER_S, every_s: float = HEARTBEAT_S) -> None:
        self.folder, self.stale_after_s = folder, stale_after_s
        self._mine: dict[str, Claim] = {}
        self._seen: dict[str, _Seen] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(every_s,), name="claims", daemon=True)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Gives back what was not finished: the next worker need not wait until it looks dead."""
        self._over.set()
        self._thread.join()
        for claim in list(self._mine.values()):
            self.release(claim)

    def take(self, name: str) -> Claim | None:
        """The claim on ``name`` where nobody has it or its owner is dead, else None."""
        newest = self._newest(name)
        if newest is not None and not self._dead(newest):
            return None
        claim = Claim(self.folder, name, 1 if newest is None else newest.generation + 1)
        with writing(claim.path):
            try:
                fd = os.open(claim.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                return None
            with os.fdopen(fd, "w", encoding="utf-8") as stream:
                json.dump(self._sign(), stream)
        with self._lock:
            self._mine[name] = claim
        return claim

    def release(self, claim: Claim) -> None:
        """Give the claim up, or remove it because its work is done; earlier generations go first."""
        with self._lock:
            self._mine.pop(claim.name, None)
            if claim.lost:
                return
            for old in sorted(self._generations(claim.name), key=lambda c: c.generation):
                if old.generation <= claim.generation:
                    old.path.unlink(missing_ok=True)

    def revoke(self) -> None:
        """Take every claim from whoever has it, but for this worker's own: what they work on is asked no longer."""
        with self._lock:
            kept = {claim.path for claim in self._mine.values()}
            for path in self.folder.glob("*.json"):
                if path not in kept:
                    path.unlink(missing_ok=True)

    def owners(self) -> dict[str, str]:
        """By name, the hosts of the claims whose owners live as far as this object has seen."""
        names = {path.name.rsplit(".", 2)[0] for path in self.folder.glob("*.json")}
        newest = {name: claim for name in sorted(names) if (claim := self._newest(name)) is not None}
        return {name: self._read(claim)[1].get("host", "") for name, claim in newest.items() if not self._dead(claim)}

    def _newest(self, name: str) -> Claim | None:
        return max(self._generations(name), key=lambda claim: claim.generation, default=None)

    def _generations(self, name: str) -> list[Claim]:
        numbers = [path.name.rsplit(".", 2)[1] for path in self.folder.glob(f"{name}.*.json")]
        return [Claim(self.folder, name, int(number)) for number in numbers if number.isdigit()]

    def _dead(self, claim: Claim) -> bool:
        """Dead at once where its process is gone from this host; elsewhere when its file has not changed for long."""
        content, sign = self._read(claim)
        if sign.get("host") == this_host() and sign.get("boot") == _boot():
            return _started(int(sign["pid"])) != sign["started"]
        seen = self._seen.get(claim.path.name)
        if seen is None or seen.content != content:
            self._seen[claim.path.name] = _Seen(content)
            return False
        return time.monotonic() - seen.since > self.stale_after_s

    def _read(self, claim: Claim) -> tuple[bytes, dict[str, Any]]:
        try:
            content = claim.path.read_bytes()
            return content, json.loads(content)
        except (FileNotFoundError, ValueError):  # finished a moment ago, or created a moment ago
            return b"", {}

    def _sign(self) -> dict[str, Any]:
        return {
            "host": this_host(),
            "boot": _boot(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "at": time.time(),
        }

    def _beat(self, every_s: float) -> None:
        while not self._over.wait(every_s):
            with self._lock:  # a claim that is given up meanwhile must not come back
                for claim in self._mine.values():
                    if not claim.lost:
                        publish_json(claim.path, self._sign())


def _boot() -> str:
    """Tells this boot of this kernel, and this container, from others: a pid means something only there."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot; None where there is no such process (a zombie counts as none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
