"""Which tokens would write a key with an escape, or one that its object holds already.

A token may hold a whole key, and what stands before and behind it. So each is judged by the same reading of its bytes
that a text is read by; once for each kind of place, because what it does to keys depends on little else.
"""

from __future__ import annotations

from collections import defaultdict

from octupus.constrain.reading import Reading
from octupus.constrain.vocabulary import Mask, Vocabulary

_Kind = tuple[str, bool, bool, bool]
"""Of a place: inside of what it is, whether that is a key, whether a key is awaited, whether in an object."""


class KeyTokens(dict[_Kind, "_Tokens"]):
    """The tokens of one vocabulary, by what they do to keys."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __missing__(self, kind: _Kind) -> _Tokens:
        return self.setdefault(kind, _Tokens(self._vocabulary, *kind))

    def prepare(self) -> None:
        """Work out every kind of place that a text comes to: each takes longer than a mask may."""
        for in_object in (False, True):
            for inside in ("", '"', "\\"):
                _ = self[inside, False, False, in_object]
        _ = self["", False, True, True], self['"', True, False, True]

    def fresh(self, found: Mask, reading: Reading) -> Mask:
        """Of these tokens those behind which every key is written as it is, and once in its object."""
        held = reading.used[-1] if reading.used else None
        known = self[reading.inside, reading.key is not None, reading.awaits_key, held is not None]
        found = found & known.allowed
        begun = reading.key or b""
        taken = [id for key in held or () if key.startswith(begun) for id in known.ending.get(key[len(begun) :], ())]
        for id in known.doubtful:
            if found[id >> 5] >> (id & 31) & 1 and not reading.after(self._vocabulary.tokens[id] or b"").fresh:
                taken.append(id)
        return found & ~self._vocabulary.pack(taken) if taken else found


class _Tokens:
    """What the tokens do in one kind of place."""

    def __init__(self, vocabulary: Vocabulary, inside: str, in_key: bool, awaits_key: bool, in_object: bool) -> None:
        self.ending: defaultdict[bytes, list[int]] = defaultdict(list)
        """Tokens by the key that they end in the object that they begin in (the rest of it, where it is begun)."""
        self.doubtful: list[int] = []
        """Tokens that only the whole reading can judge: they leave an object, or end two keys of one."""
        wrong = []
        for id, text in enumerate(vocabulary.tokens):
            if text is None or (b'"' not in text and not (in_key and b"\\" in text)):
                continue
            own = in_key or (awaits_key and text.lstrip()[:1] == b'"')  # the first key that it ends is of this object
            ways = []
            for above in (None, frozenset[bytes]()):  # inside of as many lists, or objects, as it can close
                used = (*[above] * len(text), frozenset[bytes]() if in_object else None)
                ways.append(Reading(inside, 0, used, b"" if in_key else None, awaits_key).after(text))
            keys = [key for depth, key in ways[0].ended if depth == len(text) + 1]
            if not any(way.fresh for way in ways):
                wrong.append(id)
            elif len(keys) > 1 or any(len(w.ended) > own or not w.fresh for w in ways if b"}" in text or b"]" in text):
                self.doubtful.append(id)
            elif keys:
                self.ending[keys[0]].append(id)
        self.allowed = ~vocabulary.pack(wrong)
