"""The server that is measured: found in the run folder, waited for, watched while it is asked."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from octupus.config import ServeSection
from octupus.errors import ConfigError, JobError
from octupus.runs import Endpoint, Run

_OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # a proxy of the cluster is not for our own server


@dataclass
class Server:
    """An endpoint that answered when it was found."""

    run: Run
    stage: str
    endpoint: Endpoint
    api_key: str
    _refused: int = 0

    @property
    def base_url(self) -> str:
        """With ``/v1`` at the end."""
        url = self.endpoint.url.rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"

    @property
    def root_url(self) -> str:
        return self.base_url.removesuffix("/v1")

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or "localhost"

    @property
    def folder(self) -> Path | None:
        """The weights that this run serves: of the last stage that has any."""
        names = ("surgery/model",) if self.stage == "baseline" else ("stage2/export", "stage1/export", "surgery/model")
        return next((self.run.path / n for n in names if (self.run.path / n).is_dir()), None)

    @property
    def log(self) -> Path:
        return self.run.stage(self.stage).log

    def check(self) -> None:
        """Say that the server has died, if it has.

        Raises:
            JobError: no heartbeat, withdrawn, replaced by another instance, or nobody listens; names the log.
        """
        now = [e for e in self.run.endpoints().values() if e.instance == self.endpoint.instance]
        if not now:
            state = self.run.stage(self.stage).state()
            why = state.reason if state is not None and state.status == "failed" else ""
            raise self._died(why or "its heartbeat stopped or it withdrew")
        # One refusal may be a full backlog; two in a row mean that nobody listens any more.
        self._refused = self._refused + 1 if answers(self.root_url) is False else 0
        if self._refused >= 2:
            raise self._died("nobody listens there any more")

    def _died(self, why: str) -> JobError:
        return JobError(
            f"the server at {self.root_url} died while it was being measured ({why}); see its log in {self.log}; "
            "what was answered is kept: the same command goes on from there once a server is up again"
        )


def wait_for(run: Run, section: ServeSection, stage: str = "serve") -> Server:
    """The first endpoint of the run that answers.

    Raises:
        JobError: the serving stage failed, or none came up within ``serve.ready_timeout_s``; names the server's log.
    """
    deadline = time.monotonic() + section.ready_timeout_s
    log = run.stage(stage).log
    while True:
        for endpoint in run.endpoints().values():
            server = Server(run, stage, endpoint, read_key(section))
            if answers(server.root_url):
                return server
        state = run.stage(stage).state()
        if state is not None and state.status == "failed":
            raise JobError(f"no endpoint to measure: stage {stage} failed: {state.reason}; see its log in {log}")
        if time.monotonic() >= deadline:
            raise JobError(
                f"no endpoint came up in {run.path / 'endpoints'} within {section.ready_timeout_s:g} s "
                f"(serve.ready_timeout_s); see the server's log in {log}; start one with: make serve RUN={run.name}"
            )
        time.sleep(0.2)


def answers(root_url: str) -> bool | None:
    """True: it answered; False: nobody listens; None: no answer in time (busy, perhaps)."""
    try:
        with _OPENER.open(f"{root_url}/health", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except TimeoutError:
        return None
    except (urllib.error.URLError, ConnectionError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return None if isinstance(reason, TimeoutError) else False


def read_key(section: ServeSection) -> str:
    """The first API key of the file that the recipe names; any word where the server wants none.

    Raises:
        ConfigError: the file cannot be read.
    """
    if section.api_key_file is None:
        return os.environ.get("OCTUPUS_API_KEY") or "none"
    try:
        return Path(section.api_key_file).expanduser().read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError) as error:
        raise ConfigError(f"serve.api_key_file {section.api_key_file}: no key can be read from it ({error})") from error


def identity(server: Server) -> str:
    """A hash that changes when other weights, another tokenizer or another wire format is served."""
    digest = hashlib.sha256(f"{server.endpoint.fingerprint} {server.endpoint.model}".encode())
    if server.folder is not None:
        for part in _samples(server.folder):
            digest.update(part)
    return digest.hexdigest()[:16]


def _samples(folder: Path) -> Iterator[bytes]:
    """Names, sizes and a few spots of each file: quick for any size, and every training step moves all weights."""
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        size = path.stat().st_size
        yield f"{path.name}:{size}".encode()
        with path.open("rb") as stream:
            for spot in range(16):
                stream.seek(size * spot // 16)
                yield stream.read(65536)
