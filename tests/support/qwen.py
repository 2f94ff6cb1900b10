"""The real Qwen2.5 vocabulary, from the BPE ranks inside the installed qwen_agent package (a dev dependency)."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import tempfile
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models, normalizers

from octupus.scratch import byte_level, save_tokenizer
from octupus.surgery import extend_tokenizer
from octupus.tokenizer import HfTokenizer, byte_alphabet, load_tokenizer
from octupus.wire import Wire
from octupus.wire.dialect import OCTUPUS

CACHE = Path(__file__).resolve().parents[2] / ".cache/qwen-tokenizer"

SPECIAL = [
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>",
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>",
]
ORDINARY = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
)


def qwen_folder() -> Path:
    """Qwen2.5's tokenizer as the hub has it (151,665 ids, NFC normaliser); skips where the ranks are not installed."""
    if not (CACHE / "tokenizer_config.json").is_file():
        spec = importlib.util.find_spec("qwen_agent")
        ranks = Path(spec.origin).parent / "utils/qwen.tiktoken" if spec is not None and spec.origin else None
        if ranks is None or not ranks.is_file():
            pytest.skip("the Qwen vocabulary comes with qwen-agent, which is not installed (make setup)")
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="qwen-", dir=CACHE.parent))
        _build(ranks, scratch)
        try:
            os.rename(scratch, CACHE)
        except OSError:  # another test process was first
            shutil.rmtree(scratch)
    return CACHE


def _build(ranks_file: Path, folder: Path) -> None:
    lines = (line.split() for line in ranks_file.read_bytes().splitlines() if line.strip())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    letters = {byte: char for char, byte in byte_alphabet().items()}

    def spelt(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _parts(token, rank, ranks)
            merges.append((spelt(left), spelt(right)))
    tokenizer = byte_level(models.BPE({spelt(t): r for t, r in ranks.items()}, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in " ".join(SPECIAL).split()])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ORDINARY.split()])
    save_tokenizer(tokenizer, folder)


def _parts(token: bytes, rank: int, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens whose merge makes this one: BPE over its bytes with only the merges of lower rank."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        pairs = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(parts))]
        best, at = min(pairs)
        if best >= rank:
            return parts
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def instruct_spec(spec: dict[str, Any], template: str) -> dict[str, Any]:
    """``spec`` with the added tokens of Qwen2.5 (or, for its template, Qwen3) that it lacks."""
    names = {t: True for t in " ".join(SPECIAL).split()} | dict.fromkeys(ORDINARY.split(), False)
    if template != "qwen2_5":
        names |= dict.fromkeys(["<tool_response>", "</tool_response>", "<think>", "</think>"], False)
    added = list(spec["added_tokens"])
    next_id = 1 + max(spec["model"]["vocab"].values())
    next_id = max([next_id, *(1 + t["id"] for t in added)])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for name in [n for n in names if n not in {t["content"] for t in added}]:
        added.append({"id": next_id, "content": name, "special": names[name], **flags})
        next_id += 1
    return {**spec, "added_tokens": added}


def instruct_template(template: str) -> str:
    """The chat template of an instruct checkpoint: ``qwen2_5`` or ``qwen3``; skips where TRL is not installed."""
    spec = importlib.util.find_spec("trl")
    if spec is None or not spec.origin:
        pytest.skip("the templates of the instruct models come with trl, which is not installed (make setup)")
    return (Path(spec.origin).parent / f"chat_templates/{template}.jinja").read_text(encoding="utf-8")


@cache
def qwen_instruct(template: str) -> HfTokenizer:
    """Qwen2.5's (``qwen2_5``) or Qwen3's (``qwen3``) instruct tokenizer, with the real vocabulary."""
    return HfTokenizer(instruct_spec(qwen_spec(), template), "<|im_end|>", instruct_template(template))


@cache
def qwen_spec() -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((qwen_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    return spec


@cache
def qwen_octupus() -> HfTokenizer:
    """Qwen2.5's tokenizer after surgery: the seven tokens at 151665 to 151671, no normaliser."""
    return HfTokenizer(extend_tokenizer(qwen_spec(), OCTUPUS), "<|endoftext|>")


@cache
def qwen_base() -> HfTokenizer:
    return load_tokenizer(qwen_folder())


@cache
def qwen_wire() -> Wire:
    return Wire(OCTUPUS, qwen_octupus())
