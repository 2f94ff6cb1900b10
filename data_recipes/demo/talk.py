"""Chat for stage 1: skills with slots, which one table both asks about and answers (skills.yaml)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import yaml

from data_recipes.demo.values import TYPES, Kind, Value, make, pick, spoken

Message = dict[str, Any]

_SPOKEN = {
    "name": '["“](?P<{0}>[^"”]+)["”]',
    "phrase": '["“](?P<{0}>[^"”]+)["”]',
    "code": '["“](?P<{0}>[^"”]+)["”]',
    "date": r"(?P<{0}>[A-Z][a-z]+ [a-z]+|周..{{2}})",
    "time": r"(?P<{0}>(?:half|quarter) (?:past|to) [a-z]+|.点(?:半|一刻|整))",
    "decimal": r"(?P<{0}>\d+\.\d+)",
    "small": r"(?P<{0}>\d+)",
    "large": r"(?P<{0}>\d+)",
    "things": '(?P<{0}>["“].+["”])',
    "numbers": r"(?P<{0}>\d[\d.,、 ]+\d)",
}


@dataclass(frozen=True)
class Ask:
    """One way to ask: what is told (may be nothing), the question, and the answer's template or ``json``."""

    slots: Mapping[str, Kind]
    tell: str
    question: str
    answer: str
    zh: bool

    @property
    def template(self) -> str:
        return f"{self.tell}{'' if self.zh or not self.tell else ' '}{self.question}"

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches what :meth:`ask` says and reads the slots out of it."""
        text = re.escape(self.template)
        for slot, kind in self.slots.items():
            text = text.replace(re.escape("{" + slot + "}"), _SPOKEN[str(kind)].format(slot))
        return re.compile(text)

    def values(self, rng: Random, training: bool = True) -> dict[str, Value]:
        return {slot: make(rng, kind, self.zh, training) for slot, kind in self.slots.items()}

    def say(self, template: str, values: Mapping[str, Value]) -> str:
        return template.format_map({slot: spoken(v, self.slots[slot], self.zh) for slot, v in values.items()})

    def reply(self, values: Mapping[str, Value]) -> str:
        """The right answer to a question with these values."""
        if self.answer == "json":
            return json.dumps(values, ensure_ascii=False, separators=(", ", ": "))
        return self.say(self.answer, values)

    def read(self, text: str) -> dict[str, Value] | None:
        """The values in a user's text that asks this, or None where it asks something else."""
        found = self.pattern.fullmatch(text)
        return None if found is None else {slot: _typed(found[slot], kind) for slot, kind in self.slots.items()}


def _typed(text: str, kind: Kind) -> Value:
    if kind == "things":
        return re.findall('["“](.+?)["”]', text)
    if kind == "numbers":
        return [float(number) if "." in number else int(number) for number in re.split("[,、] ?", text)]
    type_ = TYPES.get(str(kind), "string")
    return int(text) if type_ == "integer" else float(text) if type_ == "number" else text


def _load() -> tuple[tuple[Ask, ...], ...]:
    table = yaml.safe_load((Path(__file__).parent / "skills.yaml").read_text(encoding="utf-8"))
    skills = []
    for zh in (False, True):
        asks = [
            Ask(skill.get("slots", {}), tell, question, answer, zh)
            for skill in table
            for _ in range(skill.get("share", 1))
            for tell in skill["zh" if zh else "en"].get("tell", [""])
            for question, answer in skill["zh" if zh else "en"]["asks"]
        ]
        skills.append(tuple(asks))
    return tuple(skills)


ASKS = _load()
"""Every way to ask, English and Chinese."""
NOTED = ("Noted.", "记下了。")
"""The answer to something told without a question."""
AGAIN = (("Once more, please.", "Say that again."), ("请再说一遍。", "再来一次。"))
"""Asks for the last answer again."""


def turns(rng: Random, zh: bool) -> list[Message]:
    """A user's question with its answer; now and then what is told comes first, in a turn of its own."""
    ask = pick(rng, ASKS[zh])
    values = ask.values(rng)
    texts = [ask.say(ask.template, values), ask.reply(values)]
    if ask.tell and rng.random() < 0.25:
        texts = [ask.say(ask.tell, values), NOTED[zh], ask.question, ask.reply(values)]
    if ask.slots and rng.random() < 0.25:
        texts += [pick(rng, AGAIN[zh]), ask.reply(values)]
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def conversations(seed: int, n: int) -> Iterator[dict[str, Any]]:
    """``n`` chats of one to four exchanges, each ending in a user's message for a teacher to answer."""
    for i in range(n):
        rng = Random(f"{seed}:chat:{i}")
        zh = rng.random() < 0.4
        messages: list[Message] = []
        for _ in range(1 + int(rng.random() * 4)):
            messages += turns(rng, zh)
        yield {"id": f"demo-chat-{seed}-{i}", "messages": messages[:-1]}
