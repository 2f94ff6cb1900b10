"""The constraint inside ``transformers.generate``: whatever a model without any training writes is legal."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from octupus.constrain import Constraint, Vocabulary
from octupus.constrain.logits_processor import ConstraintLogitsProcessor
from octupus.errors import ConstraintError
from octupus.wire import Message, ResponseFormat, ToolChoice
from tests.support.tiny import tiny_wire
from tests.unit.constrain.walk import TOOLS, judge, tools


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    size = -(-tiny_wire().tokenizer.size // 64) * 64  # more rows than tokens, as real checkpoints have
    config = Qwen2Config(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.mark.parametrize(
    "options", [{"do_sample": True}, {"num_beams": 3}, {"do_sample": True, "num_beams": 2}], ids=str
)
def test_generated_calls_are_legal(model: Qwen2ForCausalLM, options: dict) -> None:
    wire = tiny_wire()
    constraint = Constraint(Vocabulary.from_tokenizer(wire.tokenizer))
    city = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 4}}, "required": ["city"]}
    specs = [{"name": "get_weather", "parameters": city}, TOOLS[1]]
    prompt = wire.render_prompt((Message(role="user", content="Weather in Paris?"),), tools(specs))
    grammar = wire.grammar(tools(specs), ToolChoice(mode="required"), False, ResponseFormat())
    inputs = torch.tensor([prompt] * 4)
    processor = ConstraintLogitsProcessor(
        constraint, grammar, prompt_length=inputs.shape[1], beams=options.get("num_beams", 1)
    )
    out = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        logits_processor=[processor],
        max_new_tokens=150,
        eos_token_id=wire.end_id,
        pad_token_id=wire.end_id,
        **options,
    )
    whole = 0
    for row in out[:, inputs.shape[1] :].tolist():
        if wire.end_id in row:
            whole += 1
            assert judge(wire, row[: row.index(wire.end_id) + 1], specs)[1]
    assert whole


def test_a_foreign_token_is_an_error() -> None:
    wire = tiny_wire()
    constraint = Constraint(Vocabulary.from_tokenizer(wire.tokenizer))
    grammar = wire.grammar(tools(), ToolChoice(), True, ResponseFormat())
    processor = ConstraintLogitsProcessor(constraint, grammar, prompt_length=1)
    scores = torch.zeros((1, wire.tokenizer.size + 5))
    assert processor(torch.tensor([[0]]), scores).isfinite().sum() == 2
    with pytest.raises(ConstraintError):
        processor(torch.tensor([[0, wire.end_id]]), scores)
