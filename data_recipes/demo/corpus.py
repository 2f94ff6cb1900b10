"""What a scratch model's tokenizer is trained on: the demo's tools, phrasings and pieces of values, common English.

Where a recipe trains on or measures simulated worlds, those of the training worlds too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from data_recipes.demo import dialogue, talk, teacher, values
from data_recipes.demo.tools import TOOLS, DemoTool
from data_recipes.worlds import wording
from data_recipes.worlds.registry import TRAINING
from data_recipes.worlds.values import WORDS
from data_recipes.worlds.world import offer
from octupus.config import Recipe
from octupus.wire.dialect import OCTUPUS


def texts(recipe: Recipe) -> Iterator[str]:
    """Texts for BPE training; no whole argument value stands among them.

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
    data = recipe.data
    if any(s.name == "worlds" for s in (*data.stage1.sources, *data.stage2.sources, *data.heldout)):
        yield from _worlds()


def _worlds() -> Iterator[str]:
    """What all simulated worlds say alike, the training ones' tools and sentences, and single words of values."""
    for world, method in ((w, m) for w in TRAINING.values() for m in w.METHODS.values()):
        tools = [offer(world, method.name, zh) for zh in (False, True)]
        yield from [json.dumps([tool], ensure_ascii=False) for tool in tools] * 2
        sentences = [*(method.ask or ()), *(method.tell or ())]
        yield from [_bare(f" {part}") for text in sentences for part in text.split("|")] * 4
        yield from [f'{{"{p.name}": ' for p in method.params] * 4
    for world in TRAINING.values():
        for table in world.TABLES.values():
            yield from [f"{table.prefix}-", table.en, table.zh, *map(_bare, table.says)] * 20
    for name, pair in vars(wording).items():
        if name.isupper() and isinstance(pair, tuple):
            yield from [_bare(text) for texts in pair for text in ([texts] if isinstance(texts, str) else texts)] * 10
    for both in WORDS.values():
        yield from [word for words in both for text in words for word in text.split()] * 20


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
