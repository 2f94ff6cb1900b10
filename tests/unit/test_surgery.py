"""Surgery on tiny models: tied, untied, with and without spare rows, sharded; and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octupus import scratch, surgery
from octupus.config import ScratchModel
from octupus.errors import ConfigError, JobError
from octupus.runs import Run
from octupus.tokenizer import load_wire
from octupus.wire.dialect import OCTUPUS
from tests.support.tiny import CORPUS

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

SHAPE = ScratchModel(vocab_size=768, hidden_size=16, intermediate_size=32, layers=1, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    built: dict[bool, Path] = {}

    def base(tied: bool) -> Path:
        if tied not in built:
            folder = tmp_path_factory.mktemp("base")
            built[tied] = scratch.build(SHAPE.model_copy(update={"tied": tied}), CORPUS * 4, folder)
        return built[tied]

    return base


def weights(folder: Path) -> dict[str, Any]:
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in safetensors.load_file(f).items()}


def check_rows(before: dict[str, Any], after: dict[str, Any], folder: Path, names: list[str]) -> None:
    wire, tokenizer = load_wire(folder)
    new = {wire.tokenizer.added_tokens[s.token]: tokenizer.encode(s.like) for s in OCTUPUS.special_tokens}
    for name, tensor in after.items():
        if name not in names:
            assert torch.equal(tensor, before[name]), name
            continue
        rows = before[name].shape[0]
        for id in range(rows):
            expected = before[name][new[id]].float().mean(dim=0).to(tensor.dtype) if id in new else before[name][id]
            assert torch.equal(tensor[id], expected), (name, id)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_start_as_the_mean_of_related_words(bases: Any, tmp_path: Path, tied: bool) -> None:
    base, out = bases(tied), tmp_path / "model"
    report = surgery.operate(base, out)
    names = ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"])
    before, after = weights(base), weights(out)
    assert set(before) == set(after) and set(names) <= set(after)
    check_rows(before, after, out, names)
    assert (report["tied"], report["resized"]) == (tied, False)
    assert report["rows_before"] == report["rows_after"] == 768 and report["spare_rows"] > 0
    assert [t["token"] for t in report["tokens"]] == [s.token for s in OCTUPUS.special_tokens]
    assert report["pad"] == "<|pad|>" != report["eos"]


def test_twice_is_once(bases: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    surgery.operate(bases(False), one)
    report = surgery.operate(one, two)
    assert not any(t["new"] for t in report["tokens"])
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    assert all((two / p.name).read_bytes() == p.read_bytes() for p in one.iterdir())
    surgery.operate(bases(False), one)  # and over itself
    assert all((two / p.name).read_bytes() == p.read_bytes() for p in one.iterdir())


def spoil(base: Path, folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """A copy of ``base`` whose tensors and config ``change`` has edited."""
    shutil.copytree(base, folder)
    tensors, config = weights(base), json.loads((base / "config.json").read_text(encoding="utf-8"))
    change(tensors, config)
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_a_matrix_without_spare_rows_grows(bases: Any, tmp_path: Path, tied: bool) -> None:
    def shrink(tensors: dict[str, Any], config: dict[str, Any]) -> None:
        size = load_wire(surgery_out(bases(tied), tmp_path))[1].size - len(OCTUPUS.special_tokens)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in tensors:
                tensors[name] = tensors[name][:size].to(torch.bfloat16).contiguous()
        config["vocab_size"] = size

    base, out = spoil(bases(tied), tmp_path / "base", shrink), tmp_path / "model"
    report = surgery.operate(base, out)
    after = weights(out)["model.embed_tokens.weight"]
    assert report["resized"] and report["rows_after"] == after.shape[0] and after.shape[0] % 64 == 0
    assert after.dtype == torch.bfloat16 and torch.isfinite(after.float()).all()
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["vocab_size"] == after.shape[0]
    names = ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"])
    check_rows(weights(base), weights(out), out, names)
    model = pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(out)
    assert model.get_input_embeddings().weight.shape[0] == after.shape[0]
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


def surgery_out(base: Path, tmp_path: Path) -> Path:
    surgery.operate(base, tmp_path / "probe")
    return tmp_path / "probe"


def test_only_the_shards_with_embeddings_are_rewritten(bases: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases(False), base)
    tensors = weights(base)
    (base / "model.safetensors").unlink()
    parts = {"a.safetensors": {}, "b.safetensors": {}, "c.safetensors": {}}
    for name, tensor in tensors.items():
        where = {"model.embed_tokens.weight": "a.safetensors", "lm_head.weight": "c.safetensors"}
        parts[where.get(name, "b.safetensors")][name] = tensor
    for name, part in parts.items():
        safetensors.save_file(part, base / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {t: name for name, part in parts.items() for t in part}}
    (base / surgery.INDEX).write_text(json.dumps(index), encoding="utf-8")
    out = tmp_path / "model"
    surgery.operate(base, out)
    assert (out / "b.safetensors").samefile(base / "b.safetensors")
    assert not (out / "a.safetensors").samefile(base / "a.safetensors")
    check_rows(tensors, weights(out), out, ["model.embed_tokens.weight", "lm_head.weight"])


def test_transformers_loads_what_surgery_leaves(bases: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    out = surgery_out(bases(True), tmp_path)
    (out / "chat_template.jinja").stat()
    auto = transformers.AutoTokenizer.from_pretrained(out)
    wire, tokenizer = load_wire(out)
    assert auto.convert_tokens_to_ids("<|USER|>") == tokenizer.added_tokens["<|USER|>"]
    assert {auto.eos_token_id, auto.pad_token_id} <= set(tokenizer.added_tokens.values())
    assert auto.pad_token_id != auto.eos_token_id
    assert set(auto.all_special_ids) == set(tokenizer.added_tokens.values())
    ids = auto.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), 768)
    assert model.generation_config.eos_token_id == wire.end_id
    assert json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))["normalizer"] is None


def test_the_stage_reports(bases: Any, tmp_path: Path) -> None:
    from octupus.config import Recipe

    recipe = Recipe.model_validate({"name": "x", "model": {"base": str(bases(True))}, "wire": {"system": "Be brief."}})
    run = Run(tmp_path / "run")
    outputs = surgery.run(recipe, run)
    report = json.loads((run.path / outputs["report"]).read_text(encoding="utf-8"))
    wire, _ = load_wire(run.path / outputs["model"])
    assert wire.dialect.default_system == "Be brief."
    assert wire.fingerprint == report["fingerprint"] == outputs["fingerprint"]


def test_the_scratch_base_is_deterministic(bases: Any, tmp_path: Path) -> None:
    again = scratch.build(SHAPE, CORPUS * 4, tmp_path / "again")
    assert all((again / p.name).read_bytes() == p.read_bytes() for p in bases(True).iterdir())


def test_scratch_shapes_that_do_not_fit_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hidden_size 17 must be an even multiple of heads 2"):
        scratch.build(SHAPE.model_copy(update={"hidden_size": 17}), CORPUS, tmp_path)
    with pytest.raises(ConfigError, match=r"vocab_size 100: at least"):
        scratch.build(SHAPE.model_copy(update={"vocab_size": 100}), CORPUS, tmp_path)


def test_a_missing_base_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert surgery.main(["--model", "no-such/model-at-all", "--out", str(tmp_path / "out")]) == 2
    assert "neither a folder nor in the hub's cache" in capsys.readouterr().err
    assert surgery.main(["--model", str(tmp_path / "nope"), "--out", str(tmp_path / "out")]) == 2
    assert "missing base model: no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert surgery.main(["--model", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 2
    assert "tokenizer.json does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_models_get_a_sentence(bases: Any, tmp_path: Path) -> None:
    def without_head(tensors: dict[str, Any], config: dict[str, Any]) -> None:
        del tensors["lm_head.weight"]

    with pytest.raises(ConfigError, match="expected one"):
        surgery.operate(spoil(bases(False), tmp_path / "a", without_head), tmp_path / "out")
    pickled = tmp_path / "pickled"
    shutil.copytree(bases(True), pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="holds no safetensors"):
        surgery.operate(pickled, tmp_path / "out")
    cut = tmp_path / "cut"
    shutil.copytree(bases(True), cut)
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged"):
        surgery.operate(cut, tmp_path / "out")
    (cut / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        surgery.operate(cut, tmp_path / "out")
    with pytest.raises(ConfigError, match="is the model itself"):
        surgery.operate(bases(True), bases(True))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(JobError, match="surgery cannot write"):
        surgery.operate(bases(True), tmp_path / "file" / "out")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".out")], "nothing half-made is left"


def test_nothing_is_replaced_but_what_surgery_made(bases: Any, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(bases(True), models / "base")
    (models / "notes.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(ConfigError, match="is the model itself or holds it"):
        surgery.operate(models / "base", models)
    with pytest.raises(ConfigError, match="files that surgery did not make"):
        surgery.operate(bases(True), models)
    with pytest.raises(ConfigError, match="files that surgery did not make"):
        surgery.operate(bases(True), models / "notes.txt")
    assert sorted(p.name for p in models.iterdir()) == ["base", "notes.txt"]
    (tmp_path / "empty").mkdir()
    assert surgery.operate(models / "base", tmp_path / "empty")["fingerprint"], "an empty folder may be filled"


def test_remote_code_is_neither_run_nor_carried(bases: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases(True), base)
    (base / "modeling_evil.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        value = json.loads((base / name).read_text(encoding="utf-8"))
        value["auto_map"] = {
            "AutoModelForCausalLM": "modeling_evil.Evil",
            "AutoTokenizer": ["modeling_evil.Evil", None],
        }
        (base / name).write_text(json.dumps(value), encoding="utf-8")
    out = tmp_path / "out"
    surgery.operate(base, out)
    assert not list(out.glob("*.py"))
    assert all("evil" not in p.read_text(encoding="utf-8") for p in out.glob("*config.json"))
