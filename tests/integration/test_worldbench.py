"""worldbench over HTTP: the perfect policy through the real server and constraint, and policies of known outcome."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval import compare, worldbench
from eval.world_policies import Engine
from octupus.config import ServeSection
from octupus.errors import ConfigError
from slurm import after
from tests.support.served import served
from tests.support.tiny import tiny_folder, tiny_wire

SIZES = {"easy": 4, "irrelevance": 3, "miss_func": 2, "miss_param": 2, "error": 1, "correction": 1, "no_call": 1}
LIMITS = {"max_model_len": 1 << 17, "default_max_tokens": 4096, "canary": False}


def engine(policy: str) -> Engine:
    return Engine(tiny_folder(), tiny_wire(), ServeSection(engine_args={"policy": policy, "sizes": SIZES}))


def measured(policy: str, folder: Path) -> dict[str, dict[str, float]]:
    with served(script=engine(policy).script, **LIMITS) as server:
        found = worldbench.run(f"{server.url}/v1", "none", "any", folder, SIZES)
    assert json.loads((folder / "scores.json").read_text()) == found
    assert all(split in worldbench.table(found) for split in SIZES)
    return {split: scores["share"] for split, scores in found["conversations"].items()}


def test_the_perfect_policy_is_right_everywhere_and_the_others_where_they_must_be(tmp_path: Path) -> None:
    assert set(measured("perfect", tmp_path / "perfect/worldbench").values()) == {1.0}
    never, always = (measured(p, tmp_path / p / "worldbench") for p in ("never", "always"))
    assert never.pop("irrelevance") == 1 and set(never.values()) == {0.0}
    assert always["irrelevance"] == 0 and always["easy"] == 0
    found = compare.differences(tmp_path / "never", tmp_path / "perfect")
    easy = next(d for d in found if d.name == "worldbench easy")
    assert easy.first == 0 and easy.second == 1 and easy.significant


def test_a_dead_server_is_wrong_and_says_why(tmp_path: Path) -> None:
    found = worldbench.run("http://127.0.0.1:9/v1", "none", "any", tmp_path, {"easy": 1})
    assert found["conversations"]["easy"]["right"] == 0
    assert "refused" in (tmp_path / "turns.jsonl").read_text()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OCTUPUS_RUNS", str(tmp_path))
    monkeypatch.setattr(worldbench, "SIZES", SIZES)
    with served(script=engine("perfect").script, **LIMITS) as server:
        given = {"MODEL_URL": f"{server.url}/v1", "RUN": "w", "N": "1"}
        assert after.main(["worldbench"], given) == 0
    assert "100.00%" in capsys.readouterr().out and (tmp_path / "w/worldbench/scores.json").is_file()
    assert after.main(["worldbench"], {"MODEL_URL": "http://127.0.0.1:9", "N": "0"}) == 2
    assert "at least 1" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no split 'hard'"):
        list(worldbench.items({"hard": 1}))
    with pytest.raises(ConfigError, match="policy"):
        engine("better")
