"""Ids back to conversations: the way back of :mod:`octupus.wire.format`, on top of the one parser."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from octupus.errors import WireError
from octupus.wire.bind import MARK, Bound
from octupus.wire.format import in_call_order
from octupus.wire.messages import Conversation, Message, Tool, canonical_json
from octupus.wire.parse import Event, Parser, collect


def read(bound: Bound, ids: Sequence[int]) -> Conversation:
    """A rendered conversation or a prompt, back: ``read(render(c)) == normal(c)``.

    Raises:
        WireError: these ids are no conversation of this dialect.
    """
    text = bound.decode(ids)
    turn = _turn(bound)
    messages: list[Message] = []
    tools: tuple[Tool, ...] = ()
    at = 0
    while at < len(text):
        match = turn.match(text, at)
        if match is None:
            raise WireError(f"no turn of dialect {bound.dialect.name!r} at character {at}: {text[at : at + 40]!r}")
        at = match.end()
        body = match.group(str(match.lastgroup))
        size = len(messages)
        if match.lastgroup == "system":
            system, shown = _split_tools(bound, body) if not messages else (body, ())
            tools = shown or tools
            messages += [Message(role="system", content=system)] if system is not None else []
        elif match.lastgroup == "results":
            messages += [Message(role="tool", content=content) for content in _results(bound, body)]
        elif match.lastgroup == "user":
            messages.append(Message(role="user", content=body))
        elif body or at < len(text):  # else a prompt: the model goes on here
            messages.append(_answer(bound, body))
        if any(MARK.search(message.content) for message in messages[size:]):
            raise WireError(f"a token that cannot stand in the text of a turn: {body[:80]!r}")
    return Conversation(messages=by_position(messages), tools=tools)


def _turn(bound: Bound) -> re.Pattern[str]:
    d, e = bound.marked, re.escape
    ends = f"(?=[{bound.opens}]|\\Z)"  # where the next turn opens, or nothing follows
    results_open = e(d.results.open + d.results.each_open)
    results_close = e(d.results.each_close + d.results.close)
    return re.compile(
        f"{e(d.system.open)}(?P<system>.*?){e(d.system.close)}{ends}"
        f"|{results_open}(?P<results>.*?){results_close}{ends}"
        f"|{e(d.user.open)}(?P<user>.*?){e(d.user.close)}{ends}"
        f"|{e(d.assistant)}(?:{e(d.reply)})?(?P<answer>.*?{e(d.end)}|\\Z)(?:{e(d.after_end)})?",
        re.DOTALL,
    )


def _split_tools(bound: Bound, body: str) -> tuple[str | None, tuple[Tool, ...]]:
    form = bound.marked.tools
    # canonical JSON holds no line break, so the last header is the one; it stands alone where there is no system text
    at = body.rfind(form.after_text + form.open)
    text, start = (body[:at], at + len(form.after_text)) if at >= 0 else (None, 0)
    shown = body[start + len(form.open) :]
    if not body.startswith(form.open, start) or not shown.endswith(form.close):
        return body, ()
    tools: list[Tool] = []
    decode, at, end = json.JSONDecoder().raw_decode, 0, len(shown) - len(form.close)
    try:
        while True:
            value, at = decode(shown, at)
            tools.append(Tool(raw=value if form.wrapped else {"type": "function", "function": value}))
            if at >= end or not shown.startswith(form.between, at):
                return (text, tuple(tools)) if at == end else (body, ())
            at += len(form.between)
    except ValueError:
        return body, ()  # no tools: a text that looks like their header


def _results(bound: Bound, body: str) -> list[str]:
    form = bound.marked.results
    if not form.as_array:
        return body.split(form.each_close + form.each_open)
    return [value if isinstance(value, str) else canonical_json(value) for value in json.loads(body)]


def _answer(bound: Bound, body: str) -> Message:
    parser = Parser(bound)
    events: list[Event] = []
    parser.go_on(body, events)
    if not parser.ended:
        raise WireError("the ids end inside an assistant turn")
    return collect(events)


def normal(bound: Bound, conversation: Conversation) -> Conversation:
    """What comes back from ids: the default system message written out, results in call order, ids by position."""
    messages, default = conversation.messages, bound.dialect.default_system
    if messages[0].role != "system" and default is not None:
        messages = (Message(role="system", content=default), *messages)
    return conversation.model_copy(update={"messages": by_position(messages)})


def by_position(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Results in the order of their calls; call ids replaced by ``call_0``, ``call_1`` ... through the conversation."""
    out: list[Message] = []
    waiting: list[str] = []
    count = at = 0
    while at < len(messages):
        message, first = messages[at], at
        at += 1
        if message.role == "tool":
            while at < len(messages) and messages[at].role == "tool":
                at += 1
            names = [*waiting, *[None] * (at - first)]
            ordered = in_call_order(messages, first, at)
            out += [m.model_copy(update={"tool_call_id": id}) for m, id in zip(ordered, names, strict=False)]
            continue
        waiting = [f"call_{count + k}" for k in range(len(message.tool_calls))]
        count += len(waiting)
        calls = (call.model_copy(update={"id": id}) for call, id in zip(message.tool_calls, waiting, strict=True))
        out.append(message.model_copy(update={"tool_calls": tuple(calls)}))
    return tuple(out)
