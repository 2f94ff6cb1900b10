"""Namespaces: how a cluster gets one network for each node, and how a command gets in."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from octupus.errors import JobError
from slurm.devcluster.conf import CONTROLLER, Place
from slurm.devcluster.layout import NODES, Layout

KINDS = ("--net", "--mount", "--uts", "--pid")
PROBE = "ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2"


def unshared(command: Sequence[str]) -> list[str]:
    """``command`` as the first process of namespaces of its own; all that it starts dies with it.

    Root needs no user namespace, and slurmctld, which calls setgroups, would fail in one.
    """
    user = () if os.geteuid() == 0 else ("--map-current-user", "--keep-caps")
    return ["unshare", *user, *KINDS, "--fork", "--kill-child", "--mount-proc", *command]


def why_not() -> str:
    """Why this machine gives us no such namespaces; empty where it does."""
    for tool in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (`apt-get install util-linux iproute2`)"
    done = subprocess.run(unshared(["sh", "-c", PROBE]), capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["unshare failed"])[-1]


def entered(holder: int, command: Sequence[str], folder: str) -> list[str]:
    """``command`` inside the namespaces of ``holder``, in ``folder``; it ends with the process that entered."""
    user = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
    enter = ["nsenter", f"--target={holder}", *user, *KINDS, "--"]
    return [*enter, "env", f"--chdir={folder}", "setpriv", "--pdeathsig", "TERM", *command]


class Networks:
    """A bridge with a network and a host name for each node; made by the first process inside."""

    def __init__(self, layout: Layout, place: Place) -> None:
        self.layout = layout
        self.keepers: dict[str, int] = {}
        """By node, the process that keeps its namespaces."""
        do("hostname", CONTROLLER)
        do("ip", "link", "set", "lo", "up")
        self._name(layout, place)
        do("ip", "link", "add", "br0", "type", "bridge")
        do("ip", "addr", "add", f"{place.controller[1]}/24", "dev", "br0")
        do("ip", "link", "set", "br0", "up")
        for number, (name, (_, address, _)) in enumerate(zip(NODES, place.nodes, strict=True), 1):
            self._node(number, name, address)

    def on(self, node: str, command: Sequence[str]) -> list[str]:
        """``command`` on one of the nodes."""
        return ["nsenter", f"--target={self.keepers[node]}", "--net", "--uts", "--", *command]

    def _name(self, layout: Layout, place: Place) -> None:
        """Names are looked up in a file of ours only: nothing here waits for a name server that cannot be reached."""
        known = [("localhost", "127.0.0.1"), (CONTROLLER, place.controller[1])]
        known += [(name, address) for name, address, _ in place.nodes]
        etc = layout.short / "etc"
        (etc / "hosts").write_text("".join(f"{address} {name}\n" for name, address in known))
        do("mount", "--bind", str(etc / "hosts"), "/etc/hosts")
        switch = Path("/etc/nsswitch.conf")
        if switch.is_file():
            others = [line for line in switch.read_text().splitlines() if not line.startswith("hosts:")]
            (etc / "nsswitch.conf").write_text("\n".join(["hosts: files", *others]) + "\n")
            do("mount", "--bind", str(etc / "nsswitch.conf"), str(switch))
        if Path("/etc/slurm").is_dir():  # for who drops SLURM_CONF from the environment
            do("mount", "--bind", str(etc), "/etc/slurm")

    def _node(self, number: int, name: str, address: str) -> None:
        keeper = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", f"hostname {name}; echo; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert keeper.stdout is not None
        keeper.stdout.readline()  # it has left our namespaces
        self.keepers[name] = keeper.pid
        (self.layout.short / "run" / f"keeper-{name}.pid").write_text(f"{keeper.pid}\n")
        do("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(keeper.pid))
        do("ip", "link", "set", f"v{number}", "master", "br0", "up")
        for words in ("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"):
            do(*self.on(name, ["ip", *words.split()]))


def do(*command: str, timeout_s: float = 60) -> str:
    """Run a tool and return what it says.

    Raises:
        JobError: it failed or took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise JobError(f"`{' '.join(command)}` did not answer within {timeout_s:g} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise JobError(f"`{' '.join(command)}` failed: {said[-1] if said else f'code {done.returncode}'}")
    return done.stdout


def until(what: str, *command: str, says: str | None = None, within_s: float = 60) -> None:
    """Wait until a command succeeds (and its output is ``says``).

    Raises:
        JobError: it did not within ``within_s``.
    """
    deadline, last = time.monotonic() + within_s, ""
    while time.monotonic() < deadline:
        try:
            found = do(*command, timeout_s=10).strip()
            if says is None or found == says:
                return
            last = f"`{' '.join(command)}` says {found!r}"
        except JobError as error:
            last = str(error)
        time.sleep(0.02)
    raise JobError(f"{what} after {within_s:g} s: {last}")
