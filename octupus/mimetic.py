"""Attention that starts where trained models end up, for a scratch model that has minutes to learn to copy.

A. Trockman and J. Z. Kolter, "Mimetic Initialization of Self-Attention Layers" (arXiv 2305.09828): the products of
query and key weights, and of value and output weights, start near a multiple of the identity, so that a token first
attends to what resembles it and passes on what it attends to. The first layer looks at what has just been said
instead, by biases alone. All is random but for these correlations; no weight knows a token or a tool.
"""

from __future__ import annotations

from typing import Any

import torch

EMBEDDING_STD, QUERY_STD, VALUE_STD = 0.1, 0.1, 0.1
BIAS = 4.0
"""How sharply the first layer looks back."""
LOOKS_BACK = (1, 1, 2)
"""Distances at which the first heads of the first layer look back."""


@torch.no_grad()
def start(model: Any) -> None:
    """Set the attention weights of a Qwen2ForCausalLM in place, from torch's current random state."""
    config = model.config
    model.model.embed_tokens.weight.normal_(0, EMBEDDING_STD)
    theta = config.rope_parameters["rope_theta"]
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        if number == 0:
            _look_back(attention, config, theta)
        else:
            _resemble(attention, config)


def _resemble(attention: Any, config: Any) -> None:
    """Query times key, and value times output, near the identity; heads of a group share their keys and values."""
    size, group = attention.head_dim, config.num_attention_heads // config.num_key_value_heads
    attention.k_proj.weight.normal_(0, QUERY_STD)
    attention.v_proj.weight.normal_(0, VALUE_STD)
    for head in range(config.num_attention_heads):
        mine, shared = _rows(head, size), _rows(head // group, size)
        attention.q_proj.weight[mine] = attention.k_proj.weight[shared]
        attention.o_proj.weight[:, mine] = attention.v_proj.weight[shared].T


def _look_back(attention: Any, config: Any, theta: float) -> None:
    """Biases under which a head's score is highest at a fixed distance, whatever the tokens.

    RoPE turns pair i of a head at position p by p * theta**(-i / pairs); a query that is turned back by ``distance``
    meets the key of ``distance`` tokens ago in phase.
    """
    size, group = attention.head_dim, config.num_attention_heads // config.num_key_value_heads
    pairs = size // 2
    speed = theta ** (-torch.arange(pairs) / pairs)
    for number, distance in enumerate(LOOKS_BACK):
        head = number * group
        if head < config.num_attention_heads:
            key = torch.cat([torch.ones(pairs), torch.zeros(pairs)])
            query = torch.cat([torch.cos(speed * distance), -torch.sin(speed * distance)])
            attention.k_proj.bias[_rows(head // group, size)] = BIAS * key
            attention.q_proj.bias[_rows(head, size)] = BIAS * query


def _rows(head: int, size: int) -> slice:
    return slice(head * size, (head + 1) * size)
