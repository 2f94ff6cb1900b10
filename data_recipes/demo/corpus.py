"""What the demo's tokenizer is trained on: its tools and phrasings, the pieces of its values, and common English."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from data_recipes.demo import dialogue, talk, teacher, values
from data_recipes.demo.tools import TOOLS, DemoTool
from octupus.config import Recipe
from octupus.wire.dialect import OCTUPUS


def texts(recipe: Recipe) -> Iterator[str]:
    """Texts for BPE training, the same for every recipe; no argument value stands among them.

    Invented names stand here as bare pieces only, never whole nor with a blank or quotation mark before them: BPE then
    cuts a name alike wherever it occurs, and copying it from a question into JSON is copying tokens.
    """
    for tool in TOOLS:
        yield from _tool(tool)
    for zh in (False, True):
        frames = (*dialogue.FRAMES[zh], *dialogue.NEXT[zh], *dialogue.SAME[zh], *dialogue.BOTH[zh])
        yield from (_bare(frame) for frame in frames for _ in range(10))
        yield from (*dialogue.NONE[zh], teacher.UNSURE[zh], talk.NOTED[zh])
        for ask in talk.ASKS[zh]:
            yield from (_bare(ask.template), _bare(ask.answer), _bare(json.dumps({slot: "{}" for slot in ask.slots})))
    for text in (*_pieces(), OCTUPUS.default_system or "", OCTUPUS.tools.after_text + OCTUPUS.tools.open):
        yield from [text] * 40
    yield from ["“ ” ”。 “"] * 40
    for word in values.COMMON:
        yield from [f"{word} {word}"] * 4


def _pieces() -> Iterator[str]:
    """Each as it occurs, so that it becomes one token: first in a value, or after a blank."""
    yield from (*values.HEADS, *values.TAILS, *values.PREFIXES, *values.SUFFIXES, *values.ADJECTIVES)
    yield from (*values.HANZI, *values.OPENINGS, *values.ENDINGS)
    yield from (*values.ZH_DAYS, *values.ZH_PARTS, *values.ZH_HOURS, *values.ZH_MINUTES)
    yield from (f" {word}" for word in (*values.NOUNS, *values.PARTS, *values.HOURS))
    for words in (*values.DAYS, *values.MINUTES):
        yield from (words, f" {words}")


def _tool(tool: DemoTool) -> Iterator[str]:
    """A tool as both languages show it, its requests, and what it gives, all without values."""
    for zh in (False, True):
        yield from [json.dumps([tool.offer(zh)], ensure_ascii=False)] * (1 if tool.unseen else 8)
        if not tool.unseen:
            yield from [_bare(f" {words}") for words in (*tool.asks[zh], tool.says[zh]) for _ in range(8)]
    if not tool.unseen:
        yield from [tool.name] * 4
        for keys in (tool.args, tool.gives):
            yield from [_bare(json.dumps({key: "{}" for key in keys}))] * 4


def _bare(template: str) -> str:
    return re.sub(r"\{\w*\}", "", template)
