"""A server beside the program that asks it: started, waited for, ended with it, however that ends."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from octupus.config import ServeSection
from octupus.errors import JobError
from octupus.runs import Run

ROOT = Path(__file__).resolve().parents[1]
"""Where the rooms are imported from: the checkout, or a run's snapshot."""


def serve_command(section: ServeSection, model: Path, run: Run, replica: str = "0") -> list[str]:
    """The command line that serves ``model`` as ``section`` says and publishes it in ``run``."""
    values = section.model_dump(mode="json", exclude={"model"}, exclude_defaults=True)
    command = [sys.executable, "-P", "-m", "octupus.serve", "--model", str(model), "--run", str(run.path)]
    words = [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return [*command, "--replica", replica, *words]


@contextmanager
def served(command: Sequence[str], run: Run, replica: str, log: Path, timeout_s: float) -> Iterator[None]:
    """Run ``command`` until the block ends; it publishes itself in ``run`` as ``replica``.

    Raises:
        JobError: it ended before it was ready, or took longer than ``timeout_s``; names the log.
    """
    from eval.harness import end  # heavy: a submit does without

    log.parent.mkdir(parents=True, exist_ok=True)
    run.withdraw_endpoint(replica)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("ab") as stream:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            preexec_fn=die_with_parent,
        )
    try:
        deadline = time.monotonic() + timeout_s
        while replica not in run.endpoints():
            if server.poll() is not None:
                raise JobError(f"the server ended with code {server.returncode} before it was ready; see {log}")
            if time.monotonic() > deadline:
                raise JobError(f"no endpoint came up within {timeout_s:g} s; see {log}")
            time.sleep(0.1)
        yield
    finally:
        end(server, grace_s=30)
        run.withdraw_endpoint(replica)


def die_with_parent() -> None:
    """Have this process told to end when its parent ends, however that is."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
