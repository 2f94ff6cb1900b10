"""A tokenizer's tokens as bytes: what masks are made of. Added tokens and padding ids have none and are in no mask.

A mask is a packed int32 array of ``Vocabulary.words`` words; token ``i`` is bit ``i % 32`` of word ``i // 32``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octupus.wire.tokenizer import Tokenizer

Mask = NDArray[np.int32]

# UTF-8 as an automaton over bytes (Unicode 16, table 3-7): state -> ranges of (first byte, last byte, next state).
# State 0 stands between characters; 1 to 3 need that many continuation bytes; 4 to 7 follow E0, ED, F0, F4, whose
# second byte is narrower.
_FIRST = ((0x00, 0x7F, 0), (0xC2, 0xDF, 1), (0xE0, 0xE0, 4), (0xE1, 0xEC, 2), (0xED, 0xED, 5), (0xEE, 0xEF, 2))
_UTF8 = (
    (*_FIRST, (0xF0, 0xF0, 6), (0xF1, 0xF3, 3), (0xF4, 0xF4, 7)),
    ((0x80, 0xBF, 0),),
    ((0x80, 0xBF, 1),),
    ((0x80, 0xBF, 2),),
    ((0xA0, 0xBF, 1),),
    ((0x80, 0x9F, 1),),
    ((0x90, 0xBF, 2),),
    ((0x80, 0x8F, 2),),
)
UTF8_STEP: tuple[tuple[int, ...], ...] = tuple(
    tuple(next((to for low, high, to in ranges if low <= byte <= high), -1) for byte in range(256)) for ranges in _UTF8
)
"""``UTF8_STEP[state][byte]``: the next state, or -1 where the byte cannot stand there."""


def utf8_after(state: int, data: bytes) -> int:
    """The UTF-8 state after ``data``, or -1."""
    for byte in data:
        state = UTF8_STEP[state][byte]
        if state < 0:
            return -1
    return state


class Trie:
    """A node of the byte trie over the tokens, unfolded on first visit: most of it is never visited.

    Args:
        tokens: all of them, sorted.
        ids: in the same order.
        low, high: those whose first ``depth`` bytes lead here.
    """

    __slots__ = ("_all_ids", "_children", "_depth", "_high", "_low", "_tokens", "ids")

    def __init__(self, tokens: Sequence[bytes], ids: Sequence[int], low: int, high: int, depth: int) -> None:
        self._tokens, self._all_ids, self._high, self._depth = tokens, ids, high, depth
        self._children: dict[int, Trie] | None = None
        self._low = low
        while self._low < high and len(tokens[self._low]) == depth:
            self._low += 1
        self.ids = ids[low : self._low]
        """The tokens that end here."""

    @property
    def children(self) -> dict[int, Trie]:
        if self._children is None:
            found, at, tokens, depth = {}, self._low, self._tokens, self._depth
            while at < self._high:
                prefix = tokens[at][: depth + 1]
                byte = prefix[-1]
                last = byte == 255 or at + 1 == self._high
                end = self._high if last else bisect_left(tokens, prefix[:-1] + bytes([byte + 1]), at + 1, self._high)
                found[byte] = Trie(tokens, self._all_ids, at, end, depth + 1)
                at = end
            self._children = found
        return self._children

    def below(self) -> Iterator[tuple[bytes, int]]:
        """(what follows this node, token) of every token further down."""
        for at in range(self._low, self._high):
            yield self._tokens[at][self._depth :], self._all_ids[at]

    def __len__(self) -> int:
        """How many tokens end further down."""
        return self._high - self._low


# What a JSON string holds as Python's json writes it: characters, short escapes, \u00xx for other control characters.
_ESCAPE = rb'\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]))'
_CONTENT = re.compile(rb'(?:[^\x00-\x1f"\\]|' + _ESCAPE + rb")*")
_DIGITS = re.compile(rb"[0-9]+")
_OPEN_ESCAPE = re.compile(rb"\\(?:u(?:0(?:0[01]?)?)?)?\Z")


class Tail:
    """What tokens hold behind the quote that closes a string, as a trie."""

    __slots__ = ("children", "ends")

    def __init__(self) -> None:
        self.children: dict[int, Tail] = {}
        self.ends: list[tuple[int, int]] = []
        """(characters before the quote, token)."""


class StringTokens:
    """What the tokens below a trie node do inside a JSON string, between two characters.

    Args:
        tokens: (what follows the node, token).
    """

    def __init__(self, vocabulary: Vocabulary, tokens: Iterable[tuple[bytes, int]]) -> None:
        self._vocabulary = vocabulary
        self._masks: dict[int, Mask] = {}
        self.tail = Tail()
        self.longest = 0
        """Characters that a token can hold of the string."""
        inside: dict[int, list[int]] = {}
        for text, id in tokens:
            if not text.isascii() and utf8_after(0, text) < 0:
                continue
            content = _CONTENT.match(text)
            assert content is not None
            end, characters = content.end(), _characters(content.group())
            self.longest = max(self.longest, characters + 1)
            if end == len(text):
                inside.setdefault(characters, []).append(id)
            elif text[end] == 0x22:
                node = self.tail
                for byte in text[end + 1 :]:
                    node = node.children.setdefault(byte, Tail())
                node.ends.append((characters, id))
            elif _OPEN_ESCAPE.match(text, end):
                inside.setdefault(characters + 1, []).append(id)
        needs = sorted(inside)
        self._inside = np.array([id for need in needs for id in inside[need]], np.int64)
        """Tokens that do not close the string, by how many characters they need."""
        self._fit = {need: sum(len(inside[n]) for n in needs if n <= need) for need in range(self.longest + 1)}

    def inside(self, room: int | None) -> Mask:
        """Tokens that do not close the string and need at most ``room`` characters (None: any number)."""
        room = self.longest if room is None or room > self.longest else room
        mask = self._masks.get(room)
        if mask is None:
            mask = self._masks.setdefault(room, self._vocabulary.pack(self._inside[: self._fit[room]]))
        return mask


def _characters(content: bytes) -> int:
    """How many; one counts where its first byte stands, so that an open one counts."""
    if b"\\" in content:
        content = re.sub(_ESCAPE, b"e", content)
    return len(content) if content.isascii() else sum((byte & 0xC0) != 0x80 for byte in content)


class Vocabulary:
    """Token bytes with everything that masks are built from.

    Args:
        token_bytes: the bytes of each id; None (or empty) for added tokens and padding ids.
        eos_id: the tokenizer's end of text (only adapters use it: what ends a turn is in the grammar).
        encode: text to ids. Only llguidance asks: where a text is forced it allows the tokenizer's own tokens for it.
    """

    def __init__(
        self, token_bytes: Sequence[bytes | None], eos_id: int, encode: Callable[[str], list[int]] | None = None
    ) -> None:
        self.encode = encode
        self.tokens = tuple(token or None for token in token_bytes)
        self.eos_id, self.size = eos_id, len(self.tokens)
        self.words = (self.size + 31) // 32
        ids = sorted((id for id, t in enumerate(self.tokens) if t is not None), key=lambda id: self.tokens[id] or b"")
        # Two flat lists, not pairs: the garbage collector would walk through 150,000 of those again and again.
        self.trie = Trie([self.tokens[id] or b"" for id in ids], ids, 0, len(ids), 0)
        self.crosses_keys = any(_CROSSING.search(text) for text in self.tokens if text is not None)
        """Whether a token may hold, in canonical spacing, the end of a value and more of the next key than its quote,
        or a key and its value: then positions with different keys are never alike. Byte-level BPE with a usual
        pre-tokenizer has none. Its tokens that hold a key's quote and more of it, even all (` "."`), stand only where a
        key is awaited, and such positions are never alike anyway."""
        self._strings: dict[int, StringTokens] = {}

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Vocabulary:
        return cls([tokenizer.token_bytes(id) for id in range(tokenizer.size)], tokenizer.eos_id, tokenizer.encode)

    def pack(self, ids: Sequence[int] | NDArray[np.int64]) -> Mask:
        """A mask with these bits; read-only, because masks are shared."""
        if len(ids) < 128:
            words: dict[int, int] = {}
            for id in map(int, ids):
                words[id >> 5] = words.get(id >> 5, 0) | 1 << (id & 31)
            mask = np.zeros(self.words, np.uint32)
            mask[list(words)] = list(words.values())
            return _shared(mask)
        bits = np.zeros(self.words * 32, np.uint8)
        bits[np.asarray(ids)] = 1
        return _shared(np.packbits(bits, bitorder="little"))

    def unpack(self, mask: Mask) -> list[int]:
        """The ids whose bits are set."""
        found: list[int] = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        return found

    @cached_property
    def _texts(self) -> tuple[Mask, ...]:
        tokens = [(t, id) for id, t in enumerate(self.tokens) if t is not None]
        return tuple(
            self.pack([id for t, id in tokens if (state == 0 and t.isascii()) or utf8_after(state, t) >= 0])
            for state in range(len(UTF8_STEP))
        )

    def text(self, state: int) -> Mask:
        """Tokens that keep UTF-8 whole from this state on (a character may be left open at the end)."""
        return self._texts[state]

    def spelling(self, text: bytes, ends: bool) -> list[int]:
        """The tokens that write ``text``; where it goes on, only those that no longer token could take the place of."""
        if self.encode is None:
            return []
        ids, at, data = self.encode(text.decode(errors="ignore")), 0, text
        for place, id in enumerate(ids):
            node: Trie | None = self.trie
            for byte in data[at:]:
                node = node.children.get(byte) if node is not None else None
            if not ends and node is not None and len(node):
                return ids[:place]
            at += len(self.tokens[id] or b"")
        return ids

    def begins(self, text: bytes) -> bool:
        """Whether ``text`` is the beginning of a token, or all of one."""
        node: Trie | None = self.trie
        for byte in text:
            node = node.children.get(byte) if node is not None else None
        return node is not None

    @cached_property
    def plain(self) -> bytes:
        """For each token whether it is some whole characters of a JSON string."""
        return bytes(
            t is not None and _CONTENT.fullmatch(t) is not None and (t.isascii() or utf8_after(0, t) == 0)
            for t in self.tokens
        )

    @cached_property
    def longest_digits(self) -> int:
        """Digits in a row that a token can hold."""
        return max((len(run) for t in self.tokens if t is not None for run in _DIGITS.findall(t)), default=0)

    def string(self, node: Trie) -> StringTokens:
        """What the tokens below ``node`` do inside a JSON string."""
        table = self._strings.get(id(node))
        if table is None:
            table = self._strings.setdefault(id(node), StringTokens(self, node.below()))
        return table


def _shared(bits: NDArray[Any]) -> Mask:
    mask = bits.view(np.int32)
    mask.flags.writeable = False
    return mask


# What opens a key stands behind `{` or `, `; other braces stand inside a string, which the quote closes.
_CROSSING = re.compile(rb'(?:\A|[\[ ])\{"[^"\]},:]|, "[^"\]},:]|": .')
