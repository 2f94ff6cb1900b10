"""A small recipe over files that a test writes, and a run folder with a tokenizer as surgery leaves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from octupus.config import Recipe
from octupus.runs import Run
from tests.support.tiny import tiny_folder

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look up the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def chat(question: str, answer: str) -> dict[str, Any]:
    """A one-turn chat in OpenAI's form."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def call(question: str, arguments: Any, name: str = "get_weather") -> dict[str, Any]:
    """A question answered by one call of :data:`WEATHER`; ``arguments`` as the object or as raw text."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    calls = [{"id": "c0", "type": "function", "function": {"name": name, "arguments": text}}]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": None, "tool_calls": calls}]
    return {"messages": turns, "tools": [WEATHER]}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(**sections: Any) -> Recipe:
    """A recipe with the given sections; the model is never loaded."""
    return Recipe.model_validate({"name": "test", "model": {"base": "none"}, **sections})


def run_folder(path: Path) -> Run:
    """A run whose surgery stage is done, as far as tokens go."""
    shutil.copytree(tiny_folder(), path / "surgery/model")
    return Run(path)
