"""In vLLM's own scheduler: a prompt is prefilled while its schemas are compiled; the first mask waits for them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from octupus.config import ServeSection
from octupus.constrain import Constraint
from octupus.errors import ConstraintError
from octupus.wire import ResponseFormat, Tool, ToolChoice
from tests.support.tiny import tiny_wire
from tests.support.tiny_model import tiny_model

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def scheduler(folder: Path) -> Any:
    """The scheduler that the server runs, with blocks for a cache and no worker behind it."""
    import torch
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from octupus.serve.engine import ConstrainedScheduler, engine_arguments

    arguments = engine_arguments(
        tiny_model(folder / "tiny"), ServeSection(max_model_len=512, engine_args={"enable_prefix_caching": False})
    )
    config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    config.cache_config.num_gpu_blocks = 64
    spec = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=32, dtype=torch.float32)
    cache = KVCacheConfig(num_blocks=64, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    return ConstrainedScheduler(config, cache, StructuredOutputManager(config), block_size=16)


def test_prefill_begins_before_compile_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    from octupus.serve.engine import sent

    gate, asked = threading.Event(), threading.Event()
    start = Constraint.start

    def slow(self: Constraint, grammar: Any) -> Any:
        asked.set()
        assert gate.wait(60)
        return start(self, grammar)

    monkeypatch.setattr(Constraint, "start", slow)
    wire, engine = tiny_wire(), scheduler(tmp_path)
    tool = Tool(raw={"type": "function", "function": {"name": "weather", "parameters": SCHEMA}})
    grammar = wire.grammar((tool,), ToolChoice(mode="required"), True, ResponseFormat())
    params = SamplingParams(structured_outputs=sent(grammar))
    request = Request("r", list(range(1, 40)), params, None)
    manager = engine.structured_output_manager
    try:
        manager.grammar_init(request)
        assert asked.wait(60)
        engine.add_request(request)
        waiting = request.structured_output_request
        while not waiting.is_grammar_ready:  # vLLM hands the lazy grammar over from a thread of its own
            pass
        scheduled = engine.schedule().num_scheduled_tokens
        assert not gate.is_set() and scheduled == {"r": 39}, "prefilled although the compile has not ended"
        bitmask = manager.backend.allocate_token_bitmask(1)
        filling = threading.Thread(target=waiting.grammar.fill_bitmask, args=(bitmask, 0))
        filling.start()
        assert (bitmask == -1).all(), "no mask before the compile has ended"
        gate.set()
        filling.join(60)
        words = bitmask.view(-1)
        allowed = [word * 32 + bit for word in range(len(words)) for bit in range(32) if words[word] >> bit & 1]
        assert allowed == [grammar.frame.call_open]
    finally:
        gate.set()
        manager.backend.destroy()
        manager.executor.shutdown()


def test_what_cannot_be_compiled_fails_alone() -> None:
    """vLLM asks whether a grammar has ended before it asks for a mask; what raises there ends every request."""
    import torch

    from octupus.serve.engine import LazyGrammar

    compiling: Future[Any] = Future()
    grammar = LazyGrammar(compiling)
    assert not grammar.is_terminated()
    compiling.set_exception(ConstraintError("too complex"))
    assert not grammar.is_terminated()
    bitmask = torch.zeros((2, 4), dtype=torch.int32)
    grammar.fill_bitmask(bitmask, 1)
    assert bitmask.tolist() == [[0] * 4, [-1] * 4], "left open: vLLM needs some token to refuse"
    assert not grammar.accept_tokens("r", [5]) and grammar.failure == "too complex" and not grammar.is_terminated()
    other = LazyGrammar(compiling)
    assert not other.accept_tokens("r", [5]) and other.failure == "too complex"
