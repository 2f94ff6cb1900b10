"""The server that is measured: found in the run folder, waited for, watched while it is asked."""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from octupus.config import Recipe, ServeSection
from octupus.errors import ConfigError, JobError, Lost
from octupus.runs import Endpoint, Run

# A proxy of the cluster is not for our own server.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
BEFORE = "before"
"""The replica that serves the untrained model, beside the stage ``baseline``."""
ELSEWHERE = "elsewhere"
"""In a stage's place: a server that no run of ours started."""


def _opener(root_url: str) -> urllib.request.OpenerDirector:
    """Loopback without a proxy; a foreign server as this machine reaches it."""
    host = root_url.split("/")[2].rsplit(":", 1)[0]
    return OPENER if host in ("127.0.0.1", "localhost", "[::1]") else urllib.request.build_opener()


@dataclass(frozen=True)
class Server:
    """An endpoint that answered when it was found."""

    run: Run
    stage: str
    endpoint: Endpoint
    api_key: str
    foreign: bool = False
    """It serves a model that is not the run's (``serve.model``)."""
    others: tuple[Endpoint, ...] = ()
    """Further replicas of the same model, which answered too: requests are spread over all."""

    @property
    def root_url(self) -> str:
        return root_of(self.endpoint)

    @property
    def base_url(self) -> str:
        return f"{self.root_url}/v1"

    @property
    def base_urls(self) -> tuple[str, ...]:
        """Of all replicas."""
        return tuple(f"{root_of(endpoint)}/v1" for endpoint in (self.endpoint, *self.others))

    @property
    def folder(self) -> Path | None:
        return None if self.stage == ELSEWHERE or self.foreign else weights_folder(self.run, self.stage)

    @property
    def log(self) -> Path:
        return self.run.stage(self.stage).log

    def check(self) -> None:
        """Say that the server (of several replicas: one of them) has died, if it has.

        Raises:
            Lost: no heartbeat, withdrawn, replaced by another instance, or nobody listens; names the log.
        """
        for endpoint in (self.endpoint, *self.others):
            why = self._ended(endpoint)
            if not why:
                continue
            state = self.run.stage(self.stage).state()
            if state is not None and state.status == "failed":
                why = state.reason
            log = "" if self.stage == ELSEWHERE else f"; see its log in {self.log}"
            raise Lost(
                f"the server at {root_of(endpoint)} died while it was being measured ({why}){log}; "
                "what was answered is kept: the same command goes on from there once a server is up again"
            )

    def _ended(self, endpoint: Endpoint) -> str:
        """Why it answers no more; empty while it does."""
        if self.stage != ELSEWHERE and all(e.instance != endpoint.instance for e in self.run.endpoints().values()):
            return "its heartbeat stopped or it withdrew"
        for _ in range(3):  # a single refusal may be a full backlog
            if answers(root_of(endpoint), self.stage == ELSEWHERE) is not False:
                return ""
            time.sleep(0.3)
        return "nobody listens there any more"


def root_of(endpoint: Endpoint) -> str:
    """Its URL without ``/v1``."""
    return endpoint.url.rstrip("/").removesuffix("/v1")


def weights_folder(run: Run, stage: str = "serve") -> Path | None:
    """The weights that a run serves: of the last finished stage that has any; None: a model that is not the run's."""
    names = ("surgery/model",) if stage == "baseline" else ("stage2/export", "stage1/export", "surgery/model")
    for name in names:
        state = run.stage(name.split("/")[0]).state()
        if (run.path / name).is_dir() and (state is None or state.status == "done"):
            return run.path / name
    return None


def find(run: Run, recipe: Recipe) -> Server:
    """What ``bfcl`` measures: the server of ``bfcl.url`` where the recipe names one, else the run's own.

    Raises:
        JobError: it does not answer.
    """
    url, key = recipe.bfcl.url, read_key(recipe.serve)
    if url is None:
        return wait_for(run, recipe.serve)
    there = Endpoint(url=url, model=recipe.bfcl.url_model or "", instance="", heartbeat_at=time.time())
    server = Server(run, ELSEWHERE, there, key)
    if answers(server.root_url, elsewhere=True) is False:
        raise JobError(f"nobody answers at {url} (bfcl.url, MODEL_URL); is it up, and can this machine reach it?")
    if there.model:
        return server
    request = urllib.request.Request(f"{server.base_url}/models", headers={"Authorization": f"Bearer {key}"})
    try:
        with _opener(server.root_url).open(request, timeout=30) as response:
            name = str(json.load(response)["data"][0]["id"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = f"{server.base_url}/models does not say what is served there ({error}); name it: MODEL=..."
        raise JobError(why) from error
    return replace(server, endpoint=there.model_copy(update={"model": name}))


def wait_for(run: Run, section: ServeSection, stage: str = "serve") -> Server:
    """The endpoints of the run that answer: the first, and with it the other replicas of its model.

    Raises:
        JobError: the serving stage failed, or none came up within ``serve.ready_timeout_s``; names the server's log.
    """
    deadline = time.monotonic() + section.ready_timeout_s
    log = run.stage(stage).log
    while True:
        # The untrained model may be measured at the same time.
        there = [e for replica, e in run.endpoints().items() if (replica == BEFORE) == (stage == "baseline")]
        up = [endpoint for endpoint in there if answers(root_of(endpoint))]
        if up:
            same = tuple(e for e in up[1:] if (e.model, e.fingerprint) == (up[0].model, up[0].fingerprint))
            return Server(run, stage, up[0], read_key(section), foreign=section.model is not None, others=same)
        state = run.stage(stage).state()
        if state is not None and state.status == "failed":
            kind = Lost if state.lost else JobError
            raise kind(f"no endpoint to measure: stage {stage} failed: {state.reason}; see its log in {log}")
        if time.monotonic() >= deadline:
            raise Lost(
                f"no endpoint came up in {run.path / 'endpoints'} within {section.ready_timeout_s:g} s "
                f"(serve.ready_timeout_s); see the server's log in {log}; start one with: make serve RUN={run.name}"
            )
        time.sleep(0.2)


def answers(root_url: str, elsewhere: bool = False) -> bool | None:
    """True: it answered; False: nobody listens; None: no answer in time (busy, perhaps)."""
    try:
        with (_opener(root_url) if elsewhere else OPENER).open(f"{root_url}/health", timeout=5):
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
    where = server.root_url if server.stage == ELSEWHERE else ""
    digest = hashlib.sha256(f"{server.endpoint.fingerprint} {server.endpoint.model}{where}".encode())
    folder = server.folder
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]) if folder is not None else ():
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as stream:
            for spot in range(16):
                stream.seek(size * spot // 16)
                digest.update(stream.read(65536))
    return digest.hexdigest()[:16]
