"""What the token automaton may do for one request: a value, sent to the engine's process as JSON.

Tokens are ids, texts are text: the automaton needs this value and a vocabulary, and never learns which dialect is in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from octupus.errors import WireError
from octupus.wire.dialect import Calls
from octupus.wire.messages import Frozen, ResponseFormat, Tool, ToolChoice


class Frame(Frozen):
    """How an assistant's turn is delimited::

        turn    := [content] text? (before_first_call? call (between_calls call)*)? end
        call    := call_open before_name NAME separator ARGUMENTS after_arguments [call_close]

    ``int`` fields are token ids, ``str`` fields are text. Two texts, or a text and NAME or ARGUMENTS, that stand beside
    each other are ONE run of characters: tokens may straddle their boundary.
    """

    content: int | None
    """Opens content; None: content opens with nothing (its first token is text)."""
    before_first_call: str
    """Between content and the first call, only where there is content; the automaton lets content end with it."""
    between_calls: str
    call_open: int
    before_name: str
    separator: int | str
    after_arguments: str
    call_close: int | None
    """None: a call ends where ``call_open`` or ``end`` stands."""
    end: int
    """End of turn; nothing follows."""


class FunctionGrammar(Frozen):
    """A function that may be called, with the JSON Schema of its arguments (which are an object all the same)."""

    name: str
    parameters: dict[str, Any] | bool


class CallGrammar(Frozen):
    """One request's rules, see the table in WIRE.md.

    A turn is content as ``content`` says, then ``min_calls`` to ``max_calls`` calls (None: no limit), then the end; a turn
    without content and without calls is never legal. Where ``content_schema`` is set, content is canonical JSON that obeys it
    and no call follows it: such a turn is content OR calls.
    """

    frame: Frame
    content: Literal["forbidden", "optional", "required"]
    content_schema: dict[str, Any] | bool | None = None
    functions: tuple[FunctionGrammar, ...] = ()
    min_calls: int = 0
    max_calls: int | None = None


def make_grammar(
    frame: Frame,
    calls: Calls,
    tools: Sequence[Tool],
    choice: ToolChoice,
    parallel: bool,
    response_format: ResponseFormat,
) -> CallGrammar:
    """The grammar of one request.

    Raises:
        WireError: a choice that names no offered tool, a call required without tools, a name that cannot be written.
    """
    by_name: dict[str, Tool] = {}
    for tool in tools:
        if tool.name in by_name:
            raise WireError(f"tools: two functions are named {tool.name!r}; give each its own name")
        check_name(tool.name, calls)
        by_name[tool.name] = tool
    names = tuple(by_name) if choice.names is None else choice.names
    for name in names:
        if name not in by_name:
            raise WireError(f"tool_choice: no tool is named {name!r}; offered: {', '.join(by_name) or 'none'}")
    names = tuple(name for name in by_name if name in names) if choice.mode != "none" else ()
    must = choice.mode in ("required", "named")
    if must and not names:
        raise WireError(f"tool_choice: {choice.mode} needs at least one tool that may be called")
    if choice.mode == "named" and len(names) != 1:
        raise WireError("tool_choice: a named choice holds exactly one name")
    return CallGrammar(
        frame=frame,
        content="forbidden" if must else "optional" if names else "required",
        content_schema=_content_schema(response_format),
        functions=tuple(FunctionGrammar(name=name, parameters=by_name[name].parameters) for name in names),
        min_calls=1 if must else 0,
        max_calls=0 if not names else 1 if choice.mode == "named" or not parallel else None,
    )


def _content_schema(response_format: ResponseFormat) -> dict[str, Any] | bool | None:
    if response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return {"type": "object"}
    return True if response_format.json_schema is None else response_format.json_schema


def check_name(name: str, calls: Calls) -> None:
    """Refuse a function name that this dialect cannot write.

    Raises:
        WireError: naming the characters at fault.
    """
    wrong = sorted(set(name) & set(calls.names_exclude))
    if wrong:
        raise WireError(
            f"function name {name!r} holds {wrong}, which this wire format cannot write; rename the function"
        )
