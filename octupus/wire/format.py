"""Conversations to ids: :func:`render` for training (ids and mask in one pass), :func:`render_prompt` for serving."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from octupus.errors import WireError
from octupus.wire.bind import Bound, plain
from octupus.wire.messages import Conversation, Message, Tool, canonical_json


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids, and for each whether it is supervised."""

    ids: list[int]
    mask: list[bool]


def render(bound: Bound, conversation: Conversation) -> Rendered:
    """A training example.

    Raises:
        WireError: the conversation is no legal training data; says which message and why.
    """
    check_training(bound, conversation)
    out = Rendered([], [])
    pieces = _pieces(
        bound, conversation.messages, conversation.tools, training=True, learn_from=conversation.learn_from
    )
    for supervised, group in groupby(pieces, key=itemgetter(1)):
        ids = bound.encode("".join(text for text, _ in group))
        out.ids.extend(ids)
        out.mask.extend([supervised] * len(ids))
    return out


def render_prompt(bound: Bound, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
    """Ids up to where the model goes on. More lenient than :func:`render`: it takes what clients send.

    Raises:
        WireError: lone surrogates, or values that JSON cannot hold.
    """
    return bound.encode("".join(text for text, _ in _pieces(bound, messages, tools, training=False)))


def _pieces(
    bound: Bound, messages: Sequence[Message], tools: Sequence[Tool], *, training: bool, learn_from: int = 0
) -> Iterator[tuple[str, bool]]:
    """Marked text, and whether it is supervised."""
    d, at, where = bound.marked, 0, "the system message or the tools"
    try:
        if messages and messages[0].role == "system":
            at = 1
        yield _system(bound, messages[0].content if at else bound.dialect.default_system, tools), False
        while at < len(messages):
            message, where = messages[at], f"messages[{at}]"
            at += 1
            if message.role == "assistant":
                yield d.assistant + d.reply if training else d.assistant, False
                yield _answer(bound, message), training and at > learn_from
                yield d.after_end, False
            elif message.role == "user":
                yield d.user.open + plain(message.content) + d.user.close, False
            elif message.role == "system":
                yield _system(bound, message.content, ()), False
            else:
                first = at - 1
                while at < len(messages) and messages[at].role == "tool":
                    at += 1
                yield _results(bound, [m.content for m in in_call_order(messages, first, at)]), False
        if not training:
            yield d.assistant + d.reply, False
    except UnicodeEncodeError as error:
        raise WireError(f"{where}: a lone surrogate; send well-formed Unicode") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"{where}: not writable as JSON ({error}); send finite numbers and less nesting") from error


def _system(bound: Bound, text: str | None, tools: Sequence[Tool]) -> str:
    if text is None and not tools:
        return ""
    d = bound.marked
    shown = ""
    if tools:
        objects = (tool.raw if d.tools.wrapped else tool.raw["function"] for tool in tools)
        shown = d.tools.open + plain(d.tools.between.join(map(canonical_json, objects))) + d.tools.close
    between = d.tools.after_text if shown and text is not None else ""
    return d.system.open + plain(text or "") + between + shown + d.system.close


def _answer(bound: Bound, message: Message) -> str:
    d, calls = bound.marked, bound.marked.calls
    content = d.content + plain(message.content) if message.content else ""
    between = calls.after_content if content and message.tool_calls else ""
    written = (
        f"{calls.open}{calls.before_name}{plain(call.name)}{calls.separator}"
        f"{plain(call.arguments_text)}{calls.after_arguments}{calls.close}"
        for call in message.tool_calls
    )
    return content + between + calls.between.join(written) + d.end


def _results(bound: Bound, texts: Sequence[str]) -> str:
    form = bound.marked.results
    if form.as_array:
        inner = form.each_open + plain(canonical_json([json_or_text(text) for text in texts])) + form.each_close
    else:
        inner = "".join(form.each_open + plain(text) + form.each_close for text in texts)
    return form.open + inner + form.close


def in_call_order(messages: Sequence[Message], first: int, end: int) -> list[Message]:
    """The results ``messages[first:end]`` in the order of the calls before them; those that answer none come last."""
    ids = [call.id for call in messages[first - 1].tool_calls] if first else []
    return sorted(messages[first:end], key=lambda m: ids.index(m.tool_call_id) if m.tool_call_id in ids else len(ids))


def json_or_text(text: str) -> Any:
    """The JSON value that ``text`` is, or ``text`` itself where it is none (nor one that JSON could write again)."""
    try:
        value = json.loads(text)
        canonical_json(value)
    except (ValueError, RecursionError):
        return text
    return value


def check_training(bound: Bound, conversation: Conversation) -> None:
    """Refuse what may stand in a prompt but must not be trained on.

    Raises:
        WireError: naming the message and the reason.
    """
    offered = [tool.name for tool in conversation.tools]
    if len(set(offered)) < len(offered):
        raise WireError("tools: two functions have the same name")
    if not conversation.supervised:
        raise WireError("no assistant turn: nothing to learn from")
    messages = conversation.messages
    for i, message in enumerate(messages):
        reason = None
        if message.role == "system" and i:
            reason = "a system message that is not the first"
        elif message.role == "tool" and messages[i - 1].role != "tool":
            reason = _check_results(messages, i)
        elif message.role == "assistant" and not message.content and not message.tool_calls:
            reason = "an assistant turn with neither content nor calls"
        for call in message.tool_calls:
            if call.name not in offered:
                reason = f"calls {call.name!r}, which is not among the tools"
            elif set(call.name) & set(bound.dialect.calls.names_exclude):
                reason = f"the name {call.name!r} cannot be written in dialect {bound.dialect.name!r}"
            elif isinstance(call.arguments, str):
                reason = f"the arguments of {call.name!r} are not a JSON object"
        if reason is not None:
            raise WireError(f"messages[{i}]: {reason}")


def _check_results(messages: Sequence[Message], first: int) -> str | None:
    calls = [call.id for call in messages[first - 1].tool_calls] if first else []
    named: list[str | None] = []
    for message in messages[first:]:
        if message.role != "tool":
            break
        named.append(message.tool_call_id)
    if len(named) != len(calls):
        return f"{len(named)} tool results for {len(calls)} calls"
    if any(named) and (len(set(named)) < len(named) or set(named) != set(calls)):
        return f"the tool results {named} do not answer the calls {calls}"
    return None


def turns(rendered: Rendered) -> list[tuple[int, list[int]]]:
    """Each assistant turn: the length of the prompt before it, and its supervised ids (the end included)."""
    found: list[tuple[int, list[int]]] = []
    for supervised, group in groupby(enumerate(rendered.ids), key=lambda item: rendered.mask[item[0]]):
        if supervised:
            part = list(group)
            found.append((part[0][0], [id for _, id in part]))
    return found
