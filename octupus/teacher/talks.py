"""Prompts on their way to answers: every user turn asked, judged, asked again or kept, until the prompt is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from octupus.config import TeacherSection
from octupus.constrain import Validator
from octupus.errors import ConfigError, ConstraintError
from octupus.teacher.gates import Asked, judge
from octupus.teacher.prompts import Prompt
from octupus.teacher.protocol import Answer, Candidate, Engine, Request, hook
from octupus.wire.messages import ToolCall, canonical_json

Row = dict[str, Any]
Draw = Callable[[bool], tuple[int, Prompt] | None]
"""The next prompt with its shard's number, or None. Called with True where nothing else is under way: then it may wait,
and None means that there is nothing more."""
Keep = Callable[[int, Row], None]
"""Called with the shard and the row of a finished prompt."""


@dataclass
class Talk:
    """A prompt on its way: the messages so far, which user turn is being answered, and for which time."""

    prompt: Prompt
    shard: int
    messages: list[dict[str, Any]]
    turn: int = 0
    attempt: int = 0
    tokens: int = 0
    refused: list[str] = field(default_factory=list)
    """Why earlier attempts at this turn were no good."""


class Talks:
    """Answers prompts with an engine whose queue it keeps full."""

    def __init__(self, section: TeacherSection, label: dict[str, str]) -> None:
        self._section, self._label = section, label
        self._scorer = None if section.scorer is None else hook(section.scorer, "teacher.scorer")

    def answer(self, draw: Draw, engine: Engine, keep: Keep) -> None:
        """Ask every prompt, over the ends of shards, and hand each finished one on."""
        talks: dict[str, Talk] = {}
        while True:
            while len(talks) < engine.capacity and (item := draw(not talks)) is not None:
                shard, prompt = item
                talks[prompt.id] = Talk(prompt, shard, list(prompt.opening))
                self._ask(talks[prompt.id], engine)
            if not talks:
                return
            for answer in engine.step():
                talk = talks[answer.id]
                row = self._take(talk, answer)
                if row is None:
                    self._ask(talk, engine)
                else:
                    del talks[answer.id]
                    keep(talk.shard, row)

    def _ask(self, talk: Talk, engine: Engine) -> None:
        section = self._section
        if talk.attempt == 0:
            talk.messages.append({"role": "user", "content": talk.prompt.users[talk.turn]})
        again = f" {talk.attempt}" if talk.attempt else ""
        seed = hashlib.sha256(f"{talk.prompt.id} {talk.turn} {section.sampling.seed}{again}".encode()).digest()
        sampling = (section.retry_sampling if talk.attempt else None) or section.sampling
        number = int.from_bytes(seed[:4])
        engine.submit(Request(talk.prompt.id, talk.messages, number, sampling, section.n, talk.prompt.tools))

    def _take(self, talk: Talk, answer: Answer) -> Row | None:
        """Judge what came back; the row where the prompt is done with it."""
        talk.tokens += sum(candidate.tokens for candidate in answer.candidates)
        if answer.refused:
            return self._row(talk, f"prompt refused by the engine: {answer.refused}")
        best, reason = self._best(talk, answer.candidates)
        if reason is not None and talk.attempt < self._section.retries:
            talk.attempt += 1
            talk.refused.append(reason)
            return None
        talk.messages.append(best.message())
        talk.turn, talk.attempt = talk.turn + 1, 0
        if reason is None and talk.turn < len(talk.prompt.users):
            return None
        return self._row(talk, reason, best.finish_reason)

    def _best(self, talk: Talk, candidates: tuple[Candidate, ...]) -> tuple[Candidate, str | None]:
        """The candidate to keep; where none passes, the first one and why it did not."""
        asked = Asked(str(talk.messages[-1]["content"]), "\n".join(str(m.get("content") or "") for m in talk.messages))
        reasons = [judge(asked, c, self._section.gates) or illegal(talk.prompt, c) for c in candidates]
        passed = [c for c, reason in zip(candidates, reasons, strict=True) if reason is None]
        if not passed:
            return candidates[0], reasons[0]
        if self._scorer is None or len(passed) == 1:
            return passed[0], None
        return max(passed, key=lambda c: self._score(talk, c)), None

    def _score(self, talk: Talk, candidate: Candidate) -> float:
        value = self._scorer(list(talk.messages), candidate)  # type: ignore[misc]  # asked only where there is one
        if not isinstance(value, int | float):
            raise ConfigError(f"teacher.scorer {self._section.scorer!r} gave {value!r}: a number is wanted")
        return float(value)

    def _row(self, talk: Talk, reason: str | None, finish_reason: str = "") -> Row:
        prompt = talk.prompt
        row: Row = {
            "id": prompt.id,
            **({} if reason is None else {"reason": reason}),
            "messages": talk.messages,
            **({"tools": list(prompt.tools)} if prompt.tools else {}),
            "opening": len(prompt.opening),
            "was": prompt.was,
            "finish_reason": finish_reason,
            "tokens": talk.tokens,
            "teacher": self._label,
            "source": prompt.source,
            "row": prompt.row,
        }
        return row | ({"retried": talk.refused} if talk.refused else {})


def illegal(prompt: Prompt, candidate: Candidate) -> str | None:
    """Why a candidate's calls must not be kept: a tool that is not on offer, arguments that break its schema."""
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in prompt.tools}
    for call in candidate.calls:
        name = call["name"]
        if name not in schemas:
            return f"calls a tool that was not offered: {name}"
        arguments = ToolCall.from_text(name, call["arguments"]).arguments
        if isinstance(arguments, str):
            return f"arguments are no JSON object: {arguments[:80]}"
        try:
            problems = _validator(canonical_json(schemas[name] or {"type": "object"})).problems(arguments)
        except ConstraintError as error:
            return f"a tool's schema is illegal: {error}"
        if problems:
            return f"arguments break the schema: {name}{problems[0][:300]}"
    return None


@lru_cache(maxsize=4096)
def _validator(schema: str) -> Validator:
    return Validator(json.loads(schema))
