"""``python -m slurm.devcluster up|run|down|with [-- COMMAND...]``: a development cluster, commands inside it, its end.

``run`` and ``with`` (a cluster for one command) take the words after ``--``, else the shell line in CMD. Variables:
DEVCLUSTER its name, DB=mariadb, SETTINGS=unfriendly, SHARED=1.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from octupus.errors import ConfigError, JobError, OctupusError
from slurm.devcluster import network
from slurm.devcluster.daemons import check_installed, path_with_sbin
from slurm.devcluster.holder import READY
from slurm.devcluster.layout import HOME, ROOT, Cluster, Layout, Options, carriers, find, parent, processes, started

UP_WITHIN_S = 240.0
USAGE = "usage: python -m slurm.devcluster up | run [-- COMMAND...] | down | with [-- COMMAND...]"


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One at a time brings clusters up or down; the folder that serves as lock goes when nothing is left in it."""
    while True:
        HOME.mkdir(exist_ok=True)
        lock = os.open(HOME, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if HOME.exists() and os.fstat(lock).st_ino == HOME.stat().st_ino:
            break
        os.close(lock)  # somebody removed it while we waited
    try:
        yield
    finally:
        if not any(HOME.iterdir()):
            HOME.rmdir()
        os.close(lock)


def up(options: Options) -> Cluster:
    """Start a cluster.

    Raises:
        ConfigError: it is up already, packages are missing, namespaces are not allowed. JobError: a daemon failed.
    """
    check_installed(options)
    reason = "" if options.shared else network.why_not()
    if reason:
        print(f"devcluster: no namespaces for the nodes here ({reason}): they share this host", file=sys.stderr)
        options = replace(options, shared=True)
    with locked():
        known = find(options.name)
        if known is not None and known.lives:
            raise ConfigError(
                f"devcluster {options.name} is up already: use it with make devcluster-run, end it with make "
                "devcluster-down, or name another: DEVCLUSTER=..."
            )
        clear(options.name)
        layout = Layout(options.name)
        layout.make()
        try:
            return _hold(layout, options)
        except BaseException:
            _end_processes(layout)  # the logs stay until the next `up` or `down`
            raise


def _hold(layout: Layout, options: Options) -> Cluster:
    command = [sys.executable, "-P", "-m", "slurm.devcluster.holder", json.dumps(asdict(options))]
    with (layout.path / "log" / "holder.log").open("ab") as log:
        process = subprocess.Popen(
            command if options.shared else network.unshared(command),
            cwd=ROOT,
            env={**os.environ, **environment(layout), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    with process.stdout as said:
        answer = said.readline().strip()  # its end closes the pipe, so this waits no longer than the daemons may take
    if answer != READY:
        process.wait(UP_WITHIN_S)
        why = answer or f"its first process ended with code {process.returncode}"
        raise JobError(f"devcluster {options.name} did not come up: {why}; logs: {layout.path / 'log'}")
    holder = process.pid if options.shared else _only_child(process.pid)
    made = Cluster(options, holder, started(holder) or 0)
    made.write()
    return made


def _only_child(pid: int) -> int:
    """What unshare started, as this host counts it.

    Raises:
        JobError: it is no more.
    """
    for child in processes():
        if parent(child) == pid:
            return child
    raise JobError("devcluster: it ended as soon as it was up; see .devcluster")


def environment(layout: Layout) -> dict[str, str]:
    """What a command needs to use the cluster, and what marks it as belonging there."""
    path = path_with_sbin(os.environ.get("PATH", os.defpath))
    return {**dict([layout.mark]), "SLURM_CONF": str(layout.conf), "DEVCLUSTER": layout.name, "PATH": path}


def inside(cluster: Cluster, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """``command`` as it is to be called from outside, and its environment."""
    values = {**os.environ, **environment(cluster.layout)}
    if cluster.options.shared:
        return list(command), values
    return network.entered(cluster.holder, command, os.getcwd()), values


def living(name: str) -> Cluster:
    """Raises ConfigError where no such cluster is up."""
    cluster = find(name)
    if cluster is None or not cluster.lives:
        raise ConfigError(f"devcluster {name} is not up: make devcluster-up")
    return cluster


def down(name: str) -> bool:
    """End a cluster and remove what it left; whether there was anything."""
    with locked():
        there = (HOME / name).exists()
        clear(name)
    return there


def clear(name: str) -> None:
    """No process and no file of a cluster, whole or half started, is left."""
    _end_processes(Layout(name))
    Layout(name).remove()


def _end_processes(layout: Layout) -> None:
    """Ask the holder, which takes all with it; then kill whoever carries the cluster's mark.

    Raises:
        JobError: something cannot be killed.
    """
    cluster, deadline = find(layout.name), time.monotonic() + 30
    if cluster is not None and cluster.lives:
        os.kill(cluster.holder, signal.SIGTERM)
        while cluster.lives and time.monotonic() < deadline:
            time.sleep(0.01)
    while left := carriers(layout):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise JobError(f"devcluster {layout.name}: processes {left} do not end; `kill -9` them")
        time.sleep(0.01)


def run_with(options: Options, command: Sequence[str]) -> int:
    """A cluster for one command, gone afterwards; the command's exit code."""
    cluster = up(options)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, frame: sys.exit(128 + got))
    try:
        words, values = inside(cluster, command)
        return subprocess.run(words, env=values, check=False).returncode
    except KeyboardInterrupt:
        return 130
    finally:
        down(options.name)


def main(words: Sequence[str], given: Mapping[str, str]) -> int:
    what, rest = (words[0] if words else ""), list(words[1:])
    command = rest[1:] if rest[:1] == ["--"] else ["sh", "-c", given["CMD"]] if given.get("CMD") else []
    try:
        if what not in ("up", "run", "down", "with") or (rest and rest[0] != "--"):
            raise ConfigError(USAGE)
        options = Options.of(given)
        if what in ("run", "with") and not command:
            raise ConfigError(f'devcluster: which command? make devcluster-{what} CMD="sinfo"')
        os.environ["PATH"] = path_with_sbin(os.environ.get("PATH", os.defpath))
        if what == "up":
            began = time.monotonic()
            up(options)
            print(f"devcluster {options.name} is up after {time.monotonic() - began:.1f} s: ", end="")
            print('make devcluster-run CMD="sinfo"; make devcluster-down')
        elif what == "run":
            program, values = inside(living(options.name), command)
            sys.stdout.flush()
            os.execvpe(program[0], program, values)
        elif what == "with":
            return run_with(options, command)
        else:
            found = down(options.name)
            print(f"devcluster {options.name}: {'gone' if found else 'was not up'}")
    except OctupusError as error:
        print(f"octupus: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"octupus: devcluster: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
