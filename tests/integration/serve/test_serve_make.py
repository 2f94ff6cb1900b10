"""make serve (FG=1), endpoint and chat on a run whose model is there; the engine is scripted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from octupus.runs import Run, StageState
from octupus.serve import chat
from octupus.wire import Message, ToolCall
from slurm import reap
from tests.support.served import served
from tests.support.tiny import tiny_folder, tiny_wire

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "runs" / "mine")
    shutil.copytree(tiny_folder(), made.path / "stage2/export")
    (made.path / "stage2/export/config.json").write_text("{}")
    made.stage("stage2").set_state(StageState(status="done", attempt=1, inputs="", code=""))
    yield made
    reap.end(made.path)


HEARING = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
)


def started(run: Run, *words: str, **variables: str) -> subprocess.Popen[str]:
    keys = run.path.parent / "keys"
    keys.write_text("secret\n")
    keys.chmod(0o600)
    base = run.path / "stage2/export"  # a folder: the recipe's own base wants a GPU
    settings = f"model.base={base} serve.engine=scripted serve.port=0 serve.api_key_file={keys}"
    variables |= {"OCTUPUS_RUNS": str(run.path.parent), "RECIPE": "v2", "RUN": "mine", "SET": settings}
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    # A shell's background job is born deaf to Ctrl-C, and hands that down: tests that run in one would wait for ever.
    command = [sys.executable, "-c", HEARING, *words]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=both, text=True)


def test_serve_in_front_endpoint_chat_and_ctrl_c(run: Run) -> None:
    process = started(run, "slurm.submit", "stage", "serve", FG="1")
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if "Ctrl-C stops it" in line:
            break
    assert run.endpoints() and reap.marked(run.path, "serve"), told
    (endpoint,) = run.endpoints().values()
    for line in (f"endpoint: {endpoint.url}/v1 serves v2, ready", "curl -s -H", "ssh -N -L", "make cancel RUN=mine"):
        assert line in told, told
    assert "secret" not in told and str(run.path.parent / "keys") in told
    again, _ = started(run, "slurm.status", "endpoint").communicate(timeout=60)
    assert again in told
    talked, _ = started(run, "slurm.status", "chat").communicate("hello\n\nanew\n", timeout=60)
    assert talked.count("> ") == 4 and "401" not in talked and "Traceback" not in talked, talked
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not run.endpoints() and not reap.marked(run.path, "serve")


def test_the_chat_carries_calls_out_and_tells_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(prompt_ids: list[int]) -> list[int]:
        """Calculates what the user says; then repeats the result."""
        wire = tiny_wire()
        last = wire.parse(prompt_ids).messages[-1]
        call = ToolCall(name="calculate", arguments={"expression": last.content})
        asked = last.role == "user"
        turn = (
            Message(role="assistant", tool_calls=(call,)) if asked else Message(role="assistant", content=last.content)
        )
        ids = wire.render_prompt([Message(role="user", content="x"), turn])
        return ids[len(wire.render_prompt([Message(role="user", content="x")])) : -1]

    lines = iter(["6 * (3 + 4)", "1 / 0"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines, None) or (_ for _ in ()).throw(EOFError))
    with served(script=script) as server:
        assert chat.main(["--url", server.url + "/v1"]) == 0
        said = capsys.readouterr().out
    assert 'calculate({"expression": "6 * (3 + 4)"}) = 42\n42\n' in said
    assert "= ZeroDivisionError: division by zero\nZeroDivisionError" in said
    lines = iter(["x"])
    assert chat.main(["--url", server.url + "/v1"]) == 1
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("expression", ["__import__('os')", "a", "2 ** 9", "'x'", "1 if 1 else 2", "(", "(" * 400])
def test_the_calculator_is_no_interpreter(expression: str) -> None:
    call = {"function": {"name": "calculate", "arguments": f'{{"expression": "{expression}"}}'}}
    assert "Error" in chat.carried_out(call)
    assert chat.calculate("-2 * (3 + 4) / 7 % 5") == "3" and " 20" in chat.now(8)
