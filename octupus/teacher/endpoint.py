"""The teacher behind any OpenAI-compatible endpoint: ``teacher.engine: openai``, ``engine_args: {base_url: ...}``."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from octupus.config import Section, TeacherSection, explain
from octupus.errors import ConfigError, JobError
from octupus.teacher.protocol import Answer, Request

ATTEMPTS = 3


class Settings(Section):
    """``teacher.engine_args`` of this engine; ``base_url`` as in http://127.0.0.1:8000/v1."""

    base_url: str
    api_key_file: str | None = None
    concurrency: int = 64
    timeout_s: float = 600


def settings(section: TeacherSection) -> Settings:
    try:
        return Settings.model_validate(section.engine_args)
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, "teacher.engine_args")) from error


def identity(section: TeacherSection) -> dict[str, Any]:
    """The model's name; where it is served does not decide an answer."""
    settings(section)
    return {"engine": "openai", "model": section.model}


class EndpointEngine:
    """A pool of threads, each waiting for one answer."""

    def __init__(self, section: TeacherSection) -> None:
        self._section, self._settings = section, settings(section)
        self._headers = {"Content-Type": "application/json"}
        if self._settings.api_key_file is not None:
            self._headers["Authorization"] = f"Bearer {Path(self._settings.api_key_file).read_text().strip()}"
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
        url = f"{self._settings.base_url.rstrip('/')}/chat/completions"
        body = {"model": self._section.model, "messages": request.messages, "seed": request.seed}
        body |= self._section.sampling.model_dump(include={"temperature", "top_p", "max_tokens"})
        why = ""
        for _ in range(ATTEMPTS):
            call = urllib.request.Request(url, json.dumps(body).encode(), self._headers)
            try:
                with urllib.request.urlopen(call, timeout=self._settings.timeout_s) as reply:
                    return read(request.id, json.loads(reply.read()))
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.read(300).decode(errors='replace')}"
                if error.code in (400, 413, 422):  # this prompt, not the endpoint
                    return Answer(request.id, "", "refused", refused=why)
            except (OSError, ValueError, LookupError) as error:
                why = str(error)
        raise JobError(f"{url} failed {ATTEMPTS} times, last: {why}; when it is up, run the same command again")


def read(request_id: str, reply: dict[str, Any]) -> Answer:
    """A chat completion as an answer; LookupError where it is none."""
    choice = reply["choices"][0]
    reason: Literal["stop", "length"] = "length" if choice["finish_reason"] == "length" else "stop"
    tokens = (reply.get("usage") or {}).get("completion_tokens", 0)
    return Answer(request_id, choice["message"]["content"] or "", reason, tokens)


def open_engine(section: TeacherSection) -> EndpointEngine:
    return EndpointEngine(section)
