"""The laws in every dialect, and ``qwen`` against the templates of the checkpoints that it speaks for."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from octupus.errors import WireError
from octupus.tokenizer import HfTokenizer, load_tokenizer
from octupus.wire import Conversation, Message, Tool, ToolCall, Wire, make_dialect
from octupus.wire.format import json_or_text
from octupus.wire.messages import canonical_json
from tests.support.conversations import conversations, normal, openai_messages
from tests.support.laws import check_one_turn_in_any_chunks, encoded, examples
from tests.support.qwen import instruct_spec, qwen_instruct
from tests.support.tiny import tiny_dialect, tiny_folder, tiny_instruct_folder, tiny_tokenizer

DIALECTS = ["octupus-v1", "qwen2_5", "qwen3"]


def legal(wire: Wire, conversation: Conversation) -> bool:
    wrong = set(wire.dialect.calls.names_exclude)
    return not any(set(tool.name) & wrong for tool in conversation.tools)


def changed(value: Any, change: Any) -> Any:
    """``value`` with every text in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(k): changed(v, change) for k, v in value.items()}
    return [changed(v, change) for v in value] if isinstance(value, list | tuple) else value


def with_texts(conversation: Conversation, change: Any) -> Conversation:
    messages = tuple(
        m.model_copy(
            update={
                "content": change(m.content),
                "tool_calls": tuple(
                    c.model_copy(update={"name": change(c.name), "arguments": changed(c.arguments, change)})
                    for c in m.tool_calls
                ),
            }
        )
        for m in conversation.messages
    )
    keys = ("type", "function", "name", "parameters", "object", "properties", "required", "string", "description")
    tools = tuple(Tool(raw=changed(t.raw, lambda x: x if x in keys else change(x))) for t in conversation.tools)
    return Conversation(messages=messages, tools=tools)


def structure(wire: Wire, conversation: Conversation) -> list[tuple[int, bool]]:
    added = set(wire.tokenizer.added_tokens.values())
    rendered = wire.render(conversation)
    return [(id, on) for id, on in zip(rendered.ids, rendered.mask, strict=True) if id in added]


def as_v1_writes(conversation: Conversation) -> Conversation:
    """octupus-v1 writes results as JSON where they are JSON, and tools without their wrapper."""
    messages = []
    for m in conversation.messages:
        value = json_or_text(m.content) if m.role == "tool" else m.content
        content = value if isinstance(value, str) else canonical_json(value)
        messages.append(m.model_copy(update={"content": content}))
    tools = tuple(Tool(raw={"type": "function", "function": t.raw["function"]}) for t in conversation.tools)
    return Conversation(messages=tuple(messages), tools=tools)


@pytest.mark.parametrize("name", DIALECTS)
def test_laws_1_to_3(name: str) -> None:
    wire = tiny_dialect(name)
    end = wire.end_id

    @examples(200)
    @given(conversations(), st.integers(0, 1000))
    def check(conversation: Conversation, cut: int) -> None:
        assume(legal(wire, conversation))
        rendered = wire.render(conversation)
        expected = as_v1_writes(conversation) if wire.dialect.results.as_array else conversation
        assert wire.parse(rendered.ids) == normal(wire, expected)
        harmless = with_texts(conversation, lambda text: text.replace("<", "《"))
        assert structure(wire, conversation) == structure(wire, harmless), "no text changes the structure"
        opening = wire.encode(wire.marked.assistant + wire.marked.reply)
        answers = [m for m in normal(wire, expected).messages if m.role == "assistant"]
        for answer, (start, ids) in zip(answers, wire.turns(rendered), strict=True):
            assert rendered.ids[:start][-len(opening) :] == opening and ids.index(end) == len(ids) - 1
            check_one_turn_in_any_chunks(wire, ids, answer, cut)

    check()


@pytest.mark.parametrize("name", DIALECTS)
def test_prompts_come_back(name: str) -> None:
    wire = tiny_dialect(name)

    @examples(200)
    @given(conversations())
    def check(conversation: Conversation) -> None:
        assume(legal(wire, conversation))
        upto = max((i for i, m in enumerate(conversation.messages) if m.role in ("user", "tool")), default=None)
        assume(upto is not None)
        asked = Conversation(messages=conversation.messages[: (upto or 0) + 1], tools=conversation.tools)
        expected = as_v1_writes(asked) if wire.dialect.results.as_array else asked
        assert wire.parse(wire.render_prompt(asked.messages, asked.tools)) == normal(wire, expected)

    check()


@cache
def own_tokenizer(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(tiny_instruct_folder(name))


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_prompts_equal_those_of_the_checkpoints_own_template(name: str) -> None:
    wire, tokenizer = tiny_dialect(name), own_tokenizer(name)

    def fit(text: str) -> str:
        return unicodedata.normalize("NFC", text).lstrip("\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029") or "x"

    @examples(250)
    @given(conversations(special=False))
    def check(conversation: Conversation) -> None:
        assume(legal(wire, conversation))
        asked = with_texts(normal(wire, conversation), fit)  # results in order: the template does not sort them
        messages, tools = asked.messages, asked.tools
        if conversation.messages[0].role != "system" and messages[0].role == "system":
            messages = messages[1:]
        while messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        assume(messages)
        shown = openai_messages(Conversation(messages=messages))
        raw = [tool.raw for tool in tools] or None
        assert encoded(tokenizer, shown, raw, True) == wire.render_prompt(messages, tools)

    check()


@pytest.mark.parametrize("name", DIALECTS)
def test_law_5_the_exported_template_writes_the_same(name: str) -> None:
    """Text against text: which tokens it becomes is law 2's, and Jinja knows no cut where supervision begins."""
    wire = tiny_dialect(name)
    exported = HfTokenizer(load_tokenizer(tiny_folder()).spec, "<|endoftext|>", wire.chat_template)

    @examples(200)
    @given(conversations(special=False))
    def check(conversation: Conversation) -> None:
        assume(legal(wire, conversation))
        shown = openai_messages(conversation)
        if wire.dialect.results.as_array:
            shown = [m | {"content": json_or_text(m["content"])} if m["role"] == "tool" else m for m in shown]
        tools = [tool.raw for tool in conversation.tools] or None
        text = exported.render_template(shown, tools=tools, add_generation_prompt=False)
        assert wire.mark(text) == wire.decode(wire.render(conversation).ids)
        text = exported.render_template(shown, tools=tools, add_generation_prompt=True)
        assert wire.mark(text) == wire.decode(wire.render_prompt(conversation.messages, conversation.tools))

    check()


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_the_real_checkpoints_are_understood(name: str) -> None:
    tokenizer = qwen_instruct(name)
    wire = Wire(make_dialect("qwen", tokenizer), tokenizer)
    assert wire.dialect == tiny_dialect(name).dialect
    frame, added = wire.frame, tokenizer.added_tokens
    assert (frame.content, frame.call_open, frame.call_close) == (None, added["<tool_call>"], added["</tool_call>"])
    assert (frame.before_name, frame.separator) == ('\n{"name": "', '", "arguments": ')
    assert (frame.after_arguments, frame.before_first_call, frame.between_calls) == ("}\n", "\n", "\n")
    assert frame.end == added["<|im_end|>"]


def test_qwen_holds_a_line_break_back_until_it_knows() -> None:
    wire = tiny_dialect("qwen2_5")
    added = wire.tokenizer.added_tokens

    def feed(*parts: str) -> list[str]:
        parser = wire.parser()
        ids = [i for p in parts for i in ([added[p]] if p in added else wire.tokenizer.encode(p))]
        return [repr(e) for e in parser.feed(ids) + parser.finish()]

    call = ("<tool_call>", '\n{"name": "f", "arguments": {"a": "}"}}\n', "</tool_call>")
    whole = "".join(feed("hi\n", *call, "\n", *call, "<|im_end|>"))
    assert "text='\\n'" not in whole and whole.count("CallEnd") == 2 and "TurnEnd" in whole
    assert "ContentDelta(text='\\n')" in feed("hi\n", "<|im_end|>")
    assert "ContentDelta(text='\\n')" in feed("hi\n\n", *call, "<|im_end|>")
    for wrong in (("\n{}",), ('\n{"name": "f", "arguments": {}',), ()):
        with pytest.raises(WireError):
            feed("<tool_call>", *wrong, "</tool_call>")
    with pytest.raises(WireError):
        feed(*call, "more text", "<|im_end|>")
    assert feed("<tool_call>", '\n{"na') == []


def test_names_that_qwen_cannot_write_are_refused() -> None:
    wire = tiny_dialect("qwen3")
    for name in ('a"b', "a\\b", "a\nb"):
        tool = Tool(raw={"type": "function", "function": {"name": name}})
        with pytest.raises(WireError, match="cannot write"):
            wire.grammar([tool])
        call = Message(role="assistant", tool_calls=(ToolCall(name=name, arguments={}),))
        with pytest.raises(WireError, match="cannot be written"):
            wire.render(Conversation(messages=(call,), tools=(tool,)))


def test_templates_of_another_kind_get_a_sentence() -> None:
    spec = instruct_spec(tiny_tokenizer().spec, "qwen3")
    for template in ("{{ messages[0].content }}", "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"):
        with pytest.raises(WireError, match="not of Qwen's kind"):
            make_dialect("qwen", HfTokenizer(spec, "<|im_end|>", template))
    with pytest.raises(WireError, match="no chat template"):
        make_dialect("qwen", HfTokenizer(spec, "<|im_end|>", None))


def test_v1_writes_results_as_one_array() -> None:
    wire = tiny_dialect("octupus-v1")
    calls = tuple(ToolCall(name="f", arguments={}, id=str(i)) for i in range(6))
    texts = ["sunny", '{"b":1.50,"a":"中"}', "NaN", "12", '"quoted"', "[1,"]
    results = [Message(role="tool", content=t, tool_call_id=str(i)) for i, t in enumerate(texts)]
    tool = {"type": "function", "function": {"name": "f", "description": "d"}, "x": 1}
    prompt = wire.render_prompt([Message(role="assistant", tool_calls=calls), *results], [Tool(raw=tool)])
    shown = wire.decode(prompt)
    assert '["sunny", {"b": 1.5, "a": "中"}, "NaN", 12, "quoted", "[1,"]' in shown
    assert shown.count(wire.mark("<|FUNCTION_OUTPUT|>")) == 1
    assert '你可以使用这些函数来帮助用户解决问题: [{"name": "f", "description": "d"}]' in shown
    assert json.loads(wire.parse(prompt).messages[3].content) == {"b": 1.5, "a": "中"}
