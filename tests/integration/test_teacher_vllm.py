"""The real vLLM engine on a tiny model with random weights: its own chat template, full queue, resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octupus.config import Recipe, ScratchModel
from octupus.data.appended import appended
from octupus.errors import ConfigError
from octupus.runs import Run
from octupus.scratch import build
from octupus.teacher.protocol import Request, engine_module
from tests.support.recipes import recipe, write_jsonl
from tests.support.teachers import teach
from tests.support.tiny import CORPUS

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = ScratchModel(vocab_size=768, hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=1)
    folder = build(shape, CORPUS * 4, tmp_path_factory.mktemp("teacher") / "tiny-teacher")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(autouse=True)
def one_small_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (
        ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("HF_HUB_OFFLINE", "1"),
    ):
        monkeypatch.setenv(name, value)
    yield


def suite(model: Path, path: Path, **sampling: Any) -> Recipe:
    args = {"max_model_len": 256, "enforce_eager": True, "max_num_seqs": 8, "dtype": "float32"}
    values = {"temperature": 0.9, "max_tokens": 12, **sampling}
    sources = [{"name": "openai_format", "path": str(path)}]
    return recipe(
        teacher={"engine": "vllm", "model": str(model), "prompts": sources, "sampling": values, "engine_args": args}
    )


def test_vllm_answers_once_with_its_own_template_and_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"messages": [{"role": "user", "content": f"question {i}"}] * (1 + i % 2)} for i in range(40)]
    rows.append({"messages": [{"role": "user", "content": "too long " * 200}]})
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    chosen = suite(model, path)
    engine = engine_module(chosen.teacher).open_engine(chosen.teacher)
    seen = _prompts_of(engine)
    module, close = "octupus.teacher.engine", engine.close
    monkeypatch.setattr(f"{module}.open_engine", lambda section: engine)
    monkeypatch.setattr(f"{module}.VllmEngine.close", lambda self: None)  # one start serves the whole test
    run = Run(tmp_path / "run")

    first = teach(chosen, run)
    kept = {row["id"]: row for row in appended(run.path / "teacher/answers")}
    spoilt = {row["id"]: row for row in appended(run.path / "teacher/rejects")}
    # Random weights seldom end a turn: most answers are cut, and that is what the gate is for.
    assert first["answers"] == len(kept) and len(kept) + len(spoilt) == 41 and not kept.keys() & spoilt.keys()
    assert sum("256" in row["reason"] for row in spoilt.values()) == 1
    assert all(row["tokens"] for row in kept.values())
    decode = engine._tokenizer.decode
    assert "[user] question 3\n[assistant]" in {decode(ids) for ids in seen}

    file = run.path / "teacher/rejects/00000.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-5]))
    asked = len(seen)
    assert teach(chosen, run) == first
    assert 1 <= len(seen) - asked <= 10, "only the five missing prompts are asked again"
    assert file.read_bytes() == whole, "seeded by id: the same answers"

    engine.submit(Request("seeded", [{"role": "user", "content": "x"}], 7, chosen.teacher.sampling, n=2))
    while not (done := engine.step()):
        continue
    assert done[0].id == "seeded" and len(done[0].candidates) == 2 and all(c.tokens for c in done[0].candidates)
    close()


def _prompts_of(engine: Any) -> list[list[int]]:
    """Records the ids that reach vLLM."""
    seen: list[list[int]] = []
    add = engine._engine.add_request

    def recording(request_id: str, prompt: Any, params: Any) -> Any:
        seen.append(prompt["prompt_token_ids"])
        return add(request_id, prompt, params)

    engine._engine.add_request = recording
    return seen


def test_a_base_model_is_no_teacher(model: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
    with pytest.raises(ConfigError, match=r"cannot be used.*make fetch"):
        teach(suite(tmp_path / "nowhere", path), Run(tmp_path / "run"))
    (model / "chat_template.jinja").rename(tmp_path / "template")
    with pytest.raises(ConfigError, match=r"no chat template; name an instruct model"):
        teach(suite(model, path), Run(tmp_path / "run"))
    (tmp_path / "template").rename(model / "chat_template.jinja")
