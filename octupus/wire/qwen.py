"""The ``qwen`` dialect: ChatML as a Qwen2.5 or Qwen3 checkpoint writes it.

Its fixed sentences are those of the checkpoint's own chat template, rendered over probe conversations and cut at their
placeholders. The cuts need not be clever: the dialect they give must then write every probe as the template does.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Sequence

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
BOTH, ONLY = (SAID.model_copy(update={"tool_calls": CALLED, "content": text}) for text in (SAID.content, ""))
GAVE = tuple(Message(role="tool", content=f"[[result {i}]]") for i in (1, 2))
TOOLS = tuple(Tool(raw={"type": "function", "function": {"name": f"[[tool {i}]]"}}) for i in (1, 2))
TALKS = (
    *([USER], [SYSTEM, USER], [SYSTEM, USER, SAID, AGAIN], [USER, BOTH, GAVE[0], AGAIN]),
    *([USER, BOTH, *GAVE], [SYSTEM, USER, ONLY, *GAVE, SAID, AGAIN]),
)


def qwen(tokenizer: Tokenizer) -> Dialect:
    """The dialect of this checkpoint.

    Raises:
        WireError: it has no chat template, or not one of Qwen's kind.
    """
    try:
        dialect = _cut(tokenizer)
        bound = Bound(dialect, tokenizer)
        for messages in TALKS:
            for tools in ((), TOOLS):
                if bound.decode(render_prompt(bound, messages, tools)) != bound.mark(
                    _write(tokenizer, messages, tools)
                ):
                    raise ValueError("it writes a probe otherwise than it should")
    except (ValueError, IndexError, KeyError) as error:
        raise WireError(
            f"the checkpoint's chat template is not of Qwen's kind ({error}); name another dialect"
        ) from error
    return dialect


class _Template:
    """The checkpoint's template, and the cuts through what it writes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        longest_first = sorted(filter(None, tokenizer.added_tokens), key=len, reverse=True)
        self._tokenizer, self._token = tokenizer, re.compile("|".join(map(re.escape, longest_first)))
        self._opener = self.at_token(_write(tokenizer, [USER]))[1]  # every turn opens with it

    def around(self, messages: Sequence[Message], marks: Sequence[str], tools: Sequence[Tool] = ()) -> list[str]:
        """What stands before, between and after these texts."""
        pattern = "(.*?)".join(["", *map(re.escape, marks), r"\Z"])
        match = re.search(pattern, _write(self._tokenizer, messages, tools), re.DOTALL)
        if match is None:
            raise ValueError(f"it does not write {', '.join(marks)} in this order")
        return list(match.groups())

    def at_token(self, text: str) -> tuple[str, str, str]:
        found = self._token.search(text)
        if found is None:
            raise ValueError(f"no token stands in {text!r}")
        return text[: found.start()], found.group(), text[found.end() :]

    def turn(self, text: str) -> tuple[str, str]:
        """The end of one turn and the beginning of the next."""
        close, sign, open = text.partition(self._opener)
        return close, sign + open


def _cut(tokenizer: Tokenizer) -> Dialect:
    template = _Template(tokenizer)
    around, at_token, turn = template.around, template.at_token, template.turn
    system, user, again, said = SYSTEM.content, USER.content, AGAIN.content, SAID.content
    system_open, before_user, prompt = around([SYSTEM, USER], [system, user])
    system_close, user_open = turn(before_user)
    _, before_said, after_said, _ = around([USER, SAID, AGAIN], [user, said, again])
    user_close, assistant = turn(before_said)
    _, end, after_end = at_token(turn(after_said)[0])
    default: str | None = around([USER], [user])[0].removeprefix(system_open).removesuffix(system_close + user_open)
    default = None if default == user_open else default

    marks = [m for call in CALLED for m in (call.name, call.arguments_text)] + [m.content for m in GAVE]
    parts = around([USER, BOTH, *GAVE, AGAIN], [said, *marks, again])
    after_content, call_open, before_name = at_token(parts[1])
    after_arguments, call_close, between = at_token(parts[3].removesuffix(call_open + before_name))
    head = turn(parts[5])[1]
    each_open = os.path.commonprefix([head[::-1], parts[6][::-1]])[::-1]  # noqa: RUF071 (by character, as meant)
    each_close = parts[6].removesuffix(each_open)

    shown = [canonical_json(tool.raw) for tool in TOOLS]
    tools_open, tools_between, tools_close, _ = around([SYSTEM, USER], [*shown, user], TOOLS)
    tools_open, alone = tools_open.partition(system)[2], ""
    if default is None:  # then the tools may stand alone, and only what follows a system text differs
        alone = around([USER], [shown[0]], TOOLS)[0].removeprefix(system_open)
    return Dialect(
        name="qwen",
        default_system=default,
        system=Turn(open=system_open, close=system_close),
        user=Turn(open=user_open, close=user_close),
        assistant=assistant,
        reply=turn(prompt)[1].removeprefix(assistant),
        calls=Calls(
            **{"open": call_open, "close": call_close, "separator": parts[2], "before_name": before_name},
            **{"after_arguments": after_arguments, "after_content": after_content, "between": between},
            names_exclude='"\\' + "".join(map(chr, range(32))),  # a name stands in a JSON string as it is
        ),
        end=end,
        after_end=after_end,
        tools=Tools(
            after_text=tools_open.removesuffix(alone) if alone else "",
            open=alone or tools_open,
            between=tools_between,
            close=turn(tools_close)[0].removesuffix(system_close),
        ),
        results=Results(
            open=head.removesuffix(each_open),
            each_open=each_open,
            each_close=each_close,
            close=turn(parts[7])[0].removeprefix(each_close),
        ),
    )


def _write(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    values = [message.model_dump(include={"role", "content"}) for message in messages]
    for value, message in zip(values, messages, strict=True):
        if message.tool_calls:
            calls = (call.model_dump(include={"name", "arguments"}) for call in message.tool_calls)
            value["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    shown = [tool.raw for tool in tools] or None
    return tokenizer.render_template(values, tools=shown, add_generation_prompt=True, enable_thinking=False)
