"""What makes an answer unfit to train on; the first reason that holds is the one recorded.

Each gate looks for one way in which teachers go wrong and is meant to spare what only resembles it: an apology that is
no refusal, a refrain that is no loop, a name that the user brought up.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import groupby

from octupus.config import GATES, Gate
from octupus.teacher import words
from octupus.teacher.protocol import Candidate

MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<tool_call>", "</tool_call>", "[INST]")
"""Template tokens of common teachers; none belongs into an answer unless the user wrote it."""

_HAN, _LATIN = re.compile("[\u3400-\u9fff\uf900-\ufaff]"), re.compile(r"[A-Za-z]{2,}")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_QUOTED = re.compile(r"“[^”\n]{,400}”|\"[^\"\n]{,400}\"|「[^」\n]{,400}」|^>.*$", re.MULTILINE)
_REFUSAL_WITHIN = 200
"""A refusal stands at the beginning; further on the words are a story's or an e-mail's."""
_SHORT, _SHORT_HAN = 25, 10
"""Fewer characters than that explain nothing (Chinese says more with each)."""
_WINDOW, _LOOPED = 1000, 0.09
"""A stretch of so many characters that packs to this share or less says the same again and again (prose: 0.45)."""
_SAME_LINES = 8
"""So many equal lines in a row, with letters in them, are a loop."""
_TAIL, _TURNS = 160, 4
"""An answer whose last characters are one piece, repeated so often."""


@dataclass(frozen=True)
class Asked:
    """What an answer is an answer to."""

    user: str
    """The last user text."""
    said: str = ""
    """Everything that was said before, system text and user turns: what the teacher may have its words from."""


def _letters(text: str) -> tuple[int, int]:
    """Chinese characters and words in Latin letters, code and links left out."""
    prose = _CODE.sub(" ", text)
    return len(_HAN.findall(prose)), len(_LATIN.findall(prose))


def _wrong_language(asked: Asked, said: str) -> str | None:
    if words.OTHER_LANGUAGE.search(asked.said):
        return None
    (han, latin), (our_han, our_latin) = _letters(asked.user), _letters(said)
    if han >= 4 and han > latin and our_latin >= 8 and our_han * 10 < our_latin:
        return "Latin letters for a Chinese prompt"
    if not han and latin >= 4 and our_han >= 8 and our_han > our_latin:
        return "Chinese for a prompt in Latin letters"
    return None


def _too_short(asked: Asked, said: str) -> str | None:
    if not words.AT_LENGTH.search(asked.user) or words.BRIEF.search(asked.user):
        return None
    least = _SHORT_HAN if _HAN.search(said) else _SHORT
    return f"{len(said)} characters" if len(said) < least else None


def _repetition_loop(asked: Asked, said: str) -> str | None:
    tail = said[-_TAIL:]
    if len(tail) == _TAIL and (unit := _period(tail)) <= _TAIL // _TURNS and re.search(r"\w", tail[:unit]):
        return f"ends with {tail[:unit]!r} again and again"
    for line, same in groupby(said.splitlines()):
        if sum(1 for _ in same) >= _SAME_LINES and any(map(str.isalpha, line)):
            return f"the line {line[:60]!r} again and again"
    for begin in range(0, max(1, len(said) - _WINDOW + 1), _WINDOW // 2):
        piece = said[begin : begin + _WINDOW]
        packed, wordy = piece.encode(), len(_LATIN.findall(piece)) >= 20 or len(_HAN.findall(piece)) >= 60
        # Rows of dashes or zeros pack as well: what loops holds words.
        if wordy and len(piece) == _WINDOW and len(zlib.compress(packed, 6)) <= _LOOPED * len(packed):
            return f"the same words again and again from character {begin} on"
    return None


def _period(text: str) -> int:
    """The shortest ``p`` with ``text[i] == text[i + p]`` throughout (the failure function of Knuth, Morris, Pratt)."""
    fail = [0] * len(text)
    for i in range(1, len(text)):
        k = fail[i - 1]
        while k and text[i] != text[k]:
            k = fail[k - 1]
        fail[i] = k + (text[i] == text[k])
    return len(text) - fail[-1]


def _refusal(asked: Asked, said: str) -> str | None:
    found = words.REFUSAL.search(_QUOTED.sub(" ", said[:_REFUSAL_WITHIN]))
    return None if found is None else found[0].strip()


def _leaked(asked: Asked, said: str) -> str | None:
    return next((mark for mark in MARKS if mark in said and mark not in asked.said), None)


def _names_itself(asked: Asked, said: str) -> str | None:
    found = words.NAMES_ITSELF.search(_QUOTED.sub(" ", said))
    return None if found is None else found[0]


def _repeats(asked: Asked, said: str) -> str | None:
    return "" if said == asked.user.strip() else None


_OF_TEXT: Mapping[Gate, Callable[[Asked, str], str | None]] = {
    "leaked template token": _leaked,
    "repeats the prompt": _repeats,
    "repetition loop": _repetition_loop,
    "refusal": _refusal,
    "names itself": _names_itself,
    "wrong language": _wrong_language,
    "too short": _too_short,
}


def judge(asked: Asked, candidate: Candidate, gates: Collection[Gate] = GATES) -> str | None:
    """Why a candidate must not be used, ``gate: detail``, or None."""
    if candidate.finish_reason == "length" and "cut by length" in gates:
        return "cut by length"
    said = candidate.text.strip()
    if candidate.calls and not said:
        return None
    if not said:
        return "empty" if "empty" in gates else None
    for gate, look in _OF_TEXT.items():
        if gate in gates and (detail := look(asked, said)) is not None:
            return f"{gate}: {detail}" if detail else gate
    return None
