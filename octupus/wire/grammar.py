"""What the token automaton may do for one request: a value, sent to the engine's process as JSON.

Tokens are ids, texts are text: the automaton needs this and a vocabulary, and never learns which dialect is in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from octupus.errors import WireError
from octupus.wire.bind import MARK, Bound
from octupus.wire.messages import Frozen, ResponseFormat, Tool, ToolChoice

AUTO, TEXT = ToolChoice(), ResponseFormat()


class Frame(Frozen):
    """How an assistant's turn is delimited::

        turn := [content] text? (before_first_call? call (between_calls call)*)? end
        call := call_open before_name NAME separator ARGUMENTS after_arguments [call_close]

    ``int`` fields are token ids, ``str`` fields are text. Two texts, or a text and NAME or ARGUMENTS, that stand beside
    each other are ONE run of characters: tokens may straddle their boundary.
    """

    content: int | None  # opens content; None: content opens with nothing, its first token is text
    before_first_call: str  # only behind content, which then ends with it
    between_calls: str
    call_open: int
    before_name: str
    separator: int | str
    after_arguments: str
    call_close: int | None  # None: a call ends where call_open or end stands
    end: int  # end of turn; nothing follows


class FunctionGrammar(Frozen):
    """A function that may be called, with the JSON Schema of its arguments (which are an object all the same)."""

    name: str
    parameters: dict[str, Any] | bool


class CallGrammar(Frozen):
    """One request's rules, see the table in WIRE.md.

    A turn is content as ``content`` says, then ``min_calls`` to ``max_calls`` calls (None: no limit), then the end; one
    without content and without calls is never legal. Where ``content_schema`` is set, content is canonical JSON that
    obeys it and no call follows it: such a turn is content OR calls.
    """

    frame: Frame
    content: Literal["forbidden", "optional", "required"]
    content_schema: dict[str, Any] | bool | None = None
    functions: tuple[FunctionGrammar, ...] = ()
    min_calls: int = 0
    max_calls: int | None = None


def make_frame(bound: Bound) -> Frame:
    """The delimiters of an assistant's turn as ids and text."""
    d, calls = bound.marked, bound.marked.calls
    return Frame(
        content=bound.id_of(d.content) if d.content else None,
        before_first_call=calls.after_content,
        between_calls=calls.between,
        call_open=bound.id_of(calls.open),
        before_name=calls.before_name,
        separator=bound.id_of(calls.separator) if MARK.fullmatch(calls.separator) else calls.separator,
        after_arguments=calls.after_arguments,
        call_close=bound.id_of(calls.close) if calls.close else None,
        end=bound.id_of(d.end),
    )


def make_grammar(
    bound: Bound,
    tools: Sequence[Tool],
    choice: ToolChoice = AUTO,
    parallel: bool = True,
    response_format: ResponseFormat = TEXT,
) -> CallGrammar:
    """The grammar of one request.

    Raises:
        WireError: a choice that names no offered tool, a call required without tools, a name that cannot be written.
    """
    by_name = {tool.name: tool for tool in tools}
    if len(by_name) < len(tools):
        raise WireError("tools: two functions have the same name; give each its own")
    for name in by_name:
        wrong = sorted(set(name) & set(bound.dialect.calls.names_exclude))
        if wrong:
            raise WireError(f"tools: the name {name!r} holds {wrong}, which this wire format cannot write; rename it")
    unknown = [name for name in choice.names or () if name not in by_name]
    if unknown:
        raise WireError(f"tool_choice: no tool is named {unknown[0]!r}; offered: {', '.join(by_name) or 'none'}")
    allowed = by_name if choice.names is None else choice.names
    names = [name for name in by_name if name in allowed and choice.mode != "none"]
    must, named = choice.mode in ("required", "named"), choice.mode == "named"
    if must and not names:
        raise WireError(f"tool_choice: {choice.mode} needs at least one tool that may be called")
    if named and len(names) != 1:
        raise WireError("tool_choice: a named choice holds exactly one name")
    schemas: dict[str, dict[str, Any] | bool | None] = {"text": None, "json_object": {"type": "object"}}
    asked = True if response_format.json_schema is None else response_format.json_schema
    return CallGrammar(
        frame=make_frame(bound),
        content="forbidden" if must else "optional" if names else "required",
        content_schema=schemas.get(response_format.type, asked),
        functions=tuple(FunctionGrammar(name=name, parameters=by_name[name].parameters) for name in names),
        min_calls=1 if must else 0,
        max_calls=0 if not names else 1 if named or not parallel else None,
    )
