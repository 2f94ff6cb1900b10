"""Keeps BFCL out of the training data, by the one definition in CONTRACTS: questions by n-grams, tools by signature."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from octupus.data.files import content_hash, records
from octupus.wire.messages import Conversation, Tool

WHERE = Path(".cache/bfcl")
SHARE = 0.3
"""Of a question's distinct n-grams that must occur in one row's user text."""
WORDS, MIN_WORDS = 4, 8
CHARACTERS, MIN_CHARACTERS = 6, 16
_CJK = re.compile(r"[\u3400-\u9fff]")


class _Kept(dict[int, int | None]):
    """For ``str.translate``: punctuation and symbols go, whatever else stays."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code))[0] in "PS" else code
        return self[code]


_KEPT = _Kept()


def folded(text: str) -> str:
    """NFKC, lower case, no punctuation, single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().translate(_KEPT).split())


def grams(text: str) -> set[str]:
    """Distinct word 4-grams of a folded text, and character 6-grams where it holds Chinese."""
    words = text.split()
    found = {" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}
    if _CJK.search(text):
        found |= _character_grams(text)
    return found


def _character_grams(text: str) -> set[str]:
    solid = text.replace(" ", "")
    return {solid[i : i + CHARACTERS] for i in range(len(solid) - CHARACTERS + 1)}


def signature(tool: Tool) -> tuple[str, frozenset[tuple[str, str]]]:
    """A tool's folded name and its set of (parameter, type)."""
    parameters = tool.parameters
    properties = parameters.get("properties", {}) if isinstance(parameters, dict) else {}
    if not isinstance(properties, Mapping):
        properties = {}
    typed = frozenset(
        (name, json.dumps(p.get("type"))) if isinstance(p, Mapping) else (name, "") for name, p in properties.items()
    )
    return re.sub(r"[._\-\s]", "", tool.name.lower()), typed


class Benchmark:
    """The questions and tools of BFCL, indexed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.digest = folder, content_hash(folder)
        self._long: list[int] = []  # how many grams each long question has
        self._index: dict[str, list[int]] = defaultdict(list)
        self._short: set[str] = set()
        texts = {folded(text) for row in records(folder / "questions.jsonl") for text in _asked(row)}
        for text in sorted(texts - {""}):
            self._add(text)
        tools = [signature(Tool(raw=row["tool"])) for row in records(folder / "tools.jsonl")]
        self._names, self._exact = {name for name, _ in tools}, set(tools)
        self._sets = {typed for _, typed in tools if len(typed) >= 3}
        self.description = f"{len(texts)} questions and {len(tools)} tools of BFCL"

    @classmethod
    def find(cls) -> Benchmark | None:
        """What ``make bfcl-data`` wrote, looked for from the working folder and from this file upwards."""
        starts = (Path.cwd(), Path(__file__).resolve().parent)
        folders = (above / WHERE for start in starts for above in (start, *start.parents))
        found = next((f for f in folders if (f / "questions.jsonl").is_file() and (f / "tools.jsonl").is_file()), None)
        return cls(found) if found else None

    def _add(self, text: str) -> None:
        if len(_CJK.findall(text)) * 2 > len(text.replace(" ", "")):
            found = _character_grams(text) if len(text.replace(" ", "")) >= MIN_CHARACTERS else set()
        else:
            found = grams(text) if len(text.split()) >= MIN_WORDS else set()
        if not found:
            self._short.add(text)
            return
        for gram in found:
            self._index[gram].append(len(self._long))
        self._long.append(len(found))

    def hit(self, conversation: Conversation) -> str | None:
        """Why this conversation must go, or None."""
        said = [folded(m.content) for m in conversation.messages if m.role == "user"]
        if not self._short.isdisjoint(said):
            return "BFCL question: equal"
        known = grams(" ".join(said)) & self._index.keys()
        shared = Counter(q for gram in known for q in self._index[gram])
        for question, count in shared.items():
            if count >= SHARE * self._long[question]:
                return f"BFCL question: {count} of {self._long[question]} n-grams"
        for tool in conversation.tools:
            name, typed = signature(tool)
            if (name, typed) in self._exact or typed in self._sets:
                return f"BFCL tool: {tool.name}"
        return None

    def same_name(self, conversation: Conversation) -> bool:
        """Whether a tool has the name of one of BFCL's; for the report only."""
        return any(signature(tool)[0] in self._names for tool in conversation.tools)


def _asked(row: Mapping[str, Any]) -> Iterator[str]:
    return (message["content"] for turn in row["turns"] for message in turn if message["role"] == "user")
