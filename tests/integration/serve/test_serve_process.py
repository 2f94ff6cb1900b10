"""The server as a process: sentences instead of tracebacks, the endpoint's file, signals, exit codes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from octupus.runs import Run
from octupus.serve.__main__ import main
from tests.support.launched import Launched
from tests.support.tiny import tiny_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripted engine needs no weights, only a folder that looks like a model."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_folder(), folder)
    (folder / "config.json").write_text("{}")
    return folder


def test_what_the_command_line_gets_wrong_is_one_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    nameless = tmp_path / "nameless"
    shutil.copytree(model, nameless)
    (nameless / "wire.json").unlink()
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    keys.chmod(0o644)
    cases = {
        ("--model", model, "--port", taken.getsockname()[1]): ("choose another", 2),
        ("--model", tmp_path / "none"): ("no such folder", 2),
        ("--model", tmp_path): ("no config.json", 2),
        ("--model", nameless): ("--dialect", 1),
        ("--model", model, "--dialect", "qwen"): ("says dialect 'octupus'", 1),
        ("--model", model, "--engine", "vlm"): ("module:Class", 2),
        ("--model", model, "--engine", "no.such:Engine"): ("cannot import", 2),
        ("--model", model, "--set", "max_concurency=4"): ("did you mean 'max_concurrency'", 2),
        ("--model", model, "--set", "engine_args.nope=4"): ("scripted engine knows", 1),
        ("--model", model, "--api-key-file", keys): ("chmod 600", 2),
    }
    for arguments, (sentence, code) in cases.items():
        assert main(["--engine", "scripted", "--host", "127.0.0.1", "--port", "0", *map(str, arguments)]) == code
        assert sentence in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")
def test_an_argument_that_vllm_does_not_have_gets_the_nearest_that_it_has(model: Path) -> None:
    cases = {"gpu_memory_utilisation=0.5": "'gpu_memory_utilization'", "model=x": "the serve section's own keys"}
    for argument, sentence in cases.items():
        with Launched("--model", model, "--set", f"engine_args.{argument}") as launched:
            assert launched.ended(120) == 1 and sentence in launched.said, launched.said
            assert "Traceback" not in launched.said


def test_an_unused_server_ends_by_itself(model: Path, tmp_path: Path) -> None:
    with Launched("--model", model, "--engine", "scripted", "--set", "idle_minutes=0.005") as launched:
        assert launched.ended() == 0 and "nobody has asked" in launched.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_the_endpoint_is_known_while_the_server_is_ready_and_signals_drain(
    model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = Run(tmp_path / "run")
    slow = ("--set", "engine_args={delay_s: 0.02, patience: 1.0}", "--default-max-tokens", "60")
    with Launched("--model", model, "--engine", "scripted", "--run", run.path, *slow) as launched:
        url = launched.ready()
        (endpoint,) = run.endpoints().values()
        assert (endpoint.url, endpoint.model) == (url, "tiny") and endpoint.fingerprint.startswith("sha256:")
        answers: list[httpx.Response] = []
        body = {"messages": [{"role": "user", "content": "x"}], "seed": 3}
        asking = threading.Thread(target=lambda: answers.append(httpx.post(url + "/v1/chat/completions", json=body)))
        with httpx.stream("POST", url + "/v1/chat/completions", json={**body, "stream": True}, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            asking.start()
            while httpx.get(url + "/health").json()["at_work"] < 2:
                assert launched.process.poll() is None and not answers
            launched.process.send_signal(number)
            told = [line for line in lines if line]
        asking.join(60)
        assert told[-1] == "data: [DONE]" and json.loads(told[-2].removeprefix("data: "))["choices"][0]["finish_reason"]
        assert answers[0].status_code == 200
        assert launched.ended() == 0, launched.said
        assert run.endpoints() == {} and "draining 2 requests" in launched.said
