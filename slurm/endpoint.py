"""Where a run's servers answer: told to people, and handed to the terminal chat."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from octupus.errors import ConfigError
from octupus.runs import Run, this_host
from slurm import reap
from slurm.stage import frozen

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a cluster's proxy is not for our own server


def state(url: str) -> str:
    """What ``/ready`` says: ready, loading, draining, failed; or that nobody answers."""
    try:
        with OPENER.open(f"{url}/ready", timeout=3) as reply:
            return str(json.load(reply)["status"])
    except urllib.error.HTTPError as error:
        return str(json.load(error)["status"])
    except (OSError, ValueError, KeyError):
        return "does not answer from this machine"


def tell(run: Run) -> int:
    """URL, state, key, and how to try, reach and stop each of the run's servers; returns their number."""
    endpoints = run.endpoints()
    key_file = frozen(run).recipe.serve.api_key_file if endpoints else None
    header = f' -H "Authorization: Bearer $(head -n 1 {key_file})"' if key_file else ""
    for endpoint in endpoints.values():
        there = urlsplit(endpoint.url)
        print(f"endpoint: {endpoint.url}/v1 serves {endpoint.model}, {state(endpoint.url)}")
        print(f"  key:          {f'a line of {key_file}' if key_file else 'none needed'}")
        print(f"  try it:       curl -s{header} {endpoint.url}/v1/models    make chat RUN={run.name}")
        forward = f"{there.port}:{there.hostname}:{there.port} {getpass.getuser()}@{this_host()}"
        print(f"  from outside: ssh -N -L {forward}    then http://localhost:{there.port}/v1")
        print(f"  stop it:      make cancel RUN={run.name} STAGE=serve    (log: make logs RUN={run.name} STAGE=serve)")
    return len(endpoints)


def missing(run: Run) -> ConfigError:
    return ConfigError(f"run {run.name} has no endpoint; make serve RUN={run.name}")


def chat(run: Run) -> NoReturn:
    """Become the terminal chat with the run's first server.

    Raises:
        ConfigError: there is none.
    """
    endpoint = next(iter(run.endpoints().values()), None)
    if endpoint is None:
        raise missing(run)
    key_file = frozen(run).recipe.serve.api_key_file
    words = ["--url", f"{endpoint.url}/v1", *(["--api-key-file", key_file] if key_file else [])]
    os.execv(sys.executable, [sys.executable, "-m", "octupus.serve.chat", *words])


def stay(run: Run, over: Callable[[], bool], log: Path) -> None:
    """FG=1: show the server's log until it ends; Ctrl-C ends it."""
    print("Ctrl-C stops it", flush=True)
    tail = subprocess.Popen(["tail", "-n", "+1", "-F", str(log)], stderr=subprocess.DEVNULL)
    try:
        while not over():
            time.sleep(0.2)
    except KeyboardInterrupt:
        reap.end(run.path, "serve")
    finally:
        tail.terminate()
        tail.wait()
