"""vLLM as an Engine, the only place that knows it (pinned to 0.32: what is subclassed here is not public API).

The constraint runs inside vLLM's EngineCore as a structured-output backend that a Scheduler subclass puts in place:
masks are computed beside the forward pass, and one bad request fails alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.request import Request
from vllm.v1.structured_output.backend_types import (
    StructuredOutputBackend,
    StructuredOutputGrammar,
    StructuredOutputOptions,
)

from octupus.config import ConstraintSection, ServeSection
from octupus.constrain import CallState, Constraint, Figures, Heap, Vocabulary, opening
from octupus.constrain.figures import SIZE
from octupus.errors import ConfigError, ConstraintError
from octupus.serve.engines import SWITCH_S, EngineDied, RequestFailed, Sampling, Step, TokenLogprobs
from octupus.tokenizer import load_tokenizer
from octupus.wire import CallGrammar, Wire

OURS = ("model", "tokenizer", "tensor_parallel_size", "max_model_len", "scheduler_cls", "structured_outputs_config")


# --- inside EngineCore ---------------------------------------------------------------------------------------------


class Names:
    """Which function a call is going to be of. Its schema alone is compiled, as soon as the name leaves no choice: of
    256 tools on offer one is called, and compiling the others would take the time of everybody's tokens."""

    def __init__(self, grammar: CallGrammar, vocabulary: Vocabulary, compile: Callable[[CallGrammar], object]) -> None:
        self._grammar, self._tokens, self._compile = grammar, vocabulary.tokens, compile
        self._heads = {(grammar.frame.before_name + f.name).encode(): f for f in grammar.functions}
        self._name: bytes | None = None
        self._known: set[bytes] = set()

    def accept(self, token: int) -> None:
        """One more token of the answer."""
        opens = token == self._grammar.frame.call_open
        if self._name is None and not opens:
            return
        data = b"" if opens else self._tokens[token]
        self._name = None if data is None else (self._name or b"") + data
        if self._name is None:
            return
        meant = [name for name in self._heads if name.startswith(self._name)]
        meant = [self._name] if self._name in meant else meant
        if not meant:
            self._name = None  # where text separates them, these are arguments
        elif len(meant) == 1 and meant[0] not in self._known:
            self._known.add(meant[0])
            self._compile(self._grammar.model_copy(update={"functions": (self._heads[meant[0]],)}))


class LazyGrammar(StructuredOutputGrammar):
    """One request's automaton, made while its prompt is prefilled; the first mask waits for it.

    Nothing raises here: vLLM would take every other request down with it. What goes wrong is kept in ``failure``, the
    row is left open, and the token sampled under it is refused, which ends this request alone with an error.
    """

    def __init__(self, compiling: Future[tuple[CallState, Names]]) -> None:
        self._compiling = compiling
        self.failure: str | None = None

    @property
    def _state(self) -> CallState:
        return self._compiling.result()[0]

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        row = bitmask[batch_index].numpy()
        if self.failure is None:
            try:
                self._state.fill(row)
                return
            except Exception as error:
                self.failure = str(error) or type(error).__name__
        row.fill(-1)

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        if self.failure is not None:
            return False
        try:
            state, names = self._compiling.result()
            for done, token in enumerate(tokens):
                if not state.advance(token):
                    state.rollback(done)
                    self.failure = f"token {token} is not legal here"
                    return False
                names.accept(token)
        except Exception as error:
            self.failure = str(error) or type(error).__name__
        return self.failure is None

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        if self.failure is not None:
            return []
        state, legal = self._state, 0
        while legal < len(tokens) and state.advance(tokens[legal]):
            legal += 1
        state.rollback(legal)
        return tokens[:legal]

    def rollback(self, num_tokens: int) -> None:
        if self.failure is None:
            self._state.rollback(num_tokens)

    def is_terminated(self) -> bool:
        made = self.failure is None and self._compiling.done() and self._compiling.exception() is None
        return made and self._state.terminated

    def reset(self) -> None:
        raise NotImplementedError("vLLM 0.32 never resets a grammar")


@dataclasses.dataclass  # else __post_init__ is not called
class Backend(StructuredOutputBackend):
    """Makes :class:`LazyGrammar` from the JSON of a CallGrammar."""

    def __post_init__(self) -> None:
        sys.setswitchinterval(SWITCH_S)
        tokenizer = load_tokenizer(self.vllm_config.model_config.tokenizer)
        additional: Any = self.vllm_config.additional_config
        options = ConstraintSection.model_validate(additional["octupus"])
        figures = Figures(Path(additional["octupus_figures"]) if "octupus_figures" in additional else None)
        self._constraint = Constraint(Vocabulary.from_tokenizer(tokenizer), options, figures, Heap()).set_up()
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="constraint")

    def compile_grammar(
        self, request_type: StructuredOutputOptions, grammar_spec: str, stop_token_ids: set[int] | None = None
    ) -> LazyGrammar:
        return LazyGrammar(self._pool.submit(self._start, grammar_spec))

    def _start(self, spec: str) -> tuple[CallState, Names]:
        written, begun = json.loads(spec)
        grammar = CallGrammar.model_validate_json(written)
        state, names = self._constraint.start(grammar), Names(grammar, self._constraint.vocabulary, self._prepare)
        for token in json.loads(begun):
            if not state.advance(token):
                raise ConstraintError(f"token {token} cannot begin this answer; this is a defect of the constraint")
            names.accept(token)
        self._prepare(grammar.model_copy(update={"functions": ()}) if len(grammar.functions) > 1 else grammar)
        return state, names

    def _prepare(self, grammar: CallGrammar) -> None:
        """Compile schemas before the answer comes to them."""
        self._pool.submit(lambda: self._constraint.start(grammar).prepare())

    def allocate_token_bitmask(self, max_num_seqs: int) -> torch.Tensor:
        return torch.full((max_num_seqs, (self.vocab_size + 31) // 32), -1, dtype=torch.int32)

    def destroy(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Constrained(Scheduler):
    """Presets the backend (vLLM keeps one that is there), and says why a request failed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        manager = self.structured_output_manager
        manager._use_async_grammar_compilation = False  # LazyGrammar compiles beside the loop itself: one wait less
        manager.backend = Backend(self.vllm_config, manager.tokenizer, self.vllm_config.model_config.get_vocab_size())
        threading.Thread(target=_leave_with_parent, name="parent-watch", daemon=True).start()

    def _handle_stopped_request(self, request: Request) -> bool:
        structured = request.structured_output_request
        if structured is not None and isinstance(structured.grammar, LazyGrammar) and structured.grammar.failure:
            request.stop_reason = structured.grammar.failure
        return super()._handle_stopped_request(request)


class ConstrainedScheduler(_Constrained):
    """For engines that schedule step by step (CPU)."""


class ConstrainedAsyncScheduler(_Constrained, AsyncScheduler):
    """For engines that schedule ahead (GPU's default): subclassing the other one would turn that off."""


def _leave_with_parent() -> None:
    """A server that was killed takes its engine along: EngineCore itself would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)


# --- inside the server ---------------------------------------------------------------------------------------------


def engine_arguments(model_dir: Path, section: ServeSection) -> AsyncEngineArgs:
    """vLLM's arguments: ours, what a CPU needs, then the recipe's ``serve.engine_args``.

    Raises:
        ConfigError: an argument that vLLM does not have, or one that is not the recipe's to set.
    """
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in section.engine_args:
        if name in OURS or name == "speculative_config":
            raise ConfigError(f"serve.engine_args.{name}: set by the server; use the serve section's own keys")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"serve.engine_args.{name}: vLLM has no such argument{hint}")
    values: dict[str, Any] = {"disable_log_stats": True, "max_num_seqs": min(section.max_concurrency, 256)}
    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; the default takes a share of all memory
        # Else the first request for log probabilities starts a C++ compiler, which takes long or does not exist.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        # Inductor takes minutes; a seeded request whose prompt is prefilled in chunks kills the engine for everybody.
        # And float32, whatever the checkpoint's type: some virtual machines announce AMX and die of its instructions.
        values |= {"enforce_eager": True, "enable_chunked_prefill": False, "dtype": "float32"}
        values["max_num_batched_tokens"] = max(section.max_model_len, 2048)
        values["worker_cls"] = "octupus.serve.worker.MaskingWorker"
    values |= section.engine_args
    values["additional_config"] = {**values.get("additional_config", {}), "octupus": section.constraint.model_dump()}
    return AsyncEngineArgs(
        model=str(model_dir),
        tensor_parallel_size=section.tensor_parallel,
        max_model_len=section.max_model_len,
        # The one backend name whose front-end check looks at nothing that we send; the preset backend replaces it.
        structured_outputs_config=StructuredOutputsConfig(backend="lm-format-enforcer"),
        **values,
    )


class VllmEngine:
    """See :class:`octupus.serve.engines.Engine`. Loads the model; call from a thread.

    Raises:
        ConfigError: arguments that vLLM refuses. EngineDied: the engine's processes did not come up.
    """

    def __init__(self, model_dir: Path, wire: Wire, section: ServeSection) -> None:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        arguments = engine_arguments(model_dir, section)
        with tempfile.NamedTemporaryFile(prefix="octupus-figures-") as file:
            file.truncate(SIZE)
            arguments.additional_config["octupus_figures"] = file.name
            self._figures = Figures(Path(file.name))
            self._llm = self._started(arguments, model_dir)  # has the file open when its name goes
        self._end, self._vocabulary = wire.end_id, Vocabulary.from_tokenizer(wire.tokenizer)

    @staticmethod
    def _started(arguments: AsyncEngineArgs, model_dir: Path) -> AsyncLLM:
        try:
            config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        except (ValueError, OSError) as error:
            raise ConfigError(f"vLLM refuses {model_dir}: {error}") from error
        ahead = config.scheduler_config.async_scheduling
        config.scheduler_config.scheduler_cls = ConstrainedAsyncScheduler if ahead else ConstrainedScheduler
        try:
            return AsyncLLM.from_vllm_config(config, disable_log_stats=arguments.disable_log_stats)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineDied(f"vLLM did not start: {error} (what its processes said is in the log above)") from error

    def figures(self) -> Mapping[str, float]:
        return self._figures.read()

    async def generate(
        self, request_id: str, prompt_ids: list[int], grammar: CallGrammar | None, sampling: Sampling
    ) -> AsyncGenerator[Step, None]:
        # What the answer must begin with is prefilled; one token at least is left to sample. As part of the prompt it
        # bears no presence penalty, which is right: nobody chose it.
        begun = [] if grammar is None else opening(grammar, self._vocabulary)[: sampling.max_tokens - 1]
        params = self._params(grammar, begun, sampling)
        prompt = tokens_input([*prompt_ids, *begun])
        try:
            async for output in self._llm.generate(prompt, params, request_id):  # type: ignore[arg-type]
                one = output.outputs[0]
                if one.finish_reason == "error":
                    raise RequestFailed(f"the constraint could not go on: {one.stop_reason}")
                logprobs = _logprobs(one, sampling.logprobs or 0)
                certain = [TokenLogprobs(token, 0.0, {}) for token in begun] if logprobs else ()
                yield Step([*begun, *one.token_ids], one.finish_reason, (*certain, *logprobs))
                begun = []
        except EngineDeadError as error:
            raise EngineDied(self.died() or str(error)) from error
        except (EngineGenerateError, VLLMClientError, ValueError) as error:
            raise RequestFailed(f"vLLM refused the request: {error.__cause__ or error}") from error

    def _params(self, grammar: CallGrammar | None, begun: list[int], s: Sampling) -> SamplingParams:
        return SamplingParams(
            temperature=s.temperature,
            top_p=s.top_p,
            top_k=s.top_k,
            min_p=s.min_p,
            presence_penalty=s.presence_penalty,
            frequency_penalty=s.frequency_penalty,
            repetition_penalty=s.repetition_penalty,
            seed=s.seed,
            max_tokens=s.max_tokens - len(begun),
            logit_bias=None if s.logit_bias is None else dict(s.logit_bias),
            logprobs=s.logprobs,
            stop_token_ids=[self._end],
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=None if grammar is None else sent(grammar, begun),
        )

    async def abort(self, request_id: str) -> None:
        await self._llm.abort(request_id)

    def died(self) -> str | None:
        return "vLLM's engine process died; its last words are in the log above" if self._llm.errored else None

    async def close(self) -> None:
        await asyncio.to_thread(self._llm.shutdown)


def sent(grammar: CallGrammar, begun: Sequence[int] = ()) -> StructuredOutputsParams:
    """What :class:`Backend` reads: a grammar, and the tokens of the answer that stand in the prompt already.

    As a "choice" it crosses the border unread: vLLM would parse a schema twice, and refuse deep ones.
    """
    return StructuredOutputsParams(choice=[grammar.model_dump_json(), json.dumps(list(begun))])


def _logprobs(output: Any, most: int) -> tuple[TokenLogprobs, ...]:
    found = []
    for id, entry in zip(output.token_ids, output.logprobs or (), strict=False):
        ranked = sorted(((value.rank or 0, token, value.logprob) for token, value in entry.items()))
        found.append(
            TokenLogprobs(id, entry[id].logprob, {token: value for rank, token, value in ranked if rank <= most})
        )
    return tuple(found)
