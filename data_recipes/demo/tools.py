"""The demo's tools (tools.yaml) as OpenAI tools, as requests in words, and as the calls these ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from data_recipes.demo.values import Kind, Value, make, pick, schema, spoken


@dataclass(frozen=True)
class Also:
    """One optional argument and the words that mention it."""

    arg: str
    kind: Kind
    words: tuple[str, str]

    @property
    def parted(self) -> bool:
        """Whether training and held-out values can be kept apart."""
        return not isinstance(self.kind, list) and self.kind != "flag"


@dataclass(frozen=True)
class Request:
    """What a user wants in words, without frame or full stop, and the call it asks for."""

    tool: DemoTool
    words: str
    arguments: dict[str, Value]


@dataclass(frozen=True, eq=False)
class DemoTool:
    name: str
    domain: str
    unseen: bool
    does: tuple[str, str]
    args: Mapping[str, Kind]
    also: Also | None
    asks: tuple[tuple[str, ...], tuple[str, ...]]
    gives: Mapping[str, Kind]
    says: tuple[str, str]

    def offer(self, zh: bool) -> dict[str, Any]:
        """The tool in OpenAI's form."""
        properties = {arg: schema(kind) for arg, kind in self.args.items()}
        if self.also is not None:
            properties[self.also.arg] = schema(self.also.kind)
        parameters = {"type": "object", "properties": properties, "required": list(self.args)}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.does[zh], "parameters": parameters},
        }

    def request(self, rng: Random, zh: bool, training: bool, keep: Mapping[str, Value] | None = None) -> Request:
        """A request with fresh values, but for those in ``keep``."""
        arguments = {arg: make(rng, kind, zh, training) for arg, kind in self.args.items()} | dict(keep or {})
        said = {arg: spoken(value, self.args[arg], zh) for arg, value in arguments.items() if arg in self.args}
        words = pick(rng, self.asks[zh]).format_map(said)
        if self.also is not None and rng.random() < 0.4 and (training or self.also.parted):
            value = arguments[self.also.arg] = make(rng, self.also.kind, zh, training)
            words += self.also.words[zh].format_map({self.also.arg: spoken(value, self.also.kind, zh)})
        return Request(self, words, arguments)

    def result(self, rng: Random, zh: bool) -> tuple[dict[str, Value], str]:
        """What the tool returns, and the sentence that tells it."""
        values = {key: make(rng, kind, zh, True) for key, kind in self.gives.items()}
        return values, self.says[zh].format_map({k: spoken(v, self.gives[k], zh) for k, v in values.items()})


def _also(raw: Mapping[str, Any] | None) -> Also | None:
    return None if raw is None else Also(raw["arg"], raw["kind"], (raw["en"], raw["zh"]))


def _load() -> tuple[DemoTool, ...]:
    domains = yaml.safe_load((Path(__file__).parent / "tools.yaml").read_text(encoding="utf-8"))
    return tuple(
        DemoTool(
            name=raw["name"],
            domain=domain["domain"],
            unseen=domain.get("unseen", False),
            does=(raw["does"][0], raw["does"][1]),
            args=raw["args"],
            also=_also(raw.get("also")),
            asks=(tuple(raw["en"]), tuple(raw["zh"])),
            gives=raw["gives"],
            says=(raw["say"][0], raw["say"][1]),
        )
        for domain in domains
        for raw in domain["tools"]
    )


TOOLS = _load()
SEEN = tuple(tool for tool in TOOLS if not tool.unseen)
UNSEEN = tuple(tool for tool in TOOLS if tool.unseen)
