"""A base model out of nothing, for the demo and for tests: a byte-level BPE tokenizer and random Qwen2 weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder

from octupus.config import ScratchModel
from octupus.errors import ConfigError
from octupus.tokenizer import QWEN2_PATTERN

EOS, PAD = "<|endoftext|>", "<|pad|>"
SPARE_ROWS = 64
"""Embedding rows behind the tokenizer's last id, as Qwen2.5 has them: surgery's tokens fit without resizing."""


def byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    """``model`` with Qwen2's pre-tokenizer and the byte-level decoder, no normaliser, no added tokens."""
    tokenizer = tokenizers.Tokenizer(model)
    split = pre_tokenizers.Split(tokenizers.Regex(QWEN2_PATTERN), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A byte-level BPE of at most ``vocab_size`` ids, EOS and PAD last; one corpus always gives one tokenizer."""
    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (EOS, PAD)])
    return tokenizer


def save_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path, **config: Any) -> None:
    """``tokenizer.json`` and ``tokenizer_config.json`` as a Qwen2 checkpoint on the hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {t["id"]: t for t in json.loads(tokenizer.to_str())["added_tokens"]}
    value = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(id): {k: v for k, v in t.items() if k != "id"} for id, t in added.items()},
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": None,
        "model_max_length": 32768,
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def build(scratch: ScratchModel, corpus: Iterable[str], folder: Path) -> Path:
    """An ordinary Hugging Face folder (fp32 weights), as a base on the hub is; the same input gives the same bytes.

    ``scratch.vocab_size`` counts embedding rows; the tokenizer has at least ``SPARE_ROWS`` fewer ids.

    Raises:
        ConfigError: shapes that do not fit together.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    from octupus import mimetic

    if (
        scratch.hidden_size % scratch.heads
        or scratch.heads % scratch.kv_heads
        or scratch.hidden_size // scratch.heads % 2
    ):
        raise ConfigError(
            f"model.scratch: hidden_size {scratch.hidden_size} must be an even multiple of heads {scratch.heads}, "
            f"and heads a multiple of kv_heads {scratch.kv_heads}"
        )
    if scratch.vocab_size < 256 + 1 + SPARE_ROWS:
        raise ConfigError(f"model.scratch.vocab_size {scratch.vocab_size}: at least {256 + 1 + SPARE_ROWS} is needed")
    tokenizer = train_tokenizer(corpus, scratch.vocab_size - SPARE_ROWS)
    save_tokenizer(tokenizer, folder, model_max_length=scratch.max_positions)
    eos = tokenizer.token_to_id(EOS)
    config = Qwen2Config(
        vocab_size=scratch.vocab_size,
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        num_key_value_heads=scratch.kv_heads,
        max_position_embeddings=scratch.max_positions,
        tie_word_embeddings=scratch.tied,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(scratch.seed)
        model = Qwen2ForCausalLM(config)
        if scratch.mimetic:
            mimetic.start(model)
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=eos)
    model.save_pretrained(folder)
    return folder
