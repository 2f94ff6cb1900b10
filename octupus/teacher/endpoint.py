"""The teacher behind an OpenAI-compatible endpoint: anybody's (``teacher.engine: openai``, ``engine_args: {base_url:
...}``), or our own server that the job starts beside itself (``server``), which answers with legal calls only."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from octupus.config import Section, ServeSection, TeacherSection
from octupus.errors import ConfigError, JobError, explain
from octupus.teacher.protocol import Answer, Candidate, Request

ATTEMPTS = 3


class Settings(Section):
    """``teacher.engine_args`` of this engine."""

    base_url: str | None = None
    """As in http://127.0.0.1:8000/v1; a ``server`` gets that of the one that its job has started."""
    api_key_file: str | None = None
    concurrency: int = Field(default=64, gt=0)
    timeout_s: float = Field(default=600, gt=0)
    serve: ServeSection = ServeSection(port=0)
    """For ``server``: how it is started."""


def settings(section: TeacherSection) -> Settings:
    """Raises:
    ConfigError: an unknown key, no address.
    """
    try:
        found = Settings.model_validate(section.engine_args)
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, "teacher.engine_args")) from error
    if section.engine == "openai" and found.base_url is None:
        raise ConfigError("teacher.engine_args: base_url is missing, for instance http://127.0.0.1:8000/v1")
    return found


def identity(section: TeacherSection) -> dict[str, Any]:
    """The model's name and, of our own server, the constraint; where it is served does not decide an answer."""
    found = settings(section)
    if section.engine == "openai":
        return {"engine": "openai", "model": section.model}
    return {"engine": "server", "model": section.model, "constraint": found.serve.constraint.model_dump(mode="json")}


class EndpointEngine:
    """A pool of threads, each waiting for one answer."""

    def __init__(self, section: TeacherSection) -> None:
        self._section, self._settings = section, settings(section)
        self._headers = {"Content-Type": "application/json"}
        if self._settings.api_key_file is not None:
            self._headers["Authorization"] = f"Bearer {Path(self._settings.api_key_file).read_text().strip()}"
        # A cluster's proxy is not for our own server; others are reached as the environment says.
        direct = [urllib.request.ProxyHandler({})] if section.engine == "server" else []
        self._opener = urllib.request.build_opener(*direct)
        self.capacity = self._settings.concurrency
        self._pool = ThreadPoolExecutor(self.capacity)
        self._pending: set[Future[Answer]] = set()

    def submit(self, request: Request) -> None:
        self._pending.add(self._pool.submit(self._ask, request))

    def step(self) -> list[Answer]:
        done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
        return [future.result() for future in done]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: Request) -> Answer:
        url = f"{str(self._settings.base_url).rstrip('/')}/chat/completions"
        body = {"messages": request.messages, "seed": request.seed, "model": self._section.model}
        body |= request.sampling.model_dump(include={"temperature", "top_p", "max_tokens"})
        body |= {"n": request.n} if request.n > 1 else {}
        body |= {"tools": request.tools} if request.tools else {}
        why = ""
        for _ in range(ATTEMPTS):
            call = urllib.request.Request(url, json.dumps(body).encode(), self._headers)
            try:
                with self._opener.open(call, timeout=self._settings.timeout_s) as reply:
                    return read(request.id, json.loads(reply.read()))
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.read(300).decode(errors='replace')}"
                if error.code in (400, 413, 422):  # this prompt, not the endpoint
                    return Answer(request.id, (), refused=why)
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                why = str(error)
        raise JobError(f"{url} failed {ATTEMPTS} times, last: {why}; when it is up, run the same command again")


def read(request_id: str, reply: dict[str, Any]) -> Answer:
    """A chat completion as an answer; LookupError or TypeError where it is none."""
    choices = reply["choices"]
    tokens = (reply.get("usage") or {}).get("completion_tokens", 0)
    candidates = []
    for number, choice in enumerate(choices):
        reason: Literal["stop", "length"] = "length" if choice["finish_reason"] == "length" else "stop"
        said, calls = choice["message"].get("content") or "", choice["message"].get("tool_calls") or ()
        made = tuple({"name": c["function"]["name"], "arguments": c["function"]["arguments"]} for c in calls)
        candidates.append(Candidate(said, reason, tokens if number == 0 else 0, made))
    if not candidates:
        raise LookupError("no choices")
    return Answer(request_id, tuple(candidates))


def open_engine(section: TeacherSection) -> EndpointEngine:
    return EndpointEngine(section)
