"""Conversations to ids: :func:`render` for training (ids and mask in one pass) and :func:`render_prompt` for serving."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from octupus.errors import WireError
from octupus.wire.bind import Bound, Pieces
from octupus.wire.grammar import check_name
from octupus.wire.messages import Conversation, Message, Tool, ToolCall, canonical_json, check_text


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids, and for each whether it is supervised."""

    ids: list[int]
    mask: list[bool]


class _Writer:
    """Joins text until a token or the beginning of supervision cuts it; each run of text is encoded as one string."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self.ids: list[int] = []
        self.mask: list[bool] = []
        self._encode, self._run, self._supervised = encode, list[str](), False

    def text(self, text: str) -> None:
        self._run.append(text)

    def token(self, id: int) -> None:
        self.flush()
        self.ids.append(id)
        self.mask.append(self._supervised)

    def fixed(self, pieces: Pieces) -> None:
        for piece in pieces:
            if isinstance(piece, int):
                self.token(piece)
            else:
                self._run.append(piece)

    def supervise(self, on: bool) -> None:
        self.flush()
        self._supervised = on

    def flush(self) -> None:
        if self._run:
            text = "".join(self._run)
            self._run.clear()
            if text:
                ids = self._encode(text)
                self.ids += ids
                self.mask += [self._supervised] * len(ids)


def render(bound: Bound, conversation: Conversation) -> Rendered:
    """A training example.

    Raises:
        WireError: the conversation is no legal training data; says which message and why.
    """
    check_training(bound, conversation)
    out = _Writer(bound.tokenizer.encode)
    _carefully(bound, out, conversation.messages, conversation.tools, training=True)
    return Rendered(out.ids, out.mask)


def render_prompt(bound: Bound, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
    """Everything up to where the model goes on. More lenient than :func:`render`: it takes what clients send.

    Raises:
        WireError: lone surrogates, or values that JSON cannot hold.
    """
    out = _Writer(bound.tokenizer.encode)
    _carefully(bound, out, messages, tools, training=False)
    return out.ids


def _carefully(
    bound: Bound, out: _Writer, messages: Sequence[Message], tools: Sequence[Tool], *, training: bool
) -> None:
    try:
        _conversation(bound, out, messages, tools, training=training)
    except UnicodeEncodeError as error:
        for where, text in _texts(messages, tools):
            check_text(text, where)
        raise WireError(f"lone surrogate in the conversation: {error}") from error


def _conversation(
    bound: Bound, out: _Writer, messages: Sequence[Message], tools: Sequence[Tool], *, training: bool
) -> None:
    has_system = bool(messages) and messages[0].role == "system"
    _system(bound, out, messages[0].content if has_system else bound.dialect.default_system, tools)
    at = 1 if has_system else 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if message.role == "assistant":
            _assistant(bound, out, message, training=training)
        elif message.role == "user":
            out.fixed(bound.user_open)
            out.text(message.content)
            out.fixed(bound.user_close)
        elif message.role == "system":
            _system(bound, out, message.content, ())
        else:
            first = at - 1
            while at < len(messages) and messages[at].role == "tool":
                at += 1
            _results(bound, out, in_call_order(messages, first, at))
    if not training:
        out.fixed(bound.assistant)
        out.fixed(bound.reply)
    out.flush()


def _system(bound: Bound, out: _Writer, text: str | None, tools: Sequence[Tool]) -> None:
    if text is None and not tools:
        return
    out.fixed(bound.system_open)
    form = bound.dialect.tools
    if text is not None:
        out.text(text)
    if tools:
        out.text(form.open if text is None else form.after_text + form.open)
        shown = (tool.raw if form.wrapped else tool.raw["function"] for tool in tools)
        out.text(form.between.join(_json(value, f"tools[{i}]") for i, value in enumerate(shown)))
        out.fixed(bound.tools_close)
    out.fixed(bound.system_close)


def _assistant(bound: Bound, out: _Writer, message: Message, *, training: bool) -> None:
    frame = bound.frame
    out.fixed(bound.assistant)
    if training:
        out.fixed(bound.reply)
        out.supervise(True)
    if message.content:
        if frame.content is not None:
            out.token(frame.content)
        out.text(message.content)
        if message.tool_calls:
            out.text(frame.before_first_call)
    for index, call in enumerate(message.tool_calls):
        if index:
            out.text(frame.between_calls)
        out.token(frame.call_open)
        out.text(frame.before_name + call.name)
        if isinstance(frame.separator, int):
            out.token(frame.separator)
        else:
            out.text(frame.separator)
        out.text(_arguments(call) + frame.after_arguments)
        if frame.call_close is not None:
            out.token(frame.call_close)
    out.token(frame.end)
    if training:
        out.supervise(False)
    out.fixed(bound.after_end)


def _results(bound: Bound, out: _Writer, results: Sequence[Message]) -> None:
    out.fixed(bound.results_open)
    if bound.dialect.results.as_array:
        out.text(canonical_json([json_or_text(m.content) for m in results]))
    else:
        for message in results:
            out.fixed(bound.each_open)
            out.text(message.content)
            out.fixed(bound.each_close)
    out.fixed(bound.results_close)


def in_call_order(messages: Sequence[Message], first: int, end: int) -> list[Message]:
    """The tool results ``messages[first:end]`` in the order of the calls before them; those that name none come last, as given."""
    calls = messages[first - 1].tool_calls if first else ()
    ids = [call.id for call in calls]
    return sorted(messages[first:end], key=lambda m: ids.index(m.tool_call_id) if m.tool_call_id in ids else len(ids))


def json_or_text(text: str) -> Any:
    """The JSON value that ``text`` is, or ``text`` itself where it is none (nor one that JSON could write again)."""
    try:
        value = json.loads(text)
        canonical_json(value)
    except (ValueError, RecursionError):
        return text
    return value


def _arguments(call: ToolCall) -> str:
    return call.arguments if isinstance(call.arguments, str) else _json(call.arguments, f"arguments of {call.name!r}")


def _json(value: Any, where: str) -> str:
    try:
        return canonical_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(
            f"{where}: not writable as JSON ({error}); send numbers that are finite and less nesting"
        ) from error


def _texts(messages: Sequence[Message], tools: Sequence[Tool]) -> list[tuple[str, str]]:
    found = [(f"messages[{i}].content", m.content) for i, m in enumerate(messages)]
    for i, message in enumerate(messages):
        for k, call in enumerate(message.tool_calls):
            found.append((f"messages[{i}].tool_calls[{k}].name", call.name))
            found.append((f"messages[{i}].tool_calls[{k}].arguments", _arguments(call)))
    return found + [(f"tools[{i}]", _json(tool.raw, "")) for i, tool in enumerate(tools)]


def check_training(bound: Bound, conversation: Conversation) -> None:
    """Refuse what may stand in a prompt but must not be trained on.

    Raises:
        WireError: naming the message and the reason.
    """
    offered = [tool.name for tool in conversation.tools]
    if len(set(offered)) < len(offered):
        raise WireError("tools: two functions have the same name")
    messages = conversation.messages
    if not conversation.supervised:
        raise WireError("no assistant turn: nothing to learn from")
    for i, message in enumerate(messages):
        if message.role == "system" and i:
            raise WireError(f"messages[{i}]: a system message that is not the first")
        if message.role == "tool" and messages[i - 1].role != "tool":
            _check_results(messages, i)
        if message.role == "assistant" and not message.content and not message.tool_calls:
            raise WireError(f"messages[{i}]: an assistant turn with neither content nor calls")
        for call in message.tool_calls:
            check_name(call.name, bound.dialect.calls)
            if call.name not in offered:
                raise WireError(f"messages[{i}]: calls {call.name!r}, which is not among the tools")
            if isinstance(call.arguments, str):
                raise WireError(f"messages[{i}]: the arguments of {call.name!r} are not a JSON object")


def _check_results(messages: Sequence[Message], first: int) -> None:
    calls = messages[first - 1].tool_calls if first else ()
    end = first
    while end < len(messages) and messages[end].role == "tool":
        end += 1
    results = messages[first:end]
    if len(results) != len(calls):
        raise WireError(f"messages[{first}]: {len(results)} tool results for {len(calls)} calls")
    named = [m.tool_call_id for m in results]
    if any(named) and (len(set(named)) < len(named) or set(named) != {call.id for call in calls}):
        raise WireError(f"messages[{first}]: the tool results {named} do not answer the calls {[c.id for c in calls]}")
