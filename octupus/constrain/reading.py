"""JSON read along, byte by byte, as far as masks need it that another grammar makes: strings, digits, keys."""

from __future__ import annotations

from typing import NamedTuple


class Reading(NamedTuple):
    """Where a JSON text stands."""

    inside: str = ""
    """``"`` inside a string, a backslash behind one there, else empty."""
    run: int = 0
    """Digits in a row, outside of strings."""
    used: tuple[frozenset[bytes] | None, ...] = ()
    """Of each object that is open the keys that it holds; None for a list."""
    key: bytes | None = None
    """The text of the key that is being written."""
    awaits_key: bool = False
    """Whether the next string is a key."""
    fresh: bool = True
    """Whether no key was written with an escape, and none twice in one object."""
    ended: tuple[tuple[int, bytes], ...] = ()
    """The keys that the last data ended, each with how many objects and lists it stands in."""

    def after(self, data: bytes) -> Reading:
        """Behind ``data``, which may follow here."""
        inside, run, used, key, awaits_key, fresh, _ = self
        ended: tuple[tuple[int, bytes], ...] = ()
        for byte in data:
            if inside:
                inside = "" if byte == 0x22 and inside == '"' else "\\" if byte == 0x5C and inside == '"' else '"'
                if key is not None and inside:
                    key += bytes((byte,))
                    fresh = fresh and byte != 0x5C
                elif key is not None:
                    if used and (held := used[-1]) is not None:
                        fresh, ended = fresh and key not in held, (*ended, (len(used), key))
                        used = (*used[:-1], held | {key})
                    key = None
                continue
            run = run + 1 if 0x30 <= byte <= 0x39 else 0
            if byte == 0x22:
                inside = '"'
                key, awaits_key = (b"" if awaits_key else None), False
            elif byte in b"{[":
                used, awaits_key = (*used, frozenset[bytes]() if byte == 0x7B else None), byte == 0x7B
            elif byte in b"}]":
                used, awaits_key = used[:-1], False
            elif byte == 0x2C:
                awaits_key = bool(used) and used[-1] is not None
        return Reading(inside, run, used, key, awaits_key, fresh, ended)


BEGIN = Reading()
