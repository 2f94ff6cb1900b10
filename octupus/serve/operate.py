"""A server as a process: socket, signals, publication with a heartbeat, drain, and no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from octupus.config import ServeSection
from octupus.errors import ConfigError, JobError
from octupus.runs import Endpoint, Run, Stage, this_host
from octupus.serve.engines import SWITCH_S, Engine, factory
from octupus.serve.processes import Brood
from octupus.serve.service import SERVICE, Service, Settings
from octupus.tokenizer import load_wire

HEARTBEAT_S = 5.0
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
MANY_FILES, SPARE_FILES = 65_536, 256
"""Open files: what a server takes at most, and what it needs beside its clients' sockets (weights, pipes, logs)."""


@dataclass(frozen=True)
class Publication:
    """Where the endpoint is made known."""

    run: Run
    replica: str = "0"
    stage: Stage | None = None
    """Whose progress the answered requests are, those of earlier servers included; None: nobody's."""


def serve(
    build_app: Callable[..., web.Application],
    section: ServeSection,
    model_dir: Path,
    dialect: str | None = None,
    system: str | None = None,
    name: str | None = None,
    publication: Publication | None = None,
) -> int:
    """Serve ``model_dir`` until a signal, and return its number (0: another end); see :func:`octupus.serve.app.run`."""
    raise_file_limit(section.max_concurrency + SPARE_FILES)
    # Both first: neither a taken port nor a wrong folder should cost the loading of a model.
    with listen(section.host, section.port) as listening:
        if not (model_dir / "config.json").is_file():
            hint = "name a checkpoint's folder, such as runs/demo/stage2/export"
            raise ConfigError(f"{model_dir} holds no model (no config.json); {hint}")
        wire, tokenizer = load_wire(model_dir, dialect, system)
        keys, canary = read_keys(section.api_key_file), ":" not in section.engine
        settings = Settings(section, name or model_dir.name, canary=canary, keys=keys)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all is here; set before anything imports the hub's client
        make_engine, brood = factory(section.engine, model_dir, wire, section), Brood()

        def made() -> Engine:
            with brood.marked():
                return make_engine()

        app = build_app(made, wire, tokenizer, settings)
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        try:
            return _run(_serve(app, listening, section, publication, brood))
        finally:
            brood.end(grace_s=10.0)


def _run(main: Coroutine[Any, Any, int]) -> int:
    """With uvloop where it is installed (vLLM brings it): a third more tokens through the front end."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(main)
    return int(uvloop.run(main))


async def _serve(
    app: web.Application, listening: socket.socket, section: ServeSection, known: Publication | None, brood: Brood
) -> int:
    sys.setswitchinterval(SWITCH_S)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    stop = asyncio.Event()
    with _signals(stop) as received:
        await runner.setup()
        service = app[SERVICE]
        url = url_of(section.host, listening)
        try:
            await web.SockSite(runner, listening, backlog=2048).start()
            print(f"loading; {url}/ready tells when requests are taken", flush=True)
            await _until_not("loading", service, stop, section.ready_timeout_s)
            if service.status == "ready":
                gc.collect()
                gc.freeze()  # what was loaded stays: later collections need not walk through it
                gc.set_threshold(20_000)  # new schemas make thousands of objects, nearly all of them to stay
                idling = asyncio.create_task(_stop_when_idle(service, idle_minutes(section), stop))
                with _published(known, service, url):
                    print(f"ready: {url}/v1 serves {service.settings.model}", flush=True)
                    await _until_not("ready", service, stop, None)
                    idling.cancel()
                    if stop.is_set():
                        print(f"draining {service.at_work} requests, at most {section.drain_s:g} s", flush=True)
            if service.status == "ready":
                await service.drain(section.drain_s)
            if service.status == "failed":
                raise JobError(f"the server ended: {service.reason}")
        finally:
            if service.engine is None:
                brood.end(grace_s=0.0)
            await runner.cleanup()
    return received[0] if received else 0


async def _until_not(status: str, service: Service, stop: asyncio.Event, timeout_s: float | None) -> None:
    waits = [asyncio.create_task(wait) for wait in (stop.wait(), service.until_not(status))]
    done, pending = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if not done:
        service.fail(f"not ready after {timeout_s:g} s (serve.ready_timeout_s)")


def idle_minutes(section: ServeSection) -> float:
    """After how many minutes without a request an allocation is given back; 0: never."""
    on_slurm = "SLURM_JOB_ID" in os.environ
    return (60 if on_slurm else 0) if section.idle_minutes is None else section.idle_minutes


async def _stop_when_idle(service: Service, minutes: float, stop: asyncio.Event) -> None:
    while minutes and not stop.is_set():
        left = minutes * 60 - (time.monotonic() - service.last_request)
        if left <= 0 and not service.at_work:
            print(f"nobody has asked for {minutes:g} minutes (serve.idle_minutes)", flush=True)
            stop.set()
        await asyncio.sleep(max(left, 0.2))


@contextlib.contextmanager
def _published(publication: Publication | None, service: Service, url: str) -> Iterator[None]:
    """The endpoint's file, kept fresh while this lasts, by a thread: a busy event loop must not look dead."""
    if publication is None:
        yield
        return
    run, replica, instance, over = publication.run, publication.replica, secrets.token_hex(8), threading.Event()

    last = None if publication.stage is None else publication.stage.progress()
    before = 0.0 if last is None else last.done

    def count() -> None:
        if publication.stage is not None:
            publication.stage.set_progress(before + service.answered, "requests")

    def publish() -> None:
        count()
        facts = {"model": service.settings.model, "fingerprint": service.wire.fingerprint, "instance": instance}
        job = os.environ.get("SLURM_JOB_ID", "")
        run.publish_endpoint(replica, Endpoint(url=url, job_id=job, heartbeat_at=time.time(), **facts))

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            publish()

    publish()
    beating = threading.Thread(target=beat, name="endpoint-heartbeat", daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        count()
        mine = run.endpoints().get(replica)
        if mine is None or mine.instance == instance:
            run.withdraw_endpoint(replica)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[list[int]]:
    """Signals end the server gently while this lasts, and are noted; only the main thread can have them.

    SIGUSR2 is left alone where it was ignored at the start: the engine's processes inherit that.
    """
    received = list[int]()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int) -> None:
        received.append(number)
        stop.set()

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOPPING}
    if before[signal.SIGUSR2] is signal.SIG_IGN:
        del before[signal.SIGUSR2]
    for number in before:
        loop.add_signal_handler(number, note, number)
    try:
        yield received
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def raise_file_limit(needed: int) -> None:
    """Let this process open ``needed`` files, and more for clients that are told to come back: each is a socket, and
    many systems begin with 1,024.

    Raises:
        ConfigError: the system allows fewer than ``needed``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(needed, MANY_FILES) if hard == resource.RLIM_INFINITY else min(hard, max(needed, MANY_FILES))
    if most < needed:
        raise ConfigError(
            f"serve.max_concurrency: so many requests need {needed} open files, this system allows {hard}; lower it, "
            "or raise the limit (ulimit -Hn, or LimitNOFILE of the unit that starts this)"
        )
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        ConfigError: the address is taken or not ours.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        hint = "choose another (--port, or serve.port in the recipe), or 0 for any free one"
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}; {hint}") from error


def url_of(host: str, listening: socket.socket) -> str:
    """The address for other machines, without a path."""
    everywhere = host in ("0.0.0.0", "::", "")
    name = this_host() if everywhere else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"


def read_keys(path: str | None) -> tuple[str, ...]:
    """API keys, one a line, from a file that only its owner can read; and ``OCTUPUS_API_KEY``.

    Raises:
        ConfigError: no such file, or others can read it.
    """
    keys = [os.environ.get("OCTUPUS_API_KEY", "")]
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise ConfigError(f"serve.api_key_file: {path} does not exist")
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"serve.api_key_file: others can read {path}; run: chmod 600 {path}")
        keys += file.read_text(encoding="utf-8").splitlines()
    return tuple(key.strip() for key in keys if key.strip())
