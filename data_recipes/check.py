"""What every conversation must obey before it is trained on; what fails is rejected with a countable reason."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from octupus.constrain import Plan, Validator, compile_schema
from octupus.data.language import language_of
from octupus.errors import ConstraintError, DataError
from octupus.wire.messages import Conversation, Message, Tool, ToolCall


@contextmanager
def _well_formed() -> Iterator[None]:
    """One row with a lone surrogate or a thousand brackets is a reject, not the end of the build."""
    try:
        yield
    except (UnicodeError, RecursionError) as error:
        raise DataError(f"not well-formed text or JSON: {error}") from error


@_well_formed()
def check(conversation: Conversation) -> None:
    """Turn order, empty turns, tools, calls against their schemas, results against their calls.

    Raises:
        DataError: the reason's words before ``": "`` are what reports count.
    """
    schemas, tools = _tools(conversation.tools), {tool.name: tool for tool in conversation.tools}
    messages = conversation.messages
    if messages[0].role == "system":
        messages = messages[1:]
    _order(messages)
    for at, message in enumerate(messages):
        if message.role in ("user", "assistant") and not message.content.strip() and not message.tool_calls:
            raise DataError(f"empty {message.role} turn")
        for call in message.tool_calls:
            _call(call, schemas)
            if not _plan(json.dumps(tools[call.name].parameters)).admits(call.arguments):
                raise DataError(f"arguments that the tool does not declare: {call.name}")
        if message.tool_calls and at + 1 < len(messages):
            _results(message.tool_calls, messages, at + 1)


def check_language(script: str, wanted: Collection[str]) -> None:
    """Refuse a conversation in a script that the source is not asked for; one without letters is in any language.

    Raises:
        DataError: naming the script.
    """
    language = language_of(script)
    if language != "none" and language not in wanted:
        raise DataError(f"language: written in {script} letters, wanted {', '.join(wanted)}")


@_well_formed()
def arranged(conversation: Conversation) -> Conversation:
    """A checked conversation with all arguments in the order in which the constraint generates them.

    Raises:
        DataError: arguments that are nested too deep.
    """
    schemas = {tool.name: json.dumps(tool.parameters) for tool in conversation.tools}

    def of(call: ToolCall) -> ToolCall:
        return call.model_copy(update={"arguments": _plan(schemas[call.name]).arrange(call.arguments)})

    messages = (
        message.model_copy(update={"tool_calls": tuple(map(of, message.tool_calls))}) if message.tool_calls else message
        for message in conversation.messages
    )
    return conversation.model_copy(update={"messages": tuple(messages)})


def _order(messages: Sequence[Message]) -> None:
    before = "system"
    allowed = {
        "system": {"user"},
        "user": {"assistant"},
        "assistant": {"user"},
        "calls": {"tool"},
        "tool": {"tool", "assistant"},
    }
    for message in messages:
        if message.role not in allowed[before]:
            raise DataError(f"turn order: {message.role} after {before}")
        before = "calls" if message.tool_calls else message.role
    if before not in ("assistant", "calls"):
        raise DataError(f"turn order: ends with {before}, not with an answer")


def _tools(tools: Sequence[Tool]) -> dict[str, Validator]:
    found: dict[str, Validator] = {}
    for tool in tools:
        if tool.name in found:
            raise DataError(f"two tools of one name: {tool.name}")
        found[tool.name] = _validator(json.dumps(tool.parameters))
    return found


@lru_cache(maxsize=8192)
def _validator(schema: str) -> Validator:
    value = json.loads(schema)
    if not isinstance(value, dict) or value.get("type", "object") != "object":
        raise DataError("parameters are no object schema: /type")
    try:
        return Validator(value)
    except ConstraintError as error:
        raise DataError(f"a tool's schema is illegal: {error}") from error


@lru_cache(maxsize=8192)
def _plan(schema: str) -> Plan:
    try:
        return compile_schema(json.loads(schema), arguments=True)
    except ConstraintError as error:
        raise DataError(f"a called tool's schema cannot be enforced: {error}") from error


def _call(call: ToolCall, schemas: dict[str, Validator]) -> None:
    if call.name not in schemas:
        raise DataError(f"calls a tool that was not offered: {call.name}")
    if isinstance(call.arguments, str):
        raise DataError(f"arguments are no JSON object: {call.arguments[:80]}")
    problems = schemas[call.name].problems(call.arguments)
    if problems:
        raise DataError(f"arguments break the schema: {call.name}{problems[0][:300]}")


def _results(calls: Sequence[ToolCall], messages: Sequence[Message], first: int) -> None:
    end = first
    while end < len(messages) and messages[end].role == "tool":
        end += 1
    named = [m.tool_call_id for m in messages[first:end]]
    if len(named) != len(calls):
        raise DataError(f"tool results do not answer the calls: {len(named)} for {len(calls)}")
    if any(named) and (len(set(named)) < len(named) or set(named) != {call.id for call in calls}):
        raise DataError("tool results do not answer the calls: their ids differ")
