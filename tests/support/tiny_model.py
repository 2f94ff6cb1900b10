"""A checkpoint that vLLM can serve: the tiny tokenizer's folder with random Qwen2 weights, written without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from octupus.tokenizer import load_tokenizer
from tests.support.tiny import tiny_folder, tiny_instruct_folder

INNER, LAYERS, HEADS = 128, 2, 2


def tiny_model(folder: Path, seed: int = 0, instruct: str = "") -> Path:
    """Write it to ``folder``; the same seed gives the same weights. ``instruct``: with the tokenizer of ``qwen2_5``."""
    source = tiny_instruct_folder(instruct) if instruct else tiny_folder()
    shutil.copytree(source, folder)
    random_qwen2(folder, rows=1024, hidden=64, eos=load_tokenizer(source).eos_id, seed=seed)
    return folder


def random_qwen2(folder: Path, rows: int, hidden: int, eos: int, seed: int = 0) -> None:
    """``config.json`` and ``model.safetensors`` of two layers and ``rows`` tied embeddings."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "float32",
        "vocab_size": rows,
        "hidden_size": hidden,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 65536,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "eos_token_id": eos,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.02, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": drawn(rows, hidden), "model.norm.weight": np.ones(hidden, np.float32)}
    for layer in range(LAYERS):
        inside = {f"self_attn.{name}_proj.weight": drawn(hidden, hidden) for name in "qkvo"}
        inside |= {f"self_attn.{name}_proj.bias": drawn(hidden) for name in "qkv"}
        inside |= {f"mlp.{name}_proj.weight": drawn(INNER, hidden) for name in ("gate", "up")}
        inside |= {f"{name}_layernorm.weight": np.ones(hidden, np.float32) for name in ("input", "post_attention")}
        inside["mlp.down_proj.weight"] = drawn(hidden, INNER)
        weights |= {f"model.layers.{layer}.{name}": value for name, value in inside.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
