"""One worker's place: the shards that it holds, what it draws next, and where the rows go."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from octupus.data.appended import AppendedFile
from octupus.publish import append_jsonl
from octupus.runs import Reporter
from octupus.teacher.claims import Claim, Claims
from octupus.teacher.ledger import Ledger
from octupus.teacher.prompts import Prompt
from octupus.teacher.talks import Row

POLL_S = 0.5


@dataclass
class _Shard:
    """A shard that this worker holds: where its rows go, and how many prompts are left."""

    claim: Claim
    order: list[str]
    part: AppendedFile
    left: int


@dataclass
class Bench:
    """Draws prompts from shards that it claims, beginning at ``start``, and keeps their rows."""

    ledger: Ledger
    claims: Claims
    reporter: Reporter
    start: int
    rows: int = 0
    tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    _shards: dict[int, _Shard] = field(default_factory=dict)
    _ready: deque[tuple[int, Prompt]] = field(default_factory=deque)
    _looked: float = float("-inf")

    def more(self) -> bool:
        """Whether there is something to draw; waits as :meth:`draw` does."""
        item = self.draw(True)
        if item is not None:
            self._ready.appendleft(item)
        return item is not None

    def draw(self, idle: bool) -> tuple[int, Prompt] | None:
        """The next prompt, with its shard; None when there is none (now, or, where ``idle``, at all).

        Shards in other hands are looked at again now and then: a worker may die. On another node that shows only by its
        claim not changing for a while, so an idle worker waits that long before it leaves the rest to the living.
        """
        deadline = time.monotonic() + self.claims.stale_after_s + 2 * POLL_S
        while not self._ready:
            if time.monotonic() - self._looked < POLL_S and not idle:
                return None
            self._looked = time.monotonic()
            others = [n for n in self.ledger.unfinished() if n not in self._shards]
            if self._claim(others):
                continue
            if not idle or not others or time.monotonic() > deadline:
                return None
            time.sleep(POLL_S)
        return self._ready.popleft()

    def _claim(self, numbers: list[int]) -> bool:
        """Open the first of these shards that can be had; whether there was one."""
        for number in sorted(numbers, key=lambda n: (n - self.start) % self.ledger.plan.shards):
            claim = self.claims.take(self.ledger.name(number))
            if claim is None:
                continue
            if self.ledger.marker(number) is not None:  # finished between the two looks
                self.claims.release(claim)
                continue
            self._open(number, claim)
            return True
        return False

    def _open(self, number: int, claim: Claim) -> None:
        prompts, known = self.ledger.plan.shard(number), self.ledger.known(number)
        missing = [p for p in prompts if p.id not in known]
        part = self.ledger.part(number, claim.generation)
        self._shards[number] = _Shard(claim, [p.id for p in prompts], part, len(missing))
        self._ready.extend((number, prompt) for prompt in missing)
        self.reporter.advance(len(prompts) - len(missing))
        if not missing:
            self._finish(number)

    def keep(self, number: int, row: Row) -> None:
        """Write a finished prompt's row, unless another worker has taken the shard over."""
        shard = self._shards[number]
        if not shard.claim.lost:
            shard.part.append(row)
            self.rows += 1
            self.tokens += row["tokens"]
            if "reason" in row:
                self.reasons[row["reason"].partition(": ")[0]] += 1
            self.reporter.advance(1, self._note())
        shard.left -= 1
        if not shard.left:
            self._finish(number)

    def _note(self) -> str:
        rate = self.tokens / max(1e-9, time.monotonic() - self.began)
        rejected = ", ".join(f"{name} {n}" for name, n in self.reasons.most_common(3))
        return f"{rate:,.0f} tokens/s{f', rejected: {rejected}' if rejected else ''}"

    def _finish(self, number: int) -> None:
        shard = self._shards.pop(number)
        shard.part.close()
        if not shard.claim.lost:
            self.ledger.finish(number, shard.order)
        self.claims.release(shard.claim)

    def close(self, rates: Path, worker: int) -> None:
        """Close what is unfinished, and note the rate for plans to come."""
        for shard in self._shards.values():
            shard.part.close()
        if self.tokens:
            seconds = round(time.monotonic() - self.began, 3)
            append_jsonl(rates, {"worker": worker, "tokens": self.tokens, "seconds": seconds, "prompts": self.rows})
