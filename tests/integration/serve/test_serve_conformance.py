"""The conformance table (tests/support/conformance.py) through the official client over a real socket.

All of it on the real vLLM with random weights, for two dialects; a slice on the scripted engine. Another slice on the
real vLLM is in test_serve_vllm.py, whose server it shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import openai
import pytest

from octupus.tokenizer import load_tokenizer
from tests.support.conformance import Answer, Case, problems, run, run_all, table
from tests.support.launched import Launched
from tests.support.served import served
from tests.support.tiny import tiny_dialect
from tests.support.tiny_model import tiny_model

CASES = table()


def test_the_table_is_large_and_its_checker_can_fail() -> None:
    assert len(CASES) >= 120 and len({case.id for case in CASES}) == len(CASES)
    assert {case.tools for case in CASES} >= {0, 1, 2, 16, 64, 256}
    case = Case("required", False, True, 2)
    good: Answer = {
        "content": None,
        "calls": [{"name": "f1", "arguments": "{}"}],
        "finish": "tool_calls",
        "usage": {"completion_tokens": 5},
    }
    assert not list(problems(case, good))
    for change in (
        {"finish": "stop"},
        {"calls": []},
        {"content": "x"},
        {"calls": good["calls"] * 2},
        {"calls": [{"name": "f9", "arguments": "{}"}]},
        {"calls": [{"name": "f1", "arguments": '{"x": 1}'}]},
        {"usage": {"completion_tokens": 500}},
        {"calls": [{**good["calls"][0], "incomplete": True}]},
    ):
        assert list(problems(case, good | change)), change


@pytest.mark.parametrize("dialect", ["octupus", "octupus-v1", "qwen2_5"])
def test_a_slice_on_the_scripted_engine(dialect: str) -> None:
    wire = tiny_dialect(dialect)
    cases = [case for case in CASES if case.tools <= 16 and case.ending][::2]  # it knows no bias
    with served(wire=wire, max_model_len=8192, engine_args={"patience": 0.9}) as server:
        finishes, wrong = run_all(server.client, cases, wire.end_id)
    assert not wrong
    assert min(finishes[reason] for reason in ("stop", "tool_calls", "length")) > 5


@pytest.fixture(scope="module", params=["octupus", "qwen"])
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[openai.OpenAI, int]]:
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    tiny_model(folder, instruct="qwen2_5" if request.param == "qwen" else "")
    dialect = ("--dialect", "qwen") if request.param == "qwen" else ()
    with Launched("--model", folder, *dialect, "--max-model-len", "40960") as launched:
        client = openai.OpenAI(base_url=f"{launched.ready()}/v1", api_key="any", max_retries=0, timeout=300)
        yield client, load_tokenizer(folder).eos_id
        launched.process.terminate()
        assert launched.ended() == 0


@pytest.mark.full
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")
class TestOnVllm:
    def test_the_whole_table(self, real: tuple[openai.OpenAI, int]) -> None:
        finishes, wrong = run_all(real[0], CASES, real[1])
        assert not wrong, f"{len(wrong)} of {len(CASES)}: {wrong}"
        assert min(finishes[reason] for reason in ("stop", "tool_calls", "length")) >= 20, finishes

    def test_one_at_a_time_it_is_the_same(self, real: tuple[openai.OpenAI, int]) -> None:
        """Alone the engine's steps fall otherwise into messages than under load: neither may show."""
        for case in CASES[::9]:
            assert run(real[0], case, real[1])[1] == []
