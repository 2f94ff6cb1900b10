"""The teacher on vLLM, offline, with the model's OWN chat template. The only file of this room that imports vllm."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from octupus.config import TeacherSection
from octupus.errors import ConfigError, JobError
from octupus.teacher.protocol import Answer, Candidate, Request

TEMPLATE_ARGUMENTS = "chat_template_kwargs"
"""The one key of ``teacher.engine_args`` that is not vLLM's: for the template (Qwen3: ``enable_thinking: false``)."""


def identity(section: TeacherSection) -> dict[str, Any]:
    """Model, revision and chat template; for a folder also what tells its weights from others."""
    name, args = str(section.model), section.engine_args
    try:
        template = AutoTokenizer.from_pretrained(name, revision=args.get("revision")).chat_template
    except (OSError, ValueError) as error:
        raise ConfigError(_unusable(name, error)) from error
    if not template:
        raise ConfigError(f"teacher.model {name}: it has no chat template; name an instruct model, not a base model")
    folder = Path(name)
    weights = sorted((p.name, p.stat().st_size) for p in folder.glob("*.safetensors")) if folder.is_dir() else []
    return {
        "engine": "vllm",
        "model": folder.name if folder.is_dir() else name,
        "revision": args.get("revision"),
        "weights": weights,
        "template": hashlib.sha256(str(template).encode()).hexdigest(),
        "template_arguments": args.get(TEMPLATE_ARGUMENTS, {}),
    }


def _unusable(name: str, error: Exception) -> str:
    first = str(error).splitlines()[0]
    return f"teacher.model {name!r} cannot be used: {first}; run `make fetch`, or name a model folder"


class VllmEngine:
    """vLLM's own loop: requests are added while others run, so the queue never empties between shards."""

    def __init__(self, section: TeacherSection) -> None:
        args = {"enable_prefix_caching": True, **section.engine_args}
        self._template_arguments = args.pop(TEMPLATE_ARGUMENTS, {})
        if current_platform.is_cpu():
            # vLLM 0.32 on CPU dies for everybody when a prompt with a seed is prefilled in chunks.
            args.setdefault("enable_chunked_prefill", False)
        try:
            self._llm = LLM(model=str(section.model), **args)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(_unusable(str(section.model), error)) from error
        self._engine = self._llm.llm_engine
        self._tokenizer = self._llm.get_tokenizer()
        self._window: int = self._llm.model_config.max_model_len
        self._refused: list[Answer] = []
        self.capacity: int = 2 * self._engine.vllm_config.scheduler_config.max_num_seqs

    def submit(self, request: Request) -> None:
        ids = self._tokenizer.apply_chat_template(
            list(request.messages), add_generation_prompt=True, return_dict=False, **self._template_arguments
        )
        assert isinstance(ids, list), "return_dict=False and tokenize=True give ids"
        room = self._window - len(ids)
        if room < 1:
            why = f"{len(ids)} prompt tokens, the window has {self._window}"
            self._refused.append(Answer(request.id, (), refused=why))
            return
        sampling = request.sampling
        params = SamplingParams(
            n=request.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=request.seed if sampling.temperature else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(request.id, TokensPrompt(prompt_token_ids=ids), params)

    def step(self) -> list[Answer]:
        answers, self._refused = self._refused, []
        if answers:
            return answers
        try:
            outputs = self._engine.step()
        except Exception as error:  # whatever ends vLLM's engine ends this stage; it never goes on with half of it
            why = f"the teacher's engine died: {error}; run the same command again, answers are kept"
            raise JobError(why) from error
        for output in outputs:
            if output.finished and isinstance(output, RequestOutput):
                answers.append(Answer(output.request_id, tuple(map(_candidate, output.outputs))))
        return answers

    def close(self) -> None:
        self._engine.engine_core.shutdown()


def _candidate(output: CompletionOutput) -> Candidate:
    if output.finish_reason not in ("stop", "length"):
        raise JobError(
            f"the teacher's engine ended an answer with {output.finish_reason!r}; run the same command again"
        )
    reason: Literal["stop", "length"] = "stop" if output.finish_reason == "stop" else "length"
    return Candidate(output.text, reason, len(output.token_ids))


def open_engine(section: TeacherSection) -> VllmEngine:
    return VllmEngine(section)
