"""The golden files: what each dialect makes of tests/golden/conversations.json, with the real Qwen vocabulary.

``python -m tests.golden.make`` writes them anew; read the difference before committing it: the wire has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from octupus.wire import Conversation, Message, Tool, Wire, make_dialect
from tests.support.qwen import qwen_instruct, qwen_octupus

FOLDER = Path(__file__).parent
DIALECTS = ("octupus", "octupus-v1", "qwen2_5", "qwen3")


def wire_of(name: str) -> Wire:
    tokenizer = qwen_octupus() if name.startswith("octupus") else qwen_instruct(name)
    return Wire(make_dialect(name if name.startswith("octupus") else "qwen", tokenizer), tokenizer)


def conversations() -> dict[str, Conversation]:
    raw = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))
    return {
        name: Conversation(
            messages=tuple(Message.model_validate(m) for m in value["messages"]),
            tools=tuple(Tool(raw=t) for t in value.get("tools", ())),
        )
        for name, value in raw.items()
    }


def runs(wire: Wire, ids: list[int], mask: list[bool]) -> Iterator[dict[str, Any]]:
    """Each added token, and each run of text, with its ids: a golden file shows both."""
    names = {id: text for text, id in wire.tokenizer.added_tokens.items()}

    def kind(item: tuple[int, tuple[int, bool]]) -> Any:
        at, (id, supervised) = item
        return (supervised, at if id in names else None)

    for (supervised, token), group in groupby(enumerate(zip(ids, mask, strict=True)), key=kind):
        part = [id for _, (id, _) in group]
        text = names[part[0]] if token is not None else wire.tokenizer.decode(part)
        yield {"token" if token is not None else "text": text, "supervised": supervised, "ids": part}


def golden(name: str) -> dict[str, Any]:
    wire, out = wire_of(name), {}
    for title, conversation in conversations().items():
        rendered = wire.render(conversation)
        upto = max(i for i, m in enumerate(conversation.messages) if m.role in ("user", "tool")) + 1
        prompt = wire.render_prompt(conversation.messages[:upto], conversation.tools)
        out[title] = {
            "training": list(runs(wire, rendered.ids, rendered.mask)),
            "prompt": list(runs(wire, prompt, [False] * len(prompt))),
        }
    return out


def written(value: dict[str, Any]) -> str:
    """One run a line."""
    lines = []
    for title, parts in value.items():
        shown = [
            f'  "{part}": [\n' + ",\n".join(f"   {json.dumps(r, ensure_ascii=False)}" for r in rows) + "\n  ]"
            for part, rows in parts.items()
        ]
        lines.append(f' "{title}": {{\n' + ",\n".join(shown) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    for dialect in DIALECTS:
        (FOLDER / f"{dialect}.json").write_text(written(golden(dialect)), encoding="utf-8")
        print(f"tests/golden/{dialect}.json")
