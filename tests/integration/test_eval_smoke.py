"""``make smoke`` on our own server and on broken ones; ``make bfcl MODEL_URL=`` in BFCL's own environment."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from eval import smoke
from eval.sample import harness_python
from octupus.errors import ConfigError
from octupus.runs import Run
from slurm import after
from tests.integration.eval_fake_endpoint import fake_endpoint, perfect, reply
from tests.support.served import served

ROOT = Path(__file__).resolve().parents[2]


def test_ten_calls_against_our_own_server(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with served(max_model_len=8192) as server:
        assert after.main(["smoke"], {"MODEL_URL": f"{server.url}/v1"}) == 0
    out = capsys.readouterr().out
    assert out.count("  ok ") == len(smoke.CHECKS) == 10 and "WRONG" not in out
    assert time.monotonic() - began < 600, "the limits inside are what holds it under 20 s"


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (reply([("get_weather", '{"days": 1}')]), "breaks its schema"),
        (reply([("fly", "{}")]), "unknown tool"),
        (reply([("get_weather", '{"city": ')]), "not JSON"),
        (reply([], "Sunny."), "0 calls where 1"),
        ({"choices": []}, "no choice"),
        ({**reply([], "x"), "usage": None}, "no usage"),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, answer: dict[str, Any], wrong: str) -> None:
    with fake_endpoint(Run(tmp_path), lambda body: answer) as endpoint:
        found = list(smoke.run(f"{endpoint.url}/v1", "none", "m"))
    assert any(not well and wrong in what for _, well, what in found), found


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert after.main(["smoke"], {"MODEL_URL": "http://127.0.0.1:9"}) == 1
    assert capsys.readouterr().out.count("WRONG") == 10


def test_a_foreign_server_is_measured_without_our_environment(tmp_path: Path) -> None:
    try:
        python = harness_python()
    except ConfigError as error:
        pytest.skip(str(error))
    right = perfect(["simple_python", "irrelevance"])
    with fake_endpoint(Run(tmp_path / "unused"), right) as endpoint:
        given = {"MODEL_URL": f"{endpoint.url}/v1", "MODEL": "their/model", "RUN": "theirs"}
        given |= {"CATEGORIES": "simple_python:3 irrelevance:2", "OCTUPUS_RUNS": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [python, "-m", "slurm.measured"],
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {body["model"] for body in endpoint.requests} == {"their/model"} and len(endpoint.requests) == 5
    scores = json.loads((tmp_path / "theirs/bfcl/scores.json").read_text())
    figures = scores["models"]["octupus-FC"]["categories"]
    assert {c: (f["n"], f["correct"]) for c, f in figures.items()} == {"simple_python": (3, 3), "irrelevance": (2, 2)}
    assert (tmp_path / "theirs/report/index.html").is_file() and "simple_python" in done.stdout
