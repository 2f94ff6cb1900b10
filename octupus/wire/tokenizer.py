"""What the wire format needs of a tokenizer; ``octupus.tokenizer.HfTokenizer`` is the implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text and added tokens never meet: no method turns a string into an added token.

    ``size`` is 1 + the highest id; ``digest`` a SHA-256 over vocabulary, merges, pre-tokenizer and added tokens.
    """

    def encode(self, text: str) -> list[int]: ...  # plain text: "<|endoftext|>" in it stays text
    def decode(self, ids: Sequence[int]) -> str: ...  # text tokens only; broken UTF-8 becomes U+FFFD
    def token_bytes(self, id: int) -> bytes | None: ...  # None for added tokens and ids that do not exist
    def render_template(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str: ...  # its own template

    @property
    def added_tokens(self) -> Mapping[str, int]: ...  # every one, special or not
    @property
    def eos_id(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def chat_template(self) -> str | None: ...
