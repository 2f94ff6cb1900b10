"""A Hugging Face tokenizer folder as the wire format's Tokenizer, without transformers and without its traps.

Text is encoded by a tokenizer that knows no added tokens and no normaliser: what a user writes can
neither become a special token nor be changed (Qwen's own file normalises to NFC, and ``split_special_tokens`` of
transformers still matches added tokens that are not marked special, ``<tool_call>`` among them).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tiktoken
import tokenizers
from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octupus.errors import ConfigError, WireError
from octupus.wire import Dialect, Wire, make_dialect, read_wire
from octupus.wire.messages import canonical_json

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json")


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level BPE vocabulary (GPT-2's table), character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(hidden)}}


class HfTokenizer:
    """See :class:`octupus.wire.tokenizer.Tokenizer`.

    Args:
        spec: the content of ``tokenizer.json``.
        eos: the end-of-sequence token's string.
        chat_template: Jinja source, or None.
        where: names the folder in messages.

    Raises:
        ConfigError: not a byte-level BPE tokenizer, or EOS is no added token.
    """

    def __init__(self, spec: dict[str, Any], eos: str, chat_template: str | None = None, where: str = "") -> None:
        if spec["model"]["type"] != "BPE" or '"ByteLevel"' not in json.dumps(spec["pre_tokenizer"]):
            raise ConfigError(
                f"{where}: only byte-level BPE tokenizers (Qwen2, GPT-2, Llama 3) can carry the wire format"
            )
        self.spec, self.chat_template = spec, chat_template
        added = {t["content"]: int(t["id"]) for t in spec["added_tokens"]}
        self.added_tokens: Mapping[str, int] = MappingProxyType(added)
        if eos not in added:
            raise ConfigError(f"{where}: the end-of-sequence token {eos!r} is none of the tokenizer's added tokens")
        self.eos_id = added[eos]
        vocab = {t: i for t, i in spec["model"]["vocab"].items() if t not in added}
        self.size = 1 + max(max(vocab.values()), max(added.values()))
        self._bytes: list[bytes | None] = [None] * self.size
        latin = {ord(c): b for c, b in byte_alphabet().items()}
        for token, id in vocab.items():
            self._bytes[id] = token.translate(latin).encode("latin-1")
        self.encode: Callable[[str], list[int]] = _by_rank(spec, vocab, self._bytes) or _by_merges(spec, vocab)

    def decode(self, ids: Sequence[int]) -> str:
        table, size = self._bytes, self.size
        return b"".join(table[i] or b"" for i in ids if 0 <= i < size).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes | None:
        return self._bytes[id] if 0 <= id < self.size else None

    @cached_property
    def digest(self) -> str:
        model = dict(self.spec["model"])
        merges = [m if isinstance(m, str) else " ".join(m) for m in model.pop("merges")]
        vocab = sorted((id, token) for token, id in model.pop("vocab").items())
        value = [
            vocab,
            merges,
            self.spec["pre_tokenizer"],
            sorted(self.added_tokens.items()),
            bool(model.get("ignore_merges")),
        ]
        return hashlib.sha256(canonical_json(value).encode()).hexdigest()

    def render_template(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """As ``transformers`` renders it (same environment and filters).

        Raises:
            WireError: the folder has no template, or the template refuses these messages.
        """
        try:
            return self._template.render(messages=messages, eos_token=self.token(self.eos_id), **variables)
        except (TemplateError, TypeError, ValueError) as error:
            raise WireError(f"the checkpoint's chat template refused the conversation: {error}") from error

    @cached_property
    def _template(self) -> Template:
        if self.chat_template is None:
            raise WireError("this checkpoint has no chat template; name a dialect that needs none (octupus)")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self.chat_template)

    def token(self, id: int) -> str:
        """An added token's string."""
        return next(text for text, known in self.added_tokens.items() if known == id)


QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenizer; it leaves no character out."""


def _by_rank(
    spec: Mapping[str, Any], vocab: Mapping[str, int], tokens: Sequence[bytes | None]
) -> Callable[[str], list[int]] | None:
    """tiktoken's encoder, ten times as fast as :func:`_by_merges`, or None where the two might differ.

    tiktoken joins the neighbours whose union has the lowest id, a tokenizer.json the pair that stands first among its
    merges. That is the same where ids rise with the merges and each token has one merge: as long as two neighbours make
    up a token's bytes, every merge inside these bytes was one that the bytes alone would have seen, too.
    """
    split = {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False}
    pieces = spec["pre_tokenizer"].get("pretokenizers", [])
    model = spec["model"]
    merged = [vocab.get(m.replace(" ", "") if isinstance(m, str) else "".join(m)) for m in model["merges"]]
    if (
        len(pieces) != 2
        or pieces[0] != split
        or (pieces[1]["type"], pieces[1].get("use_regex"), pieces[1].get("add_prefix_space"))
        != ("ByteLevel", False, False)
        or None in merged
        or any(a >= b for a, b in pairwise(merged))  # type: ignore[operator]
        or len(merged) + 256 != len(vocab)
        or len({t for t in tokens if t is not None and len(t) == 1}) != 256
        or model.get("ignore_merges")
    ):
        return None
    ranks = {token: id for id, token in enumerate(tokens) if token is not None}
    known = tiktoken.Encoding("text", pat_str=QWEN2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(text: str) -> list[int]:
        if not text.isascii():
            text.encode()  # raises on lone surrogates, which tiktoken would replace
        return known.encode_ordinary(text)

    return encode


def _by_merges(spec: Mapping[str, Any], vocab: Mapping[str, int]) -> Callable[[str], list[int]]:
    bare = dict.fromkeys(("normalizer", "post_processor", "truncation", "padding"))
    plain = {**spec, **bare, "added_tokens": [], "model": {**spec["model"], "vocab": vocab}}
    text = tokenizers.Tokenizer.from_str(json.dumps(plain))

    def encode(some: str) -> list[int]:
        # the batch call is the one that need not track offsets: up to twice as fast
        ids: list[int] = text.encode_batch_fast([some], add_special_tokens=False)[0].ids
        return ids

    return encode


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # Jinja's own filter escapes HTML


def _refuse(message: str) -> None:
    raise TemplateError(message)


def load_tokenizer(folder: Path | str) -> HfTokenizer:
    """Read ``tokenizer.json``, ``tokenizer_config.json`` and, where there is one, ``chat_template.jinja``.

    Raises:
        ConfigError: a file is missing or unusable.
    """
    folder = Path(folder)
    spec, config = (_read(folder / name) for name in TEXT_FILES)
    eos = config.get("eos_token")
    eos = eos["content"] if isinstance(eos, dict) else eos
    if not isinstance(eos, str):
        raise ConfigError(f"{folder / 'tokenizer_config.json'}: no eos_token; add the token that ends a turn")
    beside = folder / "chat_template.jinja"
    template = beside.read_text(encoding="utf-8") if beside.is_file() else config.get("chat_template")
    if isinstance(template, list):  # several by name, an older form
        template = {t["name"]: t["template"] for t in template}.get("default")
    return HfTokenizer(spec, eos, template, str(folder))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; a model folder holds tokenizer.json and tokenizer_config.json")
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); fetch the model again") from error
    return value


def load_wire(folder: Path | str, dialect: str | None = None, system: str | None = None) -> tuple[Wire, HfTokenizer]:
    """The wire of a checkpoint: the value in its ``wire.json``, or ``dialect`` by name where it has none.

    Raises:
        WireError: neither is there, they disagree, or the fingerprint is not that of this tokenizer.
        ConfigError: no usable tokenizer.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    saved: Dialect | None = read_wire(folder, tokenizer)
    if saved is None and dialect is None:
        raise WireError(
            f"{folder} has no wire.json, so nothing says which wire format it was trained on; "
            "name it (wire.dialect=octupus, octupus-v1 or qwen; --dialect on the command line)"
        )
    if saved is not None and dialect is not None and saved.name != dialect:
        raise WireError(
            f"{folder / 'wire.json'} says dialect {saved.name!r}, but {dialect!r} was asked for; leave the dialect out"
        )
    value = saved if saved is not None else make_dialect(dialect or "", tokenizer)
    if system is not None:
        value = value.model_copy(update={"default_system": system})
    return Wire(value, tokenizer), tokenizer
