"""The laws of the wire format, on 1,000 generated conversations each; a share of them with Qwen2.5's real vocabulary.

Law 4 (alignment with the constraint) is tests/unit/test_alignment.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octupus.wire import Conversation, Message, Wire
from tests.support.conversations import conversations, normal, openai_messages
from tests.support.laws import check_one_turn_in_any_chunks, encoded, examples
from tests.support.qwen import qwen_wire
from tests.support.tiny import tiny_folder, tiny_wire


def expected_structure(wire: Wire, conversation: Conversation) -> list[tuple[str, bool]]:
    """Added tokens and whether they are supervised, from the roles alone: an independent reading of WIRE.md."""
    found = [("<|SYSTEM|>", False)]
    names = {"user": "<|USER|>", "tool": "<|FUNCTION_OUTPUT|>", "assistant": "<|ASSISTANT|>"}
    for message in conversation.messages:
        if message.role == "system":
            continue
        found.append((names[message.role], False))
        if message.role == "assistant":
            found += [("<|CONTENT|>", True)] if message.content else []
            found += [("<|FUNCTION_CALL|>", True), ("<|PARAMETERS|>", True)] * len(message.tool_calls)
            found.append(("<|endoftext|>", True))
    return found


def check_one_pass(wire: Wire, conversation: Conversation) -> None:
    rendered = wire.render(conversation)
    assert len(rendered.ids) == len(rendered.mask)
    inside = False
    for id, supervised in zip(rendered.ids, rendered.mask, strict=True):
        assert supervised == inside, "supervised: what follows <|ASSISTANT|>, its EOS included, and nothing else"
        if id == wire.tokenizer.added_tokens["<|ASSISTANT|>"]:
            inside = True
        elif id == wire.tokenizer.eos_id:
            inside = False
    turns = [m for m in conversation.messages if m.role == "assistant"]
    assert len(wire.turns(rendered)) == len(turns)
    assert [id for _, ids in wire.turns(rendered) for id in ids] == [
        id for id, on in zip(rendered.ids, rendered.mask, strict=True) if on
    ]


def check_text_stays_text(wire: Wire, conversation: Conversation) -> None:
    names = {id: text for text, id in wire.tokenizer.added_tokens.items()}
    rendered = wire.render(conversation)
    structure = [(names[i], on) for i, on in zip(rendered.ids, rendered.mask, strict=True) if i in names]
    assert structure == expected_structure(wire, conversation)
    run: list[int] = []
    for id in [*rendered.ids, wire.tokenizer.eos_id]:
        if id in names:
            assert wire.tokenizer.encode(wire.tokenizer.decode(run)) == run, "each run of text is encoded as one string"
            run = []
        else:
            run.append(id)


def check_round_trip(wire: Wire, conversation: Conversation, cut: int) -> None:
    rendered = wire.render(conversation)
    assert wire.parse(rendered.ids) == normal(wire, conversation)
    answers = [m for m in normal(wire, conversation).messages if m.role == "assistant"]
    for answer, (start, ids) in zip(answers, wire.turns(rendered), strict=True):
        check_one_turn_in_any_chunks(wire, ids, answer, cut)
        assert rendered.ids[start - 1] == wire.tokenizer.added_tokens["<|ASSISTANT|>"]


def check_prompt(wire: Wire, conversation: Conversation) -> None:
    """The prompt before an assistant turn is the training example up to that turn: training and serving meet here."""
    rendered = wire.render(conversation)
    messages = conversation.messages
    for (start, _), at in zip(
        wire.turns(rendered), [i for i, m in enumerate(messages) if m.role == "assistant"], strict=True
    ):
        prompt = wire.render_prompt(messages[:at], conversation.tools)
        assert prompt == rendered.ids[:start]
        if at:
            expected = normal(wire, Conversation(messages=messages[:at], tools=conversation.tools))
            assert wire.parse(prompt) == expected


@examples(1000)
@given(conversations())
def test_law_1_one_pass(conversation: Conversation) -> None:
    check_one_pass(tiny_wire(), conversation)


@examples(1000)
@given(conversations())
def test_law_2_text_stays_text(conversation: Conversation) -> None:
    check_text_stays_text(tiny_wire(), conversation)


@examples(1000)
@given(conversations(), st.integers(0, 1000))
def test_law_3_round_trip(conversation: Conversation, cut: int) -> None:
    check_round_trip(tiny_wire(), conversation, cut)


@examples(1000)
@given(conversations())
def test_a_prompt_is_the_beginning_of_its_training_example(conversation: Conversation) -> None:
    check_prompt(tiny_wire(), conversation)


@examples(150)
@given(conversations(), st.integers(0, 1000))
def test_laws_with_the_real_vocabulary(conversation: Conversation, cut: int) -> None:
    wire = qwen_wire()
    check_one_pass(wire, conversation)
    check_text_stays_text(wire, conversation)
    check_round_trip(wire, conversation, cut)
    check_prompt(wire, conversation)


@cache
def template_tokenizer() -> Any:
    """The exported folder as transformers reads it.

    AutoTokenizer would give the same, but for Qwen2 models transformers 5 puts the NFC normaliser back on its own.
    """
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(tiny_folder())


@examples(1000)
@given(conversations(special=False))
def test_law_5_parity_with_the_exported_template(conversation: Conversation) -> None:
    wire, tokenizer = tiny_wire(), template_tokenizer()
    messages = openai_messages(conversation)
    tools = [tool.raw for tool in conversation.tools] or None
    assert encoded(tokenizer, messages, tools, False) == wire.render(conversation).ids
    upto = max((i for i, m in enumerate(conversation.messages) if m.role in ("user", "tool")), default=None)
    if upto is not None:
        prompt = wire.render_prompt(conversation.messages[: upto + 1], conversation.tools)
        assert encoded(tokenizer, messages[: upto + 1], tools, True) == prompt


@examples(300)
@given(st.text())
def test_any_text_comes_back_from_the_tokenizers(text: str) -> None:
    for wire in (tiny_wire(), qwen_wire()):
        ids = wire.tokenizer.encode(text)
        assert wire.tokenizer.decode(ids) == text
        assert not set(ids) & set(wire.tokenizer.added_tokens.values())
        assert b"".join(wire.tokenizer.token_bytes(i) or b"" for i in ids) == text.encode()


def test_the_laws_are_not_vacuous() -> None:
    """The generator makes calls in parallel, shuffled results, Chinese, special strings, no system message."""
    found: dict[str, int] = {}

    @examples(200)
    @given(conversations())
    def count(conversation: Conversation) -> None:
        messages = conversation.messages
        marks = {
            "parallel": any(len(m.tool_calls) > 1 for m in messages),
            "content and calls": any(m.content and m.tool_calls for m in messages),
            "no system": messages[0].role != "system",
            "tools": bool(conversation.tools),
            "results": any(m.role == "tool" for m in messages),
            "special strings": any("<|" in m.content for m in messages if m.role != "assistant"),
            "forged answer": any("<|FUNCTION_CALL|>" in m.content for m in messages if m.role == "assistant"),
            "chinese": any("天气" in m.content for m in messages),
            "first is assistant": messages[0] == Message(role="assistant", content=messages[0].content),
        }
        for name, on in marks.items():
            found[name] = found.get(name, 0) + on

    count()
    assert all(n >= 3 for n in found.values()), found
