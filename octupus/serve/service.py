"""What the routes share: the engine and its state, who may come in, and how a request becomes jobs for the engine."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from octupus.config import ServeSection
from octupus.constrain import Constraint, Vocabulary
from octupus.errors import ConstraintError, OctupusError, WireError
from octupus.serve.engines import Engine, EngineDied, EngineFactory, Sampling, Supervised
from octupus.serve.errors import ApiError
from octupus.serve.protocol import Task
from octupus.serve.stream import ArgumentsDelta, CallOpened, Finish, Job, run_turn
from octupus.wire import CallGrammar, Message, Tool, ToolChoice, Wire
from octupus.wire.tokenizer import Tokenizer

HEAVY_BYTES = 16_384
"""Requests above this size are rendered and checked in a thread, so that they do not hold up everybody's tokens."""


@dataclass(frozen=True)
class Settings:
    """What the server is told, besides engine and wire."""

    section: ServeSection
    model: str
    """The name that answers bear."""
    canary: bool = True
    """Whether a generation must prove that the mask is live before the server is ready."""
    keys: tuple[str, ...] = ()
    """API keys; none: everybody may ask."""


class Service:
    """One server's state. ``status`` goes loading -> ready -> draining, or to failed, which ends the process."""

    def __init__(self, make_engine: EngineFactory, wire: Wire, tokenizer: Tokenizer, settings: Settings) -> None:
        self.wire, self.tokenizer, self.settings = wire, tokenizer, settings
        self.section = settings.section
        self.status: Literal["loading", "ready", "draining", "failed"] = "loading"
        self.reason = "the model is being loaded"
        self.changed = asyncio.Event()
        """Set at every change of status."""
        self.engine: Engine | None = None
        self.expired = False
        self.last_request = time.monotonic()
        self._constraint: Constraint | None = None
        self._make_engine = make_engine
        self._working: set[asyncio.Task[object]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the engine in a thread, prove the mask, then watch over it."""
        try:
            self._constraint = await asyncio.to_thread(self._load_constraint)
            self.engine = await asyncio.to_thread(self._make_engine)
            if self.settings.canary:
                await prove_mask(self.engine, self.wire)
        except OctupusError as error:
            self.fail(str(error))
            return
        self._become("ready", "")
        if isinstance(self.engine, Supervised):
            while (why := self.engine.died()) is None:
                await asyncio.sleep(0.5)
            self.fail(why)

    def _load_constraint(self) -> Constraint:
        return Constraint(Vocabulary.from_tokenizer(self.tokenizer), self.section.constraint)

    async def stop(self) -> None:
        if self.engine is not None:
            await self.engine.close()

    def fail(self, why: str) -> None:
        """The server cannot go on; whoever runs it ends it."""
        self._become("failed", why)

    def _become(self, status: Literal["ready", "draining", "failed"], reason: str) -> None:
        if self.status != "failed":
            self.status, self.reason = status, reason
            self.changed.set()
            self.changed = asyncio.Event()

    async def drain(self, deadline_s: float) -> None:
        """Take nothing new, let what runs finish; at the deadline end it with an error that the client can read."""
        self._become("draining", "the server is shutting down")
        try:
            await asyncio.wait_for(self._empty.wait(), deadline_s)
        except TimeoutError:
            self.expired = True
            for task in self._working:
                task.cancel()
            await asyncio.wait_for(self._empty.wait(), 5)

    # --- requests -------------------------------------------------------------------------------------------------

    @contextmanager
    def working(self) -> Iterator[Engine]:
        """Admission: the engine, for as long as one request lasts.

        Raises:
            ApiError: 503 while loading, draining or broken; 429 when too many requests are at work.
        """
        if self.status != "ready" or self.engine is None:
            raise ApiError(f"not ready: {self.reason}", status=503, code=self.status, retry_after_s=2)
        if len(self._working) >= self.section.max_concurrency:
            raise ApiError(
                f"{len(self._working)} requests are at work, the most that this server takes; come back soon",
                status=429,
                code="queue_full",
                retry_after_s=1,
            )
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        self._empty.clear()
        self.last_request = time.monotonic()
        try:
            yield self.engine
        except EngineDied as error:
            self.fail(str(error))
            raise
        finally:
            self._working.discard(task)
            self.last_request = time.monotonic()
            if not self._working:
                self._empty.set()

    @property
    def at_work(self) -> int:
        return len(self._working)

    async def jobs(self, task: Task, request_id: str, size: int) -> list[Job]:
        """Prompt, grammar and sampling of every choice.

        Raises:
            ApiError: 400 for what wire, constraint or context length refuse; 404 for an unknown model where names are strict.
        """
        named = task.request.model
        if self.section.model_names == "strict" and named is not None and named != self.settings.model:
            raise ApiError(
                f"model {named!r} does not exist; this server serves {self.settings.model!r}",
                status=404,
                param="model",
                code="model_not_found",
            )
        work: Callable[[], tuple[CallGrammar, list[int], frozenset[str]]] = lambda: self._prepare(task)  # noqa: E731
        grammar, prompt, buffered = await asyncio.to_thread(work) if size > HEAVY_BYTES else work()
        limit = self._output_limit(task, len(prompt))
        return [
            Job(
                wire=self.wire,
                request_id=f"{request_id}-{index}",
                prompt_ids=prompt,
                grammar=grammar,
                sampling=task.sampling(limit, index),
                stops=task.stops,
                named=task.choice.mode == "named",
                buffered=buffered,
            )
            for index in range(task.n)
        ]

    def _prepare(self, task: Task) -> tuple[CallGrammar, list[int], frozenset[str]]:
        assert self._constraint is not None
        try:
            grammar = self.wire.grammar(task.tools, task.choice, task.parallel, task.response_format)
            prompt = self.wire.render_prompt(task.messages, task.tools)
        except WireError as error:
            field = str(error).partition(":")[0]
            raise ApiError(str(error), param=field if field.isidentifier() else None, code="invalid_request") from error
        try:
            self._constraint.check(grammar)
        except ConstraintError as error:
            raise ApiError(str(error), param=_schema_field(error, task), code="unsupported_schema") from error
        return grammar, prompt, frozenset()

    def _output_limit(self, task: Task, prompt: int) -> int:
        context, asked = self.section.max_model_len, task.max_tokens
        field = "max_tokens" if task.request.max_completion_tokens is None else "max_completion_tokens"
        if prompt >= context:
            raise ApiError(
                f"This model's maximum context length is {context} tokens, and the messages and tools take {prompt}; "
                "send fewer or shorter ones",
                param="messages",
                code="context_length_exceeded",
            )
        if asked is not None and prompt + asked > context:
            raise ApiError(
                f"This model's maximum context length is {context} tokens, but {prompt + asked} were asked for "
                f"({prompt} in messages and tools, {asked} in {field}); lower {field} or send less",
                param=field,
                code="context_length_exceeded",
            )
        return min(self.section.default_max_tokens, context - prompt) if asked is None else asked


def _schema_field(error: ConstraintError, task: Task) -> str:
    return "response_format" if task.response_format.type != "text" and not task.tools else "tools"


async def prove_mask(engine: Engine, wire: Wire) -> None:
    """The canary: a call that no model would write by itself, so that only a live mask can bring it about.

    Raises:
        EngineDied: the mask is not live.
    """
    secret = secrets.token_hex(6)
    parameters = {
        "type": "object",
        "properties": {"proof": {"const": secret}},
        "required": ["proof"],
        "additionalProperties": False,
    }
    tool = Tool(raw={"type": "function", "function": {"name": f"canary_{secret}", "parameters": parameters}})
    grammar = wire.grammar([tool], ToolChoice(mode="named", names=(tool.name,)))
    job = Job(
        wire=wire,
        request_id=f"canary-{secret}",
        prompt_ids=wire.render_prompt([Message(role="user", content="Hello")]),
        grammar=grammar,
        sampling=Sampling(max_tokens=128, temperature=0.0),
        named=True,
    )
    try:
        items = [item async for some in run_turn(engine, job) for item in some]
    except (ApiError, WireError) as error:
        items, found = [], str(error)
    else:
        found = _told(items)
    if found != f'{tool.name} {{"proof": "{secret}"}} stop':
        raise EngineDied(
            f"the canary did not come back ({found or 'nothing'}): the token mask is not live, so calls would not be "
            "legal; set serve.engine_args.async_scheduling=false, or check that vllm is 0.32"
        )


def _told(items: Sequence[object]) -> str:
    names = [item.name for item in items if isinstance(item, CallOpened)]
    arguments = "".join(item.text for item in items if isinstance(item, ArgumentsDelta))
    reasons = [item.reason for item in items if isinstance(item, Finish)]
    return " ".join([*names, arguments, *reasons])


SERVICE = web.AppKey("service", Service)
