"""What the wire format needs of a tokenizer; ``octupus.tokenizer.HfTokenizer`` is the implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Ids in, ids out. Text and added tokens never meet: no method turns a string into an added token."""

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; ``<|endoftext|>`` in it stays text. Raises UnicodeEncodeError on lone surrogates."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of text tokens; broken UTF-8 becomes U+FFFD, added tokens become nothing."""
        ...

    def token_bytes(self, id: int) -> bytes | None:
        """The bytes of a text token; None for added tokens, padding rows and ids that do not exist."""
        ...

    def render_template(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The checkpoint's own chat template over OpenAI messages (``tools``, ``add_generation_prompt`` ... by name)."""
        ...

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """Every added token by its string, special or not."""
        ...

    @property
    def eos_id(self) -> int: ...

    @property
    def size(self) -> int:
        """1 + the highest id."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over vocabulary, merges, pre-tokenizer and added tokens."""
        ...

    @property
    def chat_template(self) -> str | None: ...
