"""Ids back to conversations: the way back of :mod:`octupus.wire.format`, on top of the one parser."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from octupus.errors import WireError
from octupus.wire.bind import MARK, Bound
from octupus.wire.messages import Conversation, Message, Tool, canonical_json
from octupus.wire.parse import Event, Parser, collect


def read(bound: Bound, ids: Sequence[int]) -> Conversation:
    """A rendered conversation or a prompt, back.

    The default system message is written out, results stand in the order of their calls, and call ids say their
    position: ``call_0``, ``call_1`` ... through the conversation.

    Raises:
        WireError: these ids are no conversation of this dialect.
    """
    text, turn, at = bound.decode(ids), _turn(bound), 0
    messages: list[Message] = []
    tools: tuple[Tool, ...] = ()
    calls: list[str] = []  # those of the last answer
    count = 0
    while at < len(text):
        match = turn.match(text, at)
        if match is None:
            raise WireError(f"no turn of dialect {bound.dialect.name!r} at character {at}: {text[at : at + 40]!r}")
        at, kind, size = match.end(), str(match.lastgroup), len(messages)
        body = match.group(kind)
        if kind == "answer" and (body or at < len(text)):  # else a prompt: the model goes on here
            answer = _answer(bound, body)
            calls = [f"call_{count + k}" for k in range(len(answer.tool_calls))]
            count += len(calls)
            named = (c.model_copy(update={"id": id}) for c, id in zip(answer.tool_calls, calls, strict=True))
            messages.append(answer.model_copy(update={"tool_calls": tuple(named)}))
        elif kind == "results":
            for content in _results(bound, body):
                messages.append(Message(role="tool", content=content, tool_call_id=calls.pop(0) if calls else None))
        elif kind == "system":
            system, shown = _split_tools(bound, body) if not messages else (body, ())
            tools = shown or tools
            messages += [Message(role="system", content=system)] if system is not None else []
        elif kind == "user":
            messages.append(Message(role="user", content=body))
        if any(MARK.search(message.content) for message in messages[size:]):
            raise WireError(f"a token that cannot stand in the text of a turn: {body[:80]!r}")
    return Conversation(messages=tuple(messages), tools=tools)


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
    parser, events = Parser(bound), list[Event]()
    parser.go_on(body, events)
    if not parser.ended:
        raise WireError("the ids end inside an assistant turn")
    return collect(events)
