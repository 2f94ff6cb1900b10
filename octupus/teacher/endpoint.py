"""The teacher behind any OpenAI-compatible endpoint: ``teacher.engine: openai``, ``engine_args: {base_url: ...}``."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from octupus.config import TeacherSection, explain
from octupus.errors import ConfigError, JobError
from octupus.teacher.protocol import Answer, Request

ATTEMPTS = 3


class Settings(BaseModel):
    """``teacher.engine_args`` of this engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str
    """For instance http://127.0.0.1:8000/v1; the path of chat completions is added."""
    api_key_file: str | None = None
    concurrency: int = Field(default=64, gt=0)
    timeout_s: float = Field(default=600, gt=0)


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
        self._settings, self._section = settings(section), section
        self._url = f"{self._settings.base_url.rstrip('/')}/chat/completions"
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
        sampling = self._section.sampling
        body = {"model": self._section.model, "messages": request.messages, "seed": request.seed}
        body |= sampling.model_dump(include={"temperature", "top_p", "max_tokens"})
        for attempt in range(ATTEMPTS):
            call = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
            try:
                with urllib.request.urlopen(call, timeout=self._settings.timeout_s) as reply:
                    return self._read(request.id, json.loads(reply.read()))
            except urllib.error.HTTPError as error:
                said = error.read(300).decode(errors="replace")
                if error.code in (400, 413, 422):  # this prompt, not the endpoint
                    return Answer(request.id, "", "refused", refused=f"{error.code} {said}")
                why = f"{error.code} {said}"
            except (OSError, ValueError, KeyError, IndexError) as error:
                why = str(error)
            if attempt + 1 == ATTEMPTS:
                break
        raise JobError(
            f"{self._url} failed {ATTEMPTS} times, last: {why}; see that it is up, then run the same command again "
            "(answers are kept)"
        )

    @staticmethod
    def _read(request_id: str, reply: dict[str, Any]) -> Answer:
        choice = reply["choices"][0]
        reason: Literal["stop", "length"] = "length" if choice["finish_reason"] == "length" else "stop"
        tokens = (reply.get("usage") or {}).get("completion_tokens", 0)
        return Answer(request_id, choice["message"]["content"] or "", reason, tokens)


def open_engine(section: TeacherSection) -> EndpointEngine:
    return EndpointEngine(section)
