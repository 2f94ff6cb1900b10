"""Which language a conversation is in, as far as its script tells."""

from __future__ import annotations

import re

from octupus.wire.messages import Conversation

LANGUAGES = ("en", "zh", "other", "none")
"""What a store's column counts; ``en`` is any language in Latin letters, ``none`` has no letters."""
_SCRIPTS = {
    "Latin": re.compile("[\u00c0-\u024f\u1e00-\u1eff]"),
    "Han": re.compile("[\u3400-\u9fff\uf900-\ufaff]"),
    "Kana": re.compile("[\u3041-\u30ff]"),
    "Hangul": re.compile("[\u1100-\u11ff\uac00-\ud7af]"),
    "Cyrillic": re.compile("[\u0400-\u052f]"),
    "Greek": re.compile("[\u0370-\u03ff]"),
    "Arabic": re.compile("[\u0600-\u06ff\u0750-\u077f]"),
    "Hebrew": re.compile("[\u0590-\u05ff]"),
    "Devanagari": re.compile("[\u0900-\u097f]"),
    "Thai": re.compile("[\u0e00-\u0e7f]"),
}
_ASCII_WORDS, _NOT_ASCII = re.compile("[A-Za-z]+"), re.compile("[^\x00-\x7f]+")
HAN_SHARE, KANA_SHARE = 0.2, 0.15
"""A Chinese answer about code is mostly Latin letters; a Japanese text holds kana among its Han characters."""

ENOUGH = 1000
"""Characters of a message that tell its script."""


def script_of(conversation: Conversation) -> str:
    """``Latin``, ``Han``, another script's name, or nothing where there are no letters."""
    text = "\n".join(m.content[:ENOUGH] for m in conversation.messages if m.role in ("user", "assistant"))
    if text.isascii():
        return "Latin" if _ASCII_WORDS.search(text) else ""
    others = "".join(_NOT_ASCII.findall(text))
    counts = {name: len(pattern.findall(others)) for name, pattern in _SCRIPTS.items()}
    counts["Latin"] += sum(map(len, _ASCII_WORDS.findall(text)))
    letters = sum(counts.values())
    if not letters:
        return ""
    if counts["Kana"] > KANA_SHARE * (counts["Kana"] + counts["Han"]):
        counts["Kana"] += counts.pop("Han")
    elif counts["Han"] >= HAN_SHARE * letters:
        return "Han"
    return max(counts, key=lambda name: counts[name])


def language_of(script: str) -> str:
    """One of :data:`LANGUAGES`."""
    return {"Latin": "en", "Han": "zh", "": "none"}.get(script, "other")
