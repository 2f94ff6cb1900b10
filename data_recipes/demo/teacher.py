"""The demo's scripted teacher: reads a chat as a model would, from its text alone, and answers by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_recipes.demo.talk import AGAIN, ASKS, NOTED

UNSURE = ("I do not know that.", "这个我不知道。")
"""The answer to a question outside the script."""


def answer(messages: Sequence[Mapping[str, Any]]) -> str:
    """The assistant's next text in a chat of OpenAI-style messages that ends in a user's.

    A question that makes no sense alone is read together with what the user said before.
    """
    said = [str(m["content"]) for m in messages if m["role"] == "user"]
    last = said[-1]
    before = [str(m["content"]) for m in messages if m["role"] == "assistant"]
    if before and any(last in again for again in AGAIN):
        return before[-1]
    zh = any("\u4e00" <= character <= "\u9fff" for character in last)
    for text in (last, *(f"{earlier}{'' if zh else ' '}{last}" for earlier in reversed(said[:-1]))):
        for ask in ASKS[zh]:
            values = ask.read(text)
            if values is not None:
                return ask.reply(values)
    told = any(ask.tell and ask.read(f"{last}{'' if zh else ' '}{ask.question}") is not None for ask in ASKS[zh])
    return NOTED[zh] if told else UNSURE[zh]
