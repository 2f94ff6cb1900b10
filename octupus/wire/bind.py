"""A dialect bound to a tokenizer.

Inside wire/ a conversation is MARKED text: each added token is one lone surrogate, a character that no well-formed text
holds (:func:`plain` refuses text that does). So one string carries both, and text can never be taken for a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from octupus.errors import WireError
from octupus.wire.dialect import Dialect
from octupus.wire.messages import Frozen
from octupus.wire.tokenizer import Tokenizer

MARK = re.compile("([\ud800-\udfff])")


def plain(text: str) -> str:
    """``text`` if it is well-formed; raises UnicodeEncodeError on lone surrogates."""
    if not text.isascii():
        text.encode()
    return text


class Bound:
    """Marks, and the dialect with marks for its tokens.

    Raises:
        WireError: the tokenizer lacks a token that the dialect needs, or what must be a token is text.
    """

    def __init__(self, dialect: Dialect, tokenizer: Tokenizer) -> None:
        self.dialect, self.tokenizer = dialect, tokenizer
        added: Mapping[str, int] = tokenizer.added_tokens
        if len(added) > 2048:
            raise WireError(f"the tokenizer has {len(added)} added tokens; at most 2048 can be told apart")
        self._marks = {text: chr(0xD800 + i) for i, text in enumerate(added)}
        self._mark_of = {added[text]: mark for text, mark in self._marks.items()}
        self._id_of = {mark: id for id, mark in self._mark_of.items()}
        longest_first = sorted(filter(None, added), key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, longest_first)))
        calls = dialect.calls
        needed = [t.token for t in dialect.special_tokens] + [dialect.content, calls.open, calls.close, dialect.end]
        missing = [t for t in dict.fromkeys(needed) if t and t not in added]
        if missing:
            raise WireError(
                f"the tokenizer lacks {', '.join(missing)}, which dialect {dialect.name!r} needs as added tokens; "
                "run surgery on the base model first (make surgery, or python -m octupus.surgery --model X --out Y)"
            )
        self.end = dialect.end or next(text for text, id in added.items() if id == tokenizer.eos_id)
        # those that this dialect writes: the token table of the fingerprint
        self.tokens = {text: added[text] for text in [*self._added.findall(dialect.model_dump_json()), self.end]}
        d: Dialect = self.mark(dialect.model_copy(update={"end": self.end}))
        self.marked = d
        opens = (d.system.open, d.user.open, d.assistant, d.results.open + d.results.each_open)
        if not all(MARK.match(o) for o in opens) or MARK.search(d.tools.after_text + d.tools.open):
            raise WireError(f"dialect {dialect.name!r}: a turn must open with an added token of this tokenizer")
        self.opens = "".join(o[0] for o in opens)

    def mark(self, value: Any) -> Any:
        """Every fixed string with its tokens marked, leftmost and longest, as in a chat template's output."""
        if isinstance(value, str):
            return self._added.sub(lambda match: self._marks[match.group()], value)
        if isinstance(value, Frozen):
            return value.model_copy(update={name: self.mark(inner) for name, inner in value})
        return value

    def id_of(self, mark: str) -> int:
        """The token that a mark stands for."""
        return self._id_of[mark]

    def mark_of(self, id: int) -> str:
        """The mark of an added token; WireError where ``id`` is none."""
        if id not in self._mark_of:
            raise WireError(f"id {id} is no token of this tokenizer")
        return self._mark_of[id]

    def encode(self, marked: str) -> list[int]:
        """Marked text to ids; the text between two tokens is encoded as one string."""
        ids: list[int] = []
        for at, part in enumerate(MARK.split(marked)):
            if at % 2:
                ids.append(self._id_of[part])
            elif part:
                ids += self.tokenizer.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to marked text; WireError at an id that is neither text nor an added token."""
        parts: list[str] = []
        run: list[int] = []
        for id in ids:
            if self.tokenizer.token_bytes(id) is not None:
                run.append(id)
                continue
            parts += self.tokenizer.decode(run), self.mark_of(id)
            run = []
        return "".join([*parts, self.tokenizer.decode(run)])
