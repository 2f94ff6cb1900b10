"""Legal conversations for property tests: hypothesis gives texts and a seed, the shape follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from octupus.wire import Conversation, Message, Tool, ToolCall, Wire

SPECIAL = [
    *("<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>", "<|CONTENT|>", "<|FUNCTION_CALL|>", "<|PARAMETERS|>"),
    *("<|FUNCTION_OUTPUT|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<tool_call>", "</tool_call>"),
    *("<tool_response>", "</tool_response>", "<think>", "</think>"),
]
TEXTS = [
    *(
        "What is the weather in Paris?",
        "请问北京今天天气怎么样？",
        "  two  blanks ",
        "line\nbreak\r\n\n",
        "\n",
        " ",
        "\t",
    ),
    *(
        "Zoë e\u0301 \u1100\u1161 ﬁ Å",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "\u202eright to left\u0000",
        "عربى ไทย 한국어",
        '{"a": [1, 2.50]}',
        "null",
        "12",
    ),
    *(
        '"quoted"',
        "\\n \\u4e2d",
        "\x7f\x1b[0m",
        "}\n",
        '", "arguments": {',
        "a" * 50,
        "。，！？",
        "\ufeff\ufffd\U0010ffff",
    ),
]
NAMES = ["get_weather", "get_weather_now", "get", "查询天气", "a.b/c d", "Émile", "x" * 40, "book-table"]


def conversation(seed: int, pool: Sequence[str], special: bool = True) -> Conversation:
    """A legal training conversation in any shape that the grammar allows.

    Args:
        pool: texts that go into its fields, beside fixed nasty ones.
        special: whether fields may hold the strings of special tokens.
    """
    rng = random.Random(seed)
    texts = [t for t in [*pool, *pool, *TEXTS] if t]
    if not special:
        texts = [_without_special(t) or "x" for t in texts]

    def text() -> str:
        parts = [rng.choice(texts) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        if special and rng.random() < 0.3:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(SPECIAL))
        joined = "".join(parts)
        return joined if special else _without_special(joined) or "x"

    names = rng.sample(NAMES, rng.choice((0, 1, 1, 2, 4)))
    if names and rng.random() < 0.3:
        names[0] = text()
    tools = tuple(_tool(rng, name, text) for name in dict.fromkeys(names))
    messages = [Message(role="system", content=rng.choice((text(), "")))] if rng.random() < 0.6 else []
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.9:
            messages.append(Message(role="user", content=text() if rng.random() < 0.95 else ""))
        messages += _answer(rng, tools, text)
    return Conversation(messages=tuple(messages), tools=tools)


def _answer(rng: random.Random, tools: Sequence[Tool], text: Callable[[], str]) -> list[Message]:
    if not tools or rng.random() < 0.3:
        return [Message(role="assistant", content=text())]
    named = rng.random() < 0.7
    calls = tuple(
        ToolCall(
            name=rng.choice(tools).name,
            arguments={text(): value(rng, text, 2) for _ in range(rng.choice((0, 1, 2)))},
            id=f"call-{rng.random()}" if named else None,
        )
        for _ in range(rng.choice((1, 1, 2, 3)))
    )
    messages = [Message(role="assistant", content=text() if rng.random() < 0.4 else "", tool_calls=calls)]
    if rng.random() < 0.7:
        results = [Message(role="tool", content=text(), tool_call_id=call.id) for call in calls]
        messages += rng.sample(results, len(results)) if named else results
        if rng.random() < 0.7:
            messages.append(Message(role="assistant", content=text()))
    return messages


def _tool(rng: random.Random, name: str, text: Callable[[], str]) -> Tool:
    function: dict[str, Any] = {"name": name, "description": text()}
    if rng.random() < 0.9:
        keys = {text(): {"type": "string", "description": text()} for _ in range(rng.choice((0, 1, 2)))}
        function["parameters"] = {"type": "object", "properties": keys, "required": list(keys)}
    if rng.random() < 0.2:
        function[text()] = value(rng, text, 2)
    return Tool(raw={"type": "function", "function": function, **({"x": text()} if rng.random() < 0.1 else {})})


def value(rng: random.Random, text: Callable[[], str], depth: int) -> Any:
    """Any JSON value."""
    kind = rng.randrange(9 if depth else 7)
    if kind == 7:
        return [value(rng, text, depth - 1) for _ in range(rng.randrange(3))]
    if kind == 8:
        return {text(): value(rng, text, depth - 1) for _ in range(rng.randrange(3))}
    simple = (text(), text(), rng.randrange(-9, 10**9), rng.random() * 10 ** rng.randrange(-9, 20), True, False, None)
    return simple[kind]


def _without_special(text: str) -> str:
    for token in SPECIAL:
        text = text.replace(token, "")
    return text if not any(token in text for token in SPECIAL) else _without_special(text)


def conversations(special: bool = True) -> st.SearchStrategy[Conversation]:
    """Legal conversations with any Unicode text."""
    pool = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=3)
    return st.builds(conversation, st.integers(0, 2**32 - 1), pool, st.just(special))


def openai_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """As a client sends them and a chat template reads them, arguments as objects."""
    out: list[dict[str, Any]] = []
    for message in conversation.messages:
        value: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            value["tool_calls"] = [
                {"type": "function", "id": c.id, "function": {"name": c.name, "arguments": c.arguments}}
                for c in message.tool_calls
            ]
        if message.role == "tool":
            value["tool_call_id"] = message.tool_call_id
        out.append(value)
    return out


def normal(wire: Wire, conversation: Conversation) -> Conversation:
    """What law 3 promises: the default system message written out, results in call order, call ids by position."""
    out: list[Message] = []
    if conversation.messages[0].role != "system" and wire.dialect.default_system is not None:
        out.append(Message(role="system", content=wire.dialect.default_system))
    count, waiting, given = 0, [], []
    for message in conversation.messages:
        if message.role == "tool":
            wanted = given.index(message.tool_call_id) if message.tool_call_id is not None else 0
            out.append(message.model_copy(update={"tool_call_id": waiting.pop(wanted)}))
            given.pop(wanted)
            continue
        waiting = [f"call_{count + k}" for k in range(len(message.tool_calls))]
        given = [call.id for call in message.tool_calls]
        count += len(waiting)
        calls = zip(message.tool_calls, waiting, strict=True)
        named = tuple(call.model_copy(update={"id": id}) for call, id in calls)
        out.append(message.model_copy(update={"tool_calls": named}))
    return conversation.model_copy(update={"messages": tuple(_results_in_order(out))})


def _results_in_order(messages: list[Message]) -> list[Message]:
    out: list[Message] = []
    for message in messages:
        if message.role == "tool":
            at = len(out)
            while out[at - 1].role == "tool" and _number(out[at - 1]) > _number(message):
                at -= 1
            out.insert(at, message)
        else:
            out.append(message)
    return out


def _number(message: Message) -> int:
    return int(str(message.tool_call_id).removeprefix("call_"))
