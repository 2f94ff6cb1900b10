"""Four workers on the real vLLM, killed with SIGKILL again and again: every prompt answered once, nothing changed.

Inside the development cluster (``make devcluster-run CMD="... pytest -m full ..."``) each worker is a Slurm job on a
node of its own, otherwise a process of this machine.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from octupus.config import Recipe, ScratchModel
from octupus.data.appended import appended
from octupus.publish import publish_json
from octupus.runs import Run
from octupus.scratch import build
from octupus.teacher.run import merge
from slurm.stage import Frozen
from tests.support.recipes import recipe, write_jsonl
from tests.support.tiny import CORPUS

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 4
ON_SLURM = {"SLURM_CONF", "DEVCLUSTER"} <= os.environ.keys()  # never a cluster of other people
WORKER = "import sys; from slurm.jobs import TeacherJob; TeacherJob(sys.argv[1], 'teacher', task=sys.argv[2])()"
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"


def suite(folder: Path, prompts: int) -> Recipe:
    shape = ScratchModel(vocab_size=768, hidden_size=64, intermediate_size=128, layers=2, heads=2, kv_heads=1)
    model = build(shape, CORPUS * 4, folder / "tiny-teacher")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    rows = [{"messages": [{"role": "user", "content": f"question {i}"}] * (1 + i % 2)} for i in range(prompts)]
    args = {"max_model_len": 256, "enforce_eager": True, "max_num_seqs": 8, "dtype": "float32"}
    return recipe(
        teacher={
            "engine": "vllm",
            "model": str(model),
            "prompts": [{"name": "openai_format", "path": str(write_jsonl(folder / "p.jsonl", rows))}],
            "sampling": {"temperature": 0.0, "max_tokens": 12},
            "shards": 20,
            "workers": WORKERS,
            "gates": ["empty"],
            "engine_args": args,
        }
    )


def start(run: Run, number: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    log = run.path / f"worker{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        command = [sys.executable, "-c", WORKER, str(run.path), f"worker{number}"]
        if ON_SLURM:
            command = ["srun", "--quiet", "-N1", "-n1", f"--nodelist=node{number + 1}", *command]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)


def kill(process: subprocess.Popen[bytes], run: Run, number: int) -> bool:
    """SIGKILL the worker itself: of a job the process on its node, which this machine sees; whether there was one."""
    if not ON_SLURM:
        process.kill()
        return True
    wanted = f"{run.path}\0worker{number}\0".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue  # it has ended
        if words.endswith(wanted) and not words.startswith(b"srun"):
            os.kill(int(path.parent.name), signal.SIGKILL)
            return True
    return False


def rows_written(run: Run) -> int:
    """As far as can be told: a part may be finished, and gone, while this looks."""
    try:
        return sum(1 for kind in ("parts", "answers", "rejects") for _ in appended(run.path / "teacher" / kind))
    except FileNotFoundError:
        return 0


def go(run: Run, chosen: Recipe, kills: int, prompts: int) -> int:
    """Run the workers to the end; returns how many kills hit a worker in the middle of its work."""
    publish_json(run.path / "recipe.json", Frozen(recipe=chosen))
    draw, hit = random.Random(7), 0
    workers = {i: start(run, i) for i in range(WORKERS)}
    try:
        while workers:
            for i, process in list(workers.items()):
                if process.poll() is None:
                    continue
                log = (run.path / f"worker{i}.log").read_text()
                assert process.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), log[-3000:]
                del workers[i]
                if process.returncode:
                    workers[i] = start(run, i)
            # A kill each time another twentieth of the rows has been written: at work, not while models are loading.
            if hit < kills and rows_written(run) >= (hit + draw.random()) * prompts / (kills + 1):
                alive = [i for i, p in workers.items() if p.poll() is None]
                if alive:
                    number = draw.choice(alive)
                    hit += kill(workers[number], run, number)
            time.sleep(0.2)
    finally:
        for process in workers.values():
            process.kill()
            process.wait()
    return hit


@pytest.mark.full
def test_twenty_kills_lose_repeat_and_change_nothing(tmp_path: Path) -> None:
    prompts = 2000
    chosen = suite(tmp_path, prompts)
    calm, run = Run(tmp_path / "calm"), Run(tmp_path / "run")
    assert go(calm, chosen, 0, prompts) == 0
    assert go(run, chosen, 20, prompts) == 20
    assert merge(chosen, run) == merge(chosen, calm)
    for kind in ("answers", "rejects"):
        for path in sorted((calm.path / "teacher" / kind).glob("*.jsonl")):
            assert (run.path / "teacher" / kind / path.name).read_bytes() == path.read_bytes()
    ids = [row["id"] for kind in ("answers", "rejects") for row in appended(run.path / "teacher" / kind)]
    assert len(ids) == len(set(ids)) == prompts
