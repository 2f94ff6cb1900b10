"""The scratch model's start: its first layer looks back, its other layers attend to what resembles."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from octupus import mimetic


def model(kv_heads: int) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        attn_implementation="eager",
    )
    made = Qwen2ForCausalLM(config).eval()
    mimetic.start(made)
    return made


def test_heads_of_the_first_layer_look_back_by_their_distance() -> None:
    ids = torch.randint(0, 64, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = model(4)(ids, output_attentions=True, use_cache=False).attentions[0][0]
    for head, distance in enumerate(mimetic.LOOKS_BACK):
        seen = first[head].argmax(-1)[8:]
        at = torch.arange(40)[8:] - distance
        assert (seen == at).float().mean() > 0.9, f"head {head}"


def test_later_layers_attend_to_what_resembles_also_with_shared_keys() -> None:
    for kv_heads in (4, 2):
        attention = model(kv_heads).model.layers[1].self_attn
        group = 4 // kv_heads
        for head in range(4):
            mine, shared = slice(head * 32, head * 32 + 32), slice(head // group * 32, head // group * 32 + 32)
            product = attention.q_proj.weight[mine].T @ attention.k_proj.weight[shared]
            off = product - torch.diag(torch.diag(product))
            assert torch.diag(product).mean() > 4 * off.abs().mean()
            passed = attention.o_proj.weight[:, mine] @ attention.v_proj.weight[shared]
            assert torch.diag(passed).mean() > 0.2
