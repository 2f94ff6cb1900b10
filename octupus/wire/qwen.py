"""The ``qwen`` dialect: ChatML as a Qwen2.5 or Qwen3 checkpoint writes it, its sentences cut from its own template.

The template is rendered over probe conversations and cut at their placeholders; what comes out is checked against it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from octupus.errors import WireError
from octupus.wire.bind import Bound
from octupus.wire.dialect import Calls, Dialect, Results, Tools, Turn
from octupus.wire.format import render_prompt
from octupus.wire.messages import Message, Tool, ToolCall, canonical_json
from octupus.wire.tokenizer import Tokenizer

SYSTEM = Message(role="system", content="[[system]]")
USER, AGAIN = (Message(role="user", content=f"[[user {i}]]") for i in (1, 2))
SAID = Message(role="assistant", content="[[said]]")
CALLED = tuple(ToolCall(name=f"name-{i}", arguments={f"argument-{i}": i}) for i in (1, 2))
BOTH = SAID.model_copy(update={"tool_calls": CALLED})
GAVE = tuple(Message(role="tool", content=f"[[result {i}]]") for i in (1, 2))
TOOLS = tuple(Tool(raw={"type": "function", "function": {"name": f"[[tool {i}]]"}}) for i in (1, 2))


def qwen(tokenizer: Tokenizer) -> Dialect:
    """The dialect of this checkpoint.

    Raises:
        WireError: it has no chat template, or not one of Qwen's kind.
    """
    try:
        dialect = _cut(tokenizer)
    except ValueError as error:
        raise WireError(
            f"the checkpoint's chat template is not of Qwen's kind: {error}; name another dialect"
        ) from error
    bound = Bound(dialect, tokenizer)
    talks = ([USER], [SYSTEM, USER], [SYSTEM, USER, SAID, AGAIN], [USER, BOTH, *GAVE], [USER, BOTH, GAVE[0], AGAIN])
    for messages in (*talks, [USER, BOTH.model_copy(update={"content": ""}), *GAVE, SAID, AGAIN]):
        for tools in ((), TOOLS):
            if bound.decode(render_prompt(bound, messages, tools)) != bound.mark(_written(tokenizer, messages, tools)):
                raise WireError("the checkpoint's chat template is not of Qwen's kind: it writes a probe otherwise")
    return dialect


def _cut(tokenizer: Tokenizer) -> Dialect:
    def texts(messages: Sequence[Message], *marks: str, tools: Sequence[Tool] = (), prompt: bool = False) -> list[str]:
        """What the template writes around the placeholders."""
        rest, found = _written(tokenizer, messages, tools, prompt), []
        for mark in marks:
            before, sign, rest = rest.partition(mark)
            if not sign:
                raise ValueError(f"{mark} does not appear")
            found.append(before)
        return [*found, rest]

    system, user, again, said = SYSTEM.content, USER.content, AGAIN.content, SAID.content
    shown = [canonical_json(tool.raw) for tool in TOOLS]
    system_open, system_user, user_close = texts([SYSTEM, USER], system, user)
    user_open = _without(texts([USER, AGAIN], user, again)[1], before=user_close)
    system_close = _without(system_user, after=user_open)
    _, assistant, end, _ = texts([USER, SAID, AGAIN], user, said, again)
    assistant = _without(assistant, before=user_close)
    _, end, after_end = _at_token(tokenizer, _without(end, after=user_open))
    reply = _without(texts([USER], user, prompt=True)[-1], before=user_close + assistant)
    default: str | None = None
    if (bare := texts([USER], user)[0]) != user_open:
        default = _without(bare, before=system_open, after=system_close + user_open)

    names, arguments = [c.name for c in CALLED], [c.arguments_text for c in CALLED]
    results = [m.content for m in GAVE]
    marks = (said, names[0], arguments[0], names[1], arguments[1], *results, again)
    parts = texts([USER, BOTH, *GAVE, AGAIN], *marks)
    after_content, call_open, before_name = _at_token(tokenizer, parts[1])
    after_arguments, call_close, between = _at_token(tokenizer, _without(parts[3], after=call_open + before_name))
    head = _without(parts[5], before=after_arguments + call_close + end + after_end)
    each_open = _common_end(head, parts[6])
    each_close = _without(parts[6], after=each_open)

    tools_open, tools_between, tools_close, _ = texts([SYSTEM, USER], *shown, user, tools=TOOLS)
    tools_open = _without(tools_open, before=system_open + system)
    after_text = ""
    if default is None:  # then the tools may stand alone, and only what follows a text differs
        alone = _without(texts([USER], shown[0], tools=TOOLS)[0], before=system_open)
        after_text, tools_open = _without(tools_open, after=alone), alone
    return Dialect(
        name="qwen",
        default_system=default,
        system=Turn(open=system_open, close=system_close),
        user=Turn(open=user_open, close=user_close),
        assistant=assistant,
        reply=reply,
        calls=Calls(
            open=call_open,
            before_name=before_name,
            separator=parts[2],
            after_arguments=after_arguments,
            close=call_close,
            after_content=after_content,
            between=between,
            names_exclude='"\\' + "".join(map(chr, range(32))),  # the name stands in a JSON string as it is
        ),
        end=end,
        after_end=after_end,
        tools=Tools(
            after_text=after_text,
            open=tools_open,
            between=tools_between,
            close=_without(tools_close, after=system_close + user_open),
        ),
        results=Results(
            open=_without(head, after=each_open),
            each_open=each_open,
            each_close=each_close,
            close=_without(parts[7], before=each_close, after=user_open),
        ),
    )


def _written(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Tool], prompt: bool = True) -> str:
    values: list[dict[str, Any]] = []
    for message in messages:
        value: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = ({"name": call.name, "arguments": call.arguments} for call in message.tool_calls)
            value["tool_calls"] = [{"type": "function", "function": call} for call in calls]
        values.append(value)
    shown = [tool.raw for tool in tools] or None
    return tokenizer.render_template(values, tools=shown, add_generation_prompt=prompt, enable_thinking=False)


def _without(text: str, before: str = "", after: str = "") -> str:
    if not (text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)):
        raise ValueError(f"{text!r} does not stand between {before!r} and {after!r}")
    return text[len(before) : len(text) - len(after)]


def _at_token(tokenizer: Tokenizer, text: str) -> tuple[str, str, str]:
    """``text`` cut around its first added token."""
    longest_first = sorted(filter(None, tokenizer.added_tokens), key=len, reverse=True)
    found = re.search("|".join(map(re.escape, longest_first)), text)
    if found is None:
        raise ValueError(f"{text!r} holds no token of this tokenizer")
    return text[: found.start()], found.group(), text[found.end() :]


def _common_end(one: str, other: str) -> str:
    size = 0
    while size < min(len(one), len(other)) and one[-1 - size] == other[-1 - size]:
        size += 1
    return one[len(one) - size :]
