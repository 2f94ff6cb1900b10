"""What a development cluster is asked to be, where its files lie, and which process holds it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from octupus.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".devcluster"
FOLDERS = ("etc", "run", "log", "state", "spool")
NODES = tuple(f"node{number}" for number in range(1, 5))


@dataclass(frozen=True)
class Options:
    """What a cluster is to be like."""

    name: str = "dev"
    database: bool = False
    """slurmdbd and MariaDB beside it, for a sacct that answers."""
    friendly: bool = True
    """False: nothing that a production cluster may lack (kill_invalid_depend, KillOnBadExit, a long MinJobAge)."""
    shared: bool = False
    """The nodes share this host's network and name."""

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Options:
        """Read the variables DEVCLUSTER, DB, SETTINGS and SHARED.

        Raises:
            ConfigError: a value that means nothing.
        """
        name = given.get("DEVCLUSTER") or cls.name
        if not re.fullmatch(r"\w[\w-]*", name):
            raise ConfigError(f"DEVCLUSTER={name!r} cannot name a folder: use letters, digits, dashes and underscores")
        chosen = {
            key: _one_of(key, given.get(key, ""), values)
            for key, values in (("DB", ("none", "mariadb")), ("SETTINGS", ("friendly", "unfriendly")))
        }
        shared = _one_of("SHARED", given.get("SHARED", ""), ("0", "1")) == "1"
        return cls(name, chosen["DB"] == "mariadb", chosen["SETTINGS"] == "friendly", shared)


def _one_of(key: str, value: str, values: tuple[str, ...]) -> str:
    if value not in ("", *values):
        raise ConfigError(f"{key}={value!r}: choose {' or '.join(values)}")
    return value or values[0]


@dataclass(frozen=True)
class Layout:
    """Where the files of a cluster lie: in ``.devcluster/<name>/``.

    Slurm's settings know no quotes and a socket's path holds 107 bytes: daemons reach the folder, wherever the checkout
    lies, through ``short``, a link in the folder for temporary files.
    """

    name: str

    @property
    def path(self) -> Path:
        return HOME / self.name

    @property
    def short(self) -> Path:
        return Path(tempfile.gettempdir()) / f"devcluster-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:10]}"

    @property
    def conf(self) -> Path:
        return self.short / "etc" / "slurm.conf"

    @property
    def munge(self) -> Path:
        return self.short / "run" / "munge.sock"

    @property
    def mark(self) -> tuple[str, str]:
        """What the environment of each of its processes holds: whoever has it belongs to this cluster."""
        return "DEVCLUSTER_FOLDER", str(self.path)

    def log(self, daemon: str) -> Path:
        return self.short / "log" / f"{daemon}.log"

    def make(self) -> None:
        for folder in FOLDERS:
            (self.path / folder).mkdir(parents=True)
        self.short.symlink_to(self.path)

    def remove(self) -> None:
        if self.short.is_symlink() and self.short.readlink() == self.path:
            self.short.unlink()
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class Cluster:
    """``cluster.json``: a cluster that is up, or that was once."""

    options: Options
    holder: int
    """Process id as this host counts."""
    began: int
    """When the holder began (clock ticks since boot): another process with its number is not it."""

    @property
    def layout(self) -> Layout:
        return Layout(self.options.name)

    @property
    def lives(self) -> bool:
        return started(self.holder) == self.began

    def write(self) -> None:
        path = self.layout.path / "cluster.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def find(name: str) -> Cluster | None:
    """The cluster of that name, living or not; None where there is no sign of one."""
    path = HOME / name / "cluster.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return Cluster(**{**raw, "options": Options(**raw["options"])})


def stat(pid: int) -> list[str]:
    """The fields of a process's stat behind its name: state, parent, ...; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def parent(pid: int) -> int:
    """0 where there is no such process."""
    return int((stat(pid) or ["", "0"])[1])


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where it is no more."""
    fields = stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def carriers(layout: Layout) -> list[int]:
    """Living processes with a cluster's mark, but for this one and those that called it."""
    mark, pid = os.fsencode("=".join(layout.mark)), os.getpid()
    ours = {pid}
    while pid := parent(pid):
        ours.add(pid)
    found = []
    for pid in processes():
        try:
            marked = mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # gone while we looked, or another user's
            continue
        if marked and pid not in ours and started(pid) is not None:
            found.append(pid)
    return found
