"""What the routes share: the engine and its state, who may come in, and how a request becomes jobs for the engine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from aiohttp import web

from octupus.config import ServeSection
from octupus.constrain import Constraint, Figures, Plan, Vocabulary, compile_schema
from octupus.errors import ConstraintError, OctupusError, Unsatisfiable, WireError
from octupus.serve.engines import Counting, Engine, EngineDied, EngineFactory, Sampling, Supervised
from octupus.serve.errors import ApiError, refuse
from octupus.serve.metrics import Metrics
from octupus.serve.protocol import Task
from octupus.serve.stream import CallOpened, Job, run_turn
from octupus.wire import ArgumentsDelta, CallGrammar, ContentDelta, Message, Tool, ToolChoice, Wire
from octupus.wire.tokenizer import Tokenizer

Made = TypeVar("Made")
HEAVY_BYTES = 16_384
"""Requests above this size, or with schemas, are prepared in a thread: they must not hold up everybody's tokens."""
LARGE_BYTES = 131_072
"""Requests above this size share one thread, so that they wait for each other and nobody else for them."""


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
        self.metrics = Metrics()
        self.expired = False
        self.created = int(time.time())
        self.last_request = time.monotonic()
        self.answered = 0
        self._constraint: Constraint | None = None
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large-requests")
        self._make_engine = make_engine
        self._working: set[asyncio.Task[object]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(self) -> None:
        """Load the engine in a thread, prove the mask, then watch over it."""
        try:
            self.engine = await self._loaded()
            if not self.section.constraint.enforce:
                print("serve.constraint.enforce is off: nothing keeps calls legal (for measurements)", flush=True)
            elif self.settings.canary:
                await prove_mask(self.engine, self.wire)
        except OctupusError as error:
            self.fail(str(error))
            return
        except Exception as error:  # a defect of ours: the server must end all the same, with its traceback
            self.fail(f"{type(error).__name__}: {error}")
            raise
        self._become("ready", "")
        if isinstance(self.engine, Supervised):
            while (why := self.engine.died()) is None:
                await asyncio.sleep(0.5)
            self.fail(why)

    def _loaded(self) -> asyncio.Future[Engine]:
        """The engine, from a thread that nobody waits for: a server told to stop while it loads ends at once."""
        done: concurrent.futures.Future[Engine] = concurrent.futures.Future()

        def load() -> None:
            done.set_running_or_notify_cancel()  # from here on a cancelled wait leaves the thread a future to fill
            try:
                self._constraint = Constraint(Vocabulary.from_tokenizer(self.tokenizer), self.section.constraint)
                done.set_result(self._make_engine())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=load, name="engine-loader", daemon=True).start()
        return asyncio.wrap_future(done)

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

    async def until_not(self, status: str) -> None:
        while self.status == status:
            await self.changed.wait()

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

    @contextmanager
    def working(self) -> Iterator[Engine]:
        """Admission: the engine, for as long as one request lasts.

        Raises:
            ApiError: 503 while loading, draining or broken; 429 when too many requests are at work.
        """
        if self.status != "ready" or self.engine is None:
            raise ApiError(f"not ready: {self.reason}", status=503, code=self.status, retry_after_s=2)
        if len(self._working) >= self.section.max_concurrency:
            why = f"{len(self._working)} requests are at work, the most that this server takes; come back soon"
            raise ApiError(why, status=429, code="queue_full", retry_after_s=1)
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        self._empty.clear()
        self.last_request = time.monotonic()
        try:
            yield self.engine
            self.answered += 1
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

    def constraint_figures(self) -> dict[str, float]:
        """What the constraint did here, where requests are checked, and in the engine, where masks are written."""
        here = Figures() if self._constraint is None else self._constraint.figures
        there: Mapping[str, float] = self.engine.figures() if isinstance(self.engine, Counting) else {}
        return {name: value + there.get(name, 0) for name, value in here.read().items()}

    def check_name(self, model: str | None) -> None:
        """Any name will do, unless the recipe says otherwise: then an unknown one is a 404."""
        if self.section.model_names == "strict" and model is not None and model != self.settings.model:
            why = f"model {model!r} does not exist; this server serves {self.settings.model!r}"
            raise ApiError(why, status=404, param="model", code="model_not_found")

    async def jobs(self, task: Task, request_id: str, size: int) -> list[Job]:
        """Prompt, grammar and sampling of every choice.

        Raises:
            ApiError: 400 for what wire, constraint or context length refuse; 404 as :meth:`check_name`.
        """
        self.check_name(task.request.model)
        heavy = size > HEAVY_BYTES or bool(task.tools) or task.response_format.type == "json_schema"
        size = max(size, HEAVY_BYTES + 1) if heavy else size
        prompt, grammar, plans, never = await self.apart(size, lambda: self._prepare(task))
        limit = self._output_limit(task, len(prompt))
        if any(int(token) >= self.tokenizer.size for token in task.request.logit_bias or ()):
            refuse("logit_bias", f"token ids end at {self.tokenizer.size - 1}")
        enforced = grammar if self.section.constraint.enforce else None
        named, stops = task.choice.mode == "named", task.stops
        spent = partial(self.metrics.count, "completion_tokens_total")
        samplings = [task.sampling(limit, index) for index in range(task.n)]
        return [
            Job(self.wire, f"{request_id}-{index}", prompt, enforced, sampling, plans, stops, named, never, spent)
            for index, sampling in enumerate(samplings)
        ]

    async def apart(self, size: int, work: Callable[[], Made]) -> Made:
        """Work on a request of ``size`` bytes: at once where it is small, else in a thread."""
        if size <= HEAVY_BYTES:
            return work()
        pool = self._large if size > LARGE_BYTES else None
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def _prepare(self, task: Task) -> tuple[list[int], CallGrammar, dict[str, Plan], tuple[str, ...]]:
        assert self._constraint is not None
        try:
            grammar = self.wire.grammar(task.tools, task.choice, task.parallel, task.response_format)
            callable = {function.name for function in grammar.functions}
            offered = [(tool, f"tools[{i}]") for i, tool in enumerate(task.tools) if tool.name in callable]
            plans, never = self._plans(task, offered)
            if never:
                possible = task.choice.model_copy(update={"names": tuple(n for n in callable if n not in never)})
                grammar = self.wire.grammar(task.tools, possible, task.parallel, task.response_format)
            if grammar.content_schema is not None:
                _refuse_gaps(self._constraint.plan(grammar.content_schema), "response_format.json_schema.schema")
            messages = [_arranged(message, plans) for message in task.messages]
            return self.wire.render_prompt(messages, task.tools), grammar, plans, never
        except WireError as error:
            field = str(error).partition(":")[0]
            raise ApiError(str(error), param=field if " " not in field else None, code="invalid_request") from error
        except ConstraintError as error:
            refuse("response_format.json_schema.schema", str(error), "unsupported_schema")
        except RecursionError:
            refuse(
                "tools" if task.tools else "response_format",
                "a schema refers to itself too deeply",
                "unsupported_schema",
            )

    def _plans(self, task: Task, offered: Sequence[tuple[Tool, str]]) -> tuple[dict[str, Plan], tuple[str, ...]]:
        """How each tool is enforced, and the tools that no call could satisfy, where the request can do without."""
        plans: dict[str, Plan] = {}
        never: dict[str, ApiError] = {}
        for tool, where in offered:
            field = f"{where}.function.parameters"
            try:
                plans[tool.name] = self._plan(tool, field)
            except ConstraintError as error:
                refused = ApiError(f"{field}: {error}", param=field, code="unsupported_schema")
                if self.section.constraint.enforce and not isinstance(error, Unsatisfiable):
                    raise refused from error
                never[tool.name] = refused
        if not self.section.constraint.enforce:
            return plans, ()
        if never and not plans and task.choice.mode != "auto":
            raise next(iter(never.values()))
        return plans, tuple(never)

    def _plan(self, tool: Tool, field: str) -> Plan:
        """How a tool's schema is enforced; with ``strict`` all of it must be."""
        assert self._constraint is not None
        plan = self._constraint.plan(tool.parameters, arguments=True)
        if tool.raw["function"].get("strict") is True:
            _refuse_gaps(plan, field)
        return plan

    def _output_limit(self, task: Task, prompt: int) -> int:
        context, asked = self.section.max_model_len, task.max_tokens
        start = f"this model's maximum context length is {context} tokens"
        if prompt >= context:
            refuse("messages", f"{start}, and messages and tools take {prompt}; send less", "context_length_exceeded")
        if asked is not None and prompt + asked > context:
            field = "max_tokens" if task.request.max_completion_tokens is None else "max_completion_tokens"
            why = f"{start}, but {prompt + asked} are asked for ({prompt} of them in messages and tools)"
            refuse(field, f"{why}; lower {field} or send less", "context_length_exceeded")
        return min(self.section.default_max_tokens, context - prompt) if asked is None else asked


def _refuse_gaps(plan: Plan, field: str) -> None:
    """Strict tools, and content, leave while they are written: what the mask does not hold, nothing does."""
    if plan.unenforced:
        pointer, keyword = plan.unenforced[0]
        refuse(field, f"{keyword!r} at {pointer or '/'} cannot be enforced", "unsupported_schema")


def _arranged(message: Message, plans: Mapping[str, Plan]) -> Message:
    """A replayed turn with its arguments in the order in which they were generated, which clients need not keep."""
    if not message.tool_calls:
        return message
    calls = (
        call.model_copy(update={"arguments": plans[call.name].arrange(call.arguments)})
        if call.name in plans and isinstance(call.arguments, dict)
        else call
        for call in message.tool_calls
    )
    return message.model_copy(update={"tool_calls": tuple(calls)})


async def prove_mask(engine: Engine, wire: Wire) -> None:
    """The canary: a call that no model would write by itself, so that only a live mask can bring it about.

    Raises:
        EngineDied: the mask is not live.
    """
    secret = secrets.token_hex(6)
    schema = {"properties": {"proof": {"const": secret}}, "required": ["proof"], "additionalProperties": False}
    function: dict[str, Any] = {"name": f"canary_{secret}", "parameters": {"type": "object", **schema}}
    grammar = wire.grammar(
        [Tool(raw={"type": "function", "function": function})], ToolChoice(mode="named", names=(function["name"],))
    )
    prompt = wire.render_prompt([Message(role="user", content="Hello")])
    plans = {function["name"]: compile_schema(function["parameters"], arguments=True)}
    job = Job(wire, f"canary-{secret}", prompt, grammar, Sampling(max_tokens=128, temperature=0.0), plans, named=True)
    told = ""
    try:
        async for _, items in run_turn(engine, job):
            for item in items:
                told += item.name if isinstance(item, CallOpened) else ""
                told += item.text if isinstance(item, ArgumentsDelta | ContentDelta) else ""
    except ApiError as error:
        told = error.message
    if told != f'{function["name"]}{{"proof": "{secret}"}}':
        raise EngineDied(
            f"the canary did not come back (found: {told or 'nothing'}), so the token mask is not live and calls would "
            "not be legal; try serve.engine_args.async_scheduling=false, and check that vllm is 0.32"
        )


SERVICE = web.AppKey("service", Service)
