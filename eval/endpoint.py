"""The server that is measured: found in the run folder, waited for, watched while it is asked."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from octupus.config import ServeSection
from octupus.errors import ConfigError, JobError
from octupus.runs import Endpoint, Run

# A proxy of the cluster is not for our own server.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Server:
    """An endpoint that answered when it was found."""

    run: Run
    stage: str
    endpoint: Endpoint
    api_key: str

    @property
    def root_url(self) -> str:
        return self.endpoint.url.rstrip("/").removesuffix("/v1")

    @property
    def base_url(self) -> str:
        return f"{self.root_url}/v1"

    @property
    def folder(self) -> Path | None:
        """The weights that this run serves: of the last finished stage that has any."""
        for name in (
            ("surgery/model",) if self.stage == "baseline" else ("stage2/export", "stage1/export", "surgery/model")
        ):
            state = self.run.stage(name.split("/")[0]).state()
            if (self.run.path / name).is_dir() and (state is None or state.status == "done"):
                return self.run.path / name
        return None

    @property
    def log(self) -> Path:
        return self.run.stage(self.stage).log

    def check(self) -> None:
        """Say that the server has died, if it has.

        Raises:
            JobError: no heartbeat, withdrawn, replaced by another instance, or nobody listens; names the log.
        """
        why = "its heartbeat stopped or it withdrew"
        if any(e.instance == self.endpoint.instance for e in self.run.endpoints().values()):
            for _ in range(3):  # a single refusal may be a full backlog
                if answers(self.root_url) is not False:
                    return
                time.sleep(0.3)
            why = "nobody listens there any more"
        state = self.run.stage(self.stage).state()
        if state is not None and state.status == "failed":
            why = state.reason
        raise JobError(
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
        with OPENER.open(f"{root_url}/health", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except TimeoutError:
        return None
    except OSError as error:  # URLError is one too, with the cause inside
        return None if isinstance(getattr(error, "reason", error), TimeoutError) else False


def read_key(section: ServeSection) -> str:
    """The first API key of the file that the recipe names; any word where the server wants none.

    Raises:
        ConfigError: no key can be read.
    """
    if section.api_key_file is None:
        return os.environ.get("OCTUPUS_API_KEY") or "none"
    try:
        return Path(section.api_key_file).read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError) as error:
        raise ConfigError(f"serve.api_key_file {section.api_key_file}: no key can be read from it ({error})") from error


def identity(server: Server) -> str:
    """A hash that changes when other weights, another tokenizer or another wire format is served.

    Of each file the name, the size and sixteen spots: quick for any size, and every training step moves all weights.
    """
    digest = hashlib.sha256(f"{server.endpoint.fingerprint} {server.endpoint.model}".encode())
    folder = server.folder
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]) if folder is not None else ():
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as stream:
            for spot in range(16):
                stream.seek(size * spot // 16)
                digest.update(stream.read(65536))
    return digest.hexdigest()[:16]
