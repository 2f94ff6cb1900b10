"""``make cluster-check`` on real nodes: a sound cluster passes, and what is broken is named with its remedy."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from octupus import config
from octupus.config import Recipe
from slurm import check, cluster
from slurm.cluster import Cluster

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTUPUS_RUNS", str(tmp_path / "runs mit 空格"))
    return tmp_path / "runs mit 空格"


@pytest.fixture
def recipe() -> Recipe:
    return config.load("demo", ["serve.port=18321"])


def checked(where: Cluster, recipe: Recipe, parts: str = "") -> tuple[bool, str]:
    """Whether all is sound, and what was told; of the partitions with these names, where there are any."""
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    everything = check.parts(where, recipe)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(check, "parts", lambda *_: [p for p in everything if p.name in parts.split()] or everything)
        sound = check.check(where, recipe, 2, console)
    assert isinstance(console.file, io.StringIO)
    return sound, console.file.getvalue()


def slurmd(node: str) -> int:
    """The process of a node's slurmd; a test that breaks a node is for nodes that have a network of their own."""
    for entry in Path("/proc").iterdir():
        words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() and entry.exists() else []
        if words and words[0].endswith(b"slurmd") and node.encode() in words:
            if os.readlink(entry / "ns/net") == os.readlink("/proc/self/ns/net"):
                pytest.skip("the nodes share this host's network")
            return int(entry.name)
    raise AssertionError(f"no slurmd of {node}")


def on(node: str, *command: str) -> None:
    words = ["nsenter", f"--target={slurmd(node)}", "--net", "--uts", "--", *command]
    subprocess.run(words, check=True, capture_output=True, text=True)


def until_idle(node: str) -> None:
    deadline = time.monotonic() + 30
    look = ["sinfo", "--noheader", "-n", node, "-p", "gpu", "-o", "%T"]
    while (state := subprocess.run(look, capture_output=True, text=True, check=True).stdout.strip()) != "idle":
        assert time.monotonic() < deadline, f"{node} is {state}"
        time.sleep(0.05)


@pytest.fixture
def blocked_port() -> Iterator[int]:
    """Nothing that node2 sends to this port arrives."""
    rule = ["rule", "XXX", "ipproto", "tcp", "dport", "18321", "blackhole"]
    on("node2", "ip", *[word.replace("XXX", "add") for word in rule])
    yield 18321
    on("node2", "ip", *[word.replace("XXX", "del") for word in rule])


@pytest.fixture
def folder_of_its_own(runs: Path) -> Iterator[str]:
    """node2 has an empty folder where the others have the runs."""
    pid = slurmd("node2")
    command = (Path(f"/proc/{pid}/cmdline")).read_text().rstrip("\0").split("\0")
    enter = ["nsenter", f"--target={pid}", "--net", "--uts", "--"]
    keep = subprocess.Popen([*enter, "sleep", "infinity"])  # the namespaces outlive their slurmd
    enter[1] = f"--target={keep.pid}"

    def again(*words: str) -> None:
        os.kill(slurmd("node2"), 15)
        while any(p for p in Path("/proc").glob(f"{pid}/cwd")):
            time.sleep(0.02)
        subprocess.run([*enter, *words], check=True)
        until_idle("node2")

    runs.mkdir(parents=True)
    again("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(runs), *command)
    yield "node2"
    pid = slurmd("node2")
    again(*command)
    keep.kill()
    keep.wait()


def test_a_sound_cluster_passes_and_leaves_nothing(runs: Path, recipe: Recipe) -> None:
    env = {**os.environ, "CLUSTER": "devcluster", "RECIPE": "demo", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "slurm.check"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    assert re.search(r"partition cpu \(surgery, .*report, keeper\): job \d+ on \S+", told)
    assert re.search(r"partition gpu \(.*stage1, stage2, serve.*\): job \d+ on \S+", told)
    assert "mend" not in told and told.count("ok    ports") == 2 and "from each node to each other" in told
    assert re.search(r"ok    all-reduce  gloo over 2 processes: [\d.]+ GB/s", told)
    assert told.rstrip().endswith("cluster devcluster: sound")
    assert not [*runs.glob(".check/*")]


def test_a_port_that_is_blocked_is_named_from_where_to_where(runs: Path, recipe: Recipe, blocked_port: int) -> None:
    where = cluster.load("devcluster").model_copy(
        update={"stages": {"serve": {"partition": "gpu", "exclude": "node[3-4]"}}}
    )
    sound, told = checked(where, recipe, "gpu")
    assert not sound and "let compute nodes reach each other over TCP" in told
    (line,) = [line for line in told.splitlines() if "mend" in line]
    assert re.search(r"ports +node2 cannot reach port 18321 of node1 \(.+\)", line), told
    assert "scripts and logs:" in told and [*runs.glob(".check/*/gpu/*_0_log.out")]


def test_a_folder_that_a_node_does_not_share_is_named(runs: Path, recipe: Recipe, folder_of_its_own: str) -> None:
    where = cluster.load("devcluster")
    where = where.model_copy(update={"defaults": where.defaults.model_copy(update={"exclude": "node[3-4]"})})
    sound, told = checked(where, recipe, "cpu")
    lines = [line for line in told.splitlines() if "mend" in line]
    assert not sound and [line for line in lines if re.search(rf"folder +node2 does not see {runs}", line)], told
    assert "mount it there" in lines[0]


def test_what_slurm_does_not_take_is_told_in_its_words(runs: Path, recipe: Recipe) -> None:
    where = Cluster.model_validate({"name": "x", "executor": "slurm", "device": "cpu", "defaults": {"partition": "no"}})
    sound, told = checked(where, recipe)
    assert not sound and "invalid partition specified: no" in told and "see the cluster file" in told


def test_an_interpreter_that_does_not_start_is_told_with_its_last_words(runs: Path, recipe: Recipe) -> None:
    where = cluster.load("devcluster").model_copy(update={"python": "/no/such/python"})
    sound, told = checked(where, recipe, "cpu")
    assert not sound and "the interpreter of jobs does not start (code 127: " in told
    assert "/no/such/python" in told and "see `python`" in told
