"""The development cluster itself: up, entered, gone without a trace; by root and others, in namespaces and without."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.devcluster import network
from slurm.devcluster.layout import ROOT, Layout, carriers, processes, started

pytestmark = pytest.mark.cluster

VARIANTS = ["apart", "shared"]
Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=VARIANTS)
def variant(request) -> str:
    if request.param == "apart" and network.why_not():
        pytest.skip(f"no namespaces here: {network.why_not()}")
    return request.param


@pytest.fixture
def tool(request) -> Iterator[Tool]:
    """``python -m slurm.devcluster`` on a cluster of this test's own; it is down at the end whatever happened."""
    name = f"t{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"

    def call(*words: str, cwd: Path = ROOT, python: tuple[str, ...] = (sys.executable,), **given: str):
        command = [*python, "-m", "slurm.devcluster", *words]
        env = {**os.environ, "DEVCLUSTER": name, "PYTHONPATH": str(cwd), **given}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)

    call.layout = Layout(name)
    yield call
    call("down")


def up(tool: Tool, variant: str, **given: str) -> None:
    done = tool("up", SHARED="1" if variant == "shared" else "0", **given)
    assert done.returncode == 0, done.stderr


def inside(tool: Tool, *command: str) -> str:
    done = tool("run", "--", *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def spaces(pid: int) -> set[str]:
    found = set()
    for kind in ("net", "mnt", "pid", "uts"):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], bool], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_four_nodes_answer_each_as_itself(tool: Tool, variant: str) -> None:
    up(tool, variant)
    names = sorted(inside(tool, "srun", "-N4", "sh", "-c", "echo $SLURMD_NODENAME").split())
    assert names == ["node1", "node2", "node3", "node4"]
    assert inside(tool, "srun", "-N1", "--gpus-per-node=3", "printenv", "SLURM_GPUS_ON_NODE").strip() == "3"
    if variant == "apart":
        assert sorted(inside(tool, "srun", "-N4", "hostname").split()) == names
        addresses = set(inside(tool, "srun", "-N4", "hostname", "-I").split())
        assert addresses == {f"10.77.0.1{number}" for number in range(1, 5)}
        assert inside(tool, "srun", "-N1", "-w", "node3", "getent", "hosts", "node2").split() == ["10.77.0.12", "node2"]


def test_what_listens_on_a_nodes_loopback_is_not_reached_from_another(tool: Tool) -> None:
    if network.why_not():
        pytest.skip(f"no namespaces here: {network.why_not()}")
    up(tool, "apart")
    look = "import socket; print(socket.socket().connect_ex(('127.0.0.1', 18765)))"
    serve = f"exec {sys.executable} -m http.server --bind 127.0.0.1 18765"
    inside(tool, "sbatch", "-w", "node1", "-o", "/dev/null", f"--wrap={serve}")
    seen = lambda node: inside(tool, "srun", "-N1", "-w", node, sys.executable, "-c", look).strip()  # noqa: E731
    wait_until(lambda: seen("node1") == "0", "the server on node1 never answered on node1")
    assert seen("node2") != "0"


def test_down_leaves_nothing_however_well_it_hides(tool: Tool, variant: str, tmp_path: Path) -> None:
    ours = spaces(os.getpid())
    up(tool, variant)
    layout: Layout = tool.layout
    holder = json.loads((layout.path / "cluster.json").read_text())["holder"]
    hidden = tmp_path / "pid"
    script = f"setsid env -i sh -c 'echo x > {hidden}; exec sleep 987' & exec sleep 988"
    inside(tool, "sbatch", "-o", "/dev/null", f"--wrap={script}")
    wait_until(hidden.exists, "the job never started")
    theirs = {space for pid in carriers(layout) for space in spaces(pid)} | spaces(holder)
    sleepers = [pid for pid in processes() if command_of(pid) in (["sleep", "987"], ["sleep", "988"])]
    assert len(sleepers) >= 2 and (theirs - ours or variant == "shared")

    done = tool("down")

    assert (done.returncode, done.stdout) == (0, f"devcluster {layout.name}: gone\n"), done.stderr
    assert carriers(layout) == [] and started(holder) is None
    assert [pid for pid in sleepers if started(pid) is not None] == []
    living = {space for pid in processes() if started(pid) is not None for space in spaces(pid)}
    assert not (theirs - ours) & living
    mounts = Path("/proc/self/mountinfo").read_text()
    assert layout.name not in mounts and layout.short.name not in mounts
    assert not layout.path.exists() and not layout.short.is_symlink()
    assert tool("down").stdout == f"devcluster {layout.name}: was not up\n"


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return []


def test_a_holder_that_was_killed_is_cleaned_up_after(tool: Tool, variant: str) -> None:
    up(tool, variant)
    holder = json.loads((tool.layout.path / "cluster.json").read_text())["holder"]
    os.kill(holder, signal.SIGKILL)
    wait_until(lambda: started(holder) is None, "the holder lives")
    refused = tool("run", "--", "sinfo")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "make devcluster-up" in refused.stderr
    up(tool, variant)
    assert "node[1-4]" in inside(tool, "sinfo", "-h", "-p", "gpu", "-o", "%N")
    tool("down")
    assert carriers(tool.layout) == []


def test_half_a_cluster_ends_in_one_sentence_and_leaves_only_its_logs(tool: Tool, variant: str, tmp_path: Path) -> None:
    broken = tmp_path / "slurmd"
    broken.write_text("#!/bin/sh\necho no slurmd today >&2\nexit 3\n")
    broken.chmod(0o755)
    done = tool("up", SHARED="1" if variant == "shared" else "0", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no slurmd today" in done.stderr and str(tool.layout.path / "log") in done.stderr
    assert (tool.layout.path / "log" / "slurmctld.log").is_file() and carriers(tool.layout) == []
    up(tool, variant)
    assert "gone" in tool("down").stdout and not tool.layout.path.exists()


def test_what_is_missing_is_one_sentence_with_its_remedy(tool: Tool, tmp_path: Path) -> None:
    for name in ("slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scontrol"):
        (tmp_path / name).symlink_to(shutil.which(name) or "/bin/true")
    code = "from slurm.devcluster import __main__ as m, daemons; daemons.SBIN = (); import sys, os; "
    code += "m.path_with_sbin = lambda p: p; sys.exit(m.main(['up'], os.environ))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PATH": str(tmp_path), "DB": "mariadb"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "apt-get install --no-install-recommends munge slurmdbd mariadb-server" in done.stderr
    wrong = tool("up", DB="postgres")
    assert wrong.returncode == 2 and "DB='postgres': choose none or mariadb" in wrong.stderr
    nothing = tool("run", CMD="")
    assert nothing.returncode == 2 and "which command" in nothing.stderr


def test_several_at_once_do_not_meet(tool: Tool, variant: str) -> None:
    up(tool, variant)
    other = f"{tool.layout.name}b"
    try:
        up(tool, variant, DEVCLUSTER=other)
        again = tool("up")
        assert again.returncode == 2 and "is up already" in again.stderr
        inside(tool, "srun", "-N4", "true")
        jobs = lambda name: tool("run", "--", "squeue", "-h", "-t", "all", DEVCLUSTER=name).stdout  # noqa: E731
        assert len(jobs(tool.layout.name).splitlines()) == 1 and jobs(other) == ""
    finally:
        assert "gone" in tool("down", DEVCLUSTER=other).stdout
    inside(tool, "srun", "-N4", "true")


def anothers_python() -> tuple[str, ...]:
    """An interpreter, called by a user who is not root; root's own may lie where nobody else can read it."""
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    new = "import sys; sys.exit(sys.version_info < (3, 11))"
    for name in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        tried = subprocess.run([*prefix, "sh", "-c", f'"$0" -c "{new}"', name], capture_output=True, check=False)
        if tried.returncode == 0:
            return (*prefix, name)
    pytest.skip("no Python 3.11 here that another user may run")


def test_another_user_in_a_folder_with_a_difficult_name(tool: Tool, variant: str, tmp_path: Path) -> None:
    place = tmp_path / "ein Ordner für 集群"
    shutil.copytree(ROOT / "slurm", place / "slurm")
    (place / "octupus").mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / "octupus" / name, place / "octupus")
    python: tuple[str, ...] = (sys.executable,)
    if os.getuid() == 0:
        python = anothers_python()
        for path in [place, *place.rglob("*")]:
            os.chown(path, 65534, 65534)
        for folder in [*place.parents][:-2]:
            folder.chmod(folder.stat().st_mode | 0o011)
    call = lambda *words, **given: tool(*words, cwd=place, python=python, **given)  # noqa: E731
    done = call("up", SHARED="1" if variant == "shared" else "0")
    try:
        assert done.returncode == 0, done.stderr
        said = call("run", CMD="srun -N4 id -u; sbatch -Wo out --wrap 'srun pwd'; cat out")
        owner = str(place.stat().st_uid)
        assert said.stdout.split("\n")[:4] == [owner] * 4, said.stderr
        assert said.stdout.splitlines()[-1] == str(place)
    finally:
        assert "gone" in call("down").stdout
    assert not (place / ".devcluster").exists()


def test_with_ends_the_cluster_and_keeps_the_commands_code(tool: Tool, variant: str) -> None:
    shared = "1" if variant == "shared" else "0"
    done = tool("with", "--", "sh", "-c", "srun hostname; exit 7", SHARED=shared)
    assert done.returncode == 7 and len(done.stdout.splitlines()) == 1
    assert not tool.layout.path.exists() and carriers(tool.layout) == []


def test_the_unfriendly_settings_are_those_of_a_production_cluster(tool: Tool) -> None:
    up(tool, "shared")
    friendly = inside(tool, "scontrol", "show", "config")
    tool("down")
    up(tool, "shared", SETTINGS="unfriendly")
    unfriendly = inside(tool, "scontrol", "show", "config")
    lines = lambda text: {x.split("=")[0].strip(): x.split("=")[1].strip() for x in text.splitlines() if "=" in x}  # noqa: E731
    kept = ("DependencyParameters", "KillOnBadExit", "MinJobAge")
    assert [lines(friendly)[key] for key in kept] == ["kill_invalid_depend", "1", "3600 sec"]
    assert [lines(unfriendly)[key] for key in kept] == ["(null)", "0", "300 sec"]


def test_accounting_answers(tool: Tool, variant: str) -> None:
    up(tool, variant, DB="mariadb")
    inside(tool, "srun", "-N2", "true")
    states = lambda: inside(tool, "sacct", "-n", "-X", "-P", "-o", "State,NNodes").split()  # noqa: E731
    wait_until(lambda: states() == ["COMPLETED|2"], "sacct never showed the job")
