"""One stream for every answer: engine ids -> wire parser -> items. A non-streamed answer drains the same ones."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, cast

from octupus.constrain import Plan
from octupus.errors import WireError
from octupus.serve.engines import Engine, Sampling, TokenLogprobs
from octupus.serve.errors import ApiError
from octupus.wire import ArgumentsDelta, CallEnd, CallGrammar, CallStart, ContentDelta, TurnEnd, Wire


@dataclass(frozen=True, slots=True)
class Begun:
    """The first token is there, though it may hold no text: clients wait for this. ``calling``: it opens a call."""

    calling: bool


@dataclass(frozen=True, slots=True)
class CallOpened:
    """A call with the id under which its result will come back."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of the content's tokens since the last ones."""

    entries: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The last item of a choice. ``incomplete`` is the index of a call that was cut."""

    reason: str
    tokens: int
    calls: int = 0
    incomplete: int | None = None


Item = Begun | ContentDelta | CallOpened | ArgumentsDelta | Logprobs | Finish


@dataclass(frozen=True)
class Job:
    """What one choice is made from. ``plans`` (by function) say how arguments are enforced, and validate them."""

    wire: Wire
    request_id: str
    prompt_ids: list[int]
    grammar: CallGrammar | None
    """None: the constraint is off; nothing is enforced and nothing validated."""
    sampling: Sampling
    plans: Mapping[str, Plan]
    stops: Sequence[str] = ()
    named: bool = False
    uncallable: tuple[str, ...] = ()
    """Functions that are shown and that no call could satisfy."""
    spent: Callable[[int], None] = lambda tokens: None
    """Told how many tokens were generated, however the work ended."""


class StopMatcher:
    """Finds the first stop string in a text that comes in pieces; holds back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.hit = False

    def feed(self, text: str) -> str:
        """What can leave now: of a hit what stood before it, and nothing any more behind one."""
        if self.hit:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the one that is whole first, so that it does not depend on how the text is cut
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        keep = 0
        for stop in self._stops:
            size = min(len(stop) - 1, len(text))
            while size > keep and not text.endswith(stop[:size]):
                size -= 1
            keep = max(keep, size)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        held, self._held = self._held, ""
        return held


class Turn:
    """One choice: wire events in, items out, every finished call validated."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.parser = job.wire.parser(job.grammar)
        self.tokens = 0
        self.names: list[str] = []
        self.arguments: list[list[str]] = []
        self.open = self.calling = False
        self.stop = StopMatcher(job.stops) if job.stops else None
        self._waiting: list[Item] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self.stop is not None and self.stop.hit

    async def items(self, ids: Sequence[int]) -> list[Item]:
        self.tokens += len(ids)
        events = self.parser.feed(ids)
        if self.stop is None and len(events) == 1 and type(events[0]) is ContentDelta:  # nearly every token of a text
            return cast(list[Item], events)
        return await self._items(events)

    async def _items(self, events: Sequence[Any]) -> list[Item]:
        out: list[Item] = []
        for event in events:
            if isinstance(event, ContentDelta):
                text = self.stop.feed(event.text) if self.stop else event.text
                if text:
                    out.append(event if text is event.text else ContentDelta(text))
                if self.stop and self.stop.hit:
                    break
            elif isinstance(event, ArgumentsDelta):
                self.arguments[event.index].append(event.text)
                (self._waiting or out).append(event)
            elif isinstance(event, CallStart):
                out += self._held_content()
                self.names.append(event.name)
                self.arguments.append([])
                self.open = True
                opened = CallOpened(event.index, f"call_{secrets.token_hex(12)}", event.name)
                plan = self.job.plans.get(event.name)
                held = plan is not None and plan.unenforced  # then the call leaves only when it has been validated
                (self._waiting if held else out).append(opened)
            elif isinstance(event, CallEnd):
                self.open = False
                problem = None if self.job.grammar is None else await self._problem(event.index)
                if problem:
                    raise ApiError(
                        f"the model's call of {self.names[event.index]!r} broke its schema where nothing could be "
                        f"enforced ({problem}); simplify the schema, or ask again",
                        status=422,
                        code="invalid_tool_call",
                    )
                out += self._waiting
                self._waiting = []
            elif isinstance(event, TurnEnd):
                out += self._held_content()
        return out

    def _held_content(self) -> list[Item]:
        held = self.stop.rest() if self.stop else ""
        return [ContentDelta(held)] if held else []

    async def _problem(self, index: int) -> str | None:
        """What keeps this call from being legal. In a thread: neither schema nor arguments are ours."""
        text = "".join(self.arguments[index])
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"no JSON: {error}"
        if not isinstance(value, dict):
            return "no JSON object"
        if self.names[index] not in self.job.plans:
            return None
        problems = await asyncio.to_thread(self.job.plans[self.names[index]].validator.problems, value)
        return problems[0] if problems else None

    async def finish(self, reason: str | None) -> list[Item]:
        """The last items. A turn that ended by itself is named as OpenAI does; a cut one says which call it cut."""
        if reason == "stop" and not self.parser.ended and not self.stopped:
            out = await self._items(self.parser.feed([self.job.wire.end_id]))
            return [*out, self._ended()]
        if self.parser.ended or self.stopped:
            return [self._ended()]
        if reason != "length":
            raise ApiError(f"the engine ended the request early ({reason}); ask again", status=503, retry_after_s=1)
        out = await self._items(self.parser.finish()) + self._held_content() + self._waiting
        cut = None
        if self.open and await self._problem(len(self.names) - 1):
            cut = len(self.names) - 1
        return [*out, Finish("length", self.tokens, len(self.names), cut)]

    def _ended(self) -> Finish:
        calls = len(self.names)
        return Finish("tool_calls" if calls and not self.job.named else "stop", self.tokens, calls)


async def run_turn(engine: Engine, job: Job, index: int = 0) -> AsyncGenerator[tuple[int, list[Item]], None]:
    """Choice ``index``: its items, a list for each step of the engine, a Finish last. Closing this ends the work.

    Raises:
        ApiError: an answer that must not leave. RequestFailed, EngineDied: as the engine.
    """
    turn = Turn(job)
    finish: str | None = None
    # A call that is held back until it is valid may become an error, which is better told by the status.
    out, opens = list[Item](), job.wire.frame.call_open
    silent = any(plan.unenforced for plan in job.plans.values())
    try:
        async with aclosing(engine.generate(job.request_id, job.prompt_ids, job.grammar, job.sampling)) as steps:
            async for step in steps:
                finish = step[1]
                logprobs = step[2] if len(step) > 2 else ()
                out = await _with_logprobs(turn, step[0], logprobs) if logprobs else await turn.items(step[0])
                if not silent:
                    silent, out = True, [Begun(step[0][:1] == [opens]), *out]
                if finish is not None or turn.stopped:
                    break
                if out:
                    yield index, out
                    out = []
        yield index, [*out, *await turn.finish(finish)]
    except WireError as error:
        why = f"the engine wrote what is no turn of this wire format ({error})"
        raise ApiError(why, status=500, code="illegal_turn") from error
    finally:
        job.spent(turn.tokens)
        if finish is None:
            await engine.abort(job.request_id)


async def _with_logprobs(turn: Turn, ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> list[Item]:
    """Token by token, so that each content token's probabilities leave with its text."""
    out: list[Item] = []
    for id, entry in zip(ids, logprobs, strict=True):
        turn.calling = turn.calling or id == turn.job.wire.frame.call_open
        if not turn.calling and turn.job.wire.tokenizer.token_bytes(id) is not None:
            out.append(Logprobs((entry,)))
        out += await turn.items([id])
        if turn.stopped:
            break
    return out


def merged(engine: Engine, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, list[Item]], None]:
    """The items of all choices as they come, each with its choice's index."""
    return run_turn(engine, jobs[0]) if len(jobs) == 1 else _merged(engine, jobs)


async def _merged(engine: Engine, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, list[Item]], None]:
    queue: asyncio.Queue[tuple[int, list[Item]] | BaseException | None] = asyncio.Queue(maxsize=64)

    async def pump(index: int, job: Job) -> None:
        try:
            async with aclosing(run_turn(engine, job, index)) as turn:
                async for step in turn:
                    await queue.put(step)
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(pump(i, job)) for i, job in enumerate(jobs)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
