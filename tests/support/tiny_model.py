"""A checkpoint that vLLM can serve: the tiny tokenizer's folder with a random Qwen2 of 0.2 million parameters."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.tiny import tiny_folder, tiny_tokenizer


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write it to ``folder``; the same seed gives the same weights."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    shutil.copytree(tiny_folder(), folder)
    eos = tiny_tokenizer().eos_id
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=eos)
    model.save_pretrained(folder)
    return folder
