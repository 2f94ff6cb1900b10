"""A dialect bound to a tokenizer: fixed strings cut into ids and text, once, when a wire is made."""

from __future__ import annotations

import re

from octupus.errors import WireError
from octupus.wire.dialect import Dialect
from octupus.wire.grammar import Frame
from octupus.wire.tokenizer import Tokenizer

Pieces = tuple[int | str, ...]
"""A fixed string: token ids, and the text between them."""


class Bound:
    """The pieces of every fixed string of a dialect.

    Raises:
        WireError: the tokenizer lacks a token that the dialect needs, or a delimiter that must be a token is text.
    """

    def __init__(self, dialect: Dialect, tokenizer: Tokenizer) -> None:
        self.dialect, self.tokenizer = dialect, tokenizer
        self._added = tokenizer.added_tokens
        longest_first = sorted(filter(None, self._added), key=lambda t: (-len(t), t))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        calls = dialect.calls
        needed = [t.token for t in dialect.special_tokens]
        needed += [t for t in (dialect.content, calls.open, calls.close, dialect.end) if t]
        missing = [t for t in dict.fromkeys(needed) if t not in self._added]
        if missing:
            raise WireError(
                f"the tokenizer lacks {', '.join(missing)}, which dialect {dialect.name!r} needs as added tokens; "
                "run surgery on the base model first (make surgery, or python -m octupus.surgery --model X --out Y)"
            )
        self.system_open, self.system_close = self.fixed(dialect.system.open), self.fixed(dialect.system.close)
        self.user_open, self.user_close = self.fixed(dialect.user.open), self.fixed(dialect.user.close)
        self.assistant, self.reply = self.fixed(dialect.assistant), self.fixed(dialect.reply)
        self.after_end = self.fixed(dialect.after_end)
        results = dialect.results
        self.results_open, self.results_close = self.fixed(results.open), self.fixed(results.close)
        self.each_open, self.each_close = self.fixed(results.each_open), self.fixed(results.each_close)
        self.tools_close = self.fixed(dialect.tools.close)
        opens = [self.system_open, self.user_open, self.assistant, self.results_open + self.each_open]
        if not all(p and isinstance(p[0], int) for p in opens) or len(self.fixed(dialect.tools.open)) != 1:
            raise WireError(f"dialect {dialect.name!r}: every turn must open with an added token of this tokenizer")
        self.frame = Frame(
            content=self._added[dialect.content] if dialect.content else None,
            before_first_call=calls.after_content,
            between_calls=calls.between,
            call_open=self._added[calls.open],
            before_name=calls.before_name,
            separator=self._added.get(calls.separator, calls.separator),
            after_arguments=calls.after_arguments,
            call_close=self._added[calls.close] if calls.close else None,
            end=self._added[dialect.end] if dialect.end else tokenizer.eos_id,
        )

    def fixed(self, text: str) -> Pieces:
        """Leftmost, longest added tokens become ids, as in a chat template's output."""
        pieces: list[int | str] = []
        at = 0
        for match in self._pattern.finditer(text):
            pieces += [text[at : match.start()], self._added[match.group()]]
            at = match.end()
        return tuple(p for p in [*pieces, text[at:]] if p != "")

    def strings(self) -> dict[str, int]:
        """The added tokens that this dialect writes, the end of turn included."""
        used = {
            id for pieces in vars(self).values() if isinstance(pieces, tuple) for id in pieces if isinstance(id, int)
        }
        frame = (self.frame.content, self.frame.call_open, self.frame.separator, self.frame.call_close, self.frame.end)
        used |= {id for id in frame if isinstance(id, int)}
        return {text: id for text, id in self._added.items() if id in used}
