"""The wire format as a value, and the dialects that ship. Renderer, parser, grammar and template read it; nobody asks its name.

In every string of a :class:`Dialect`, an added token of the checkpoint's tokenizer means that token; the rest is text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from octupus.errors import WireError
from octupus.wire.messages import Frozen
from octupus.wire.tokenizer import Tokenizer

FORMAT_VERSION = 1


class Turn(Frozen):
    """What stands before and after the text of a turn."""

    open: str
    close: str = ""


class Tools(Frozen):
    """The tools, inside the system turn: ``after_text`` (only behind a system text), ``open``, the tools, ``close``."""

    after_text: str = "\n\n"
    open: str
    between: str
    close: str
    wrapped: bool = True
    """``{"type": "function", "function": {...}}`` as the request gave it, or the function object alone."""


class Results(Frozen):
    """Consecutive tool results, in the order of the calls that they answer."""

    open: str = ""
    each_open: str = ""
    each_close: str = ""
    close: str = ""
    as_array: bool = False
    """One JSON array of all contents, each as JSON where it parses; else one text after another."""


class Calls(Frozen):
    """``after_content? (open before_name NAME separator ARGUMENTS after_arguments close) between ...``"""

    open: str
    """The token that opens a call."""
    before_name: str = ""
    separator: str
    """Between name and arguments: one token, or text."""
    after_arguments: str = ""
    close: str = ""
    """The token that closes a call; empty: the arguments end where the next token stands."""
    after_content: str = ""
    between: str = ""
    names_exclude: str = ""
    """Characters that a name cannot hold."""


class SpecialToken(Frozen):
    """A token that surgery adds; its embedding rows start as the mean of those of ``like``."""

    token: str
    like: str


class Dialect(Frozen):
    """How a conversation is written, see WIRE.md. Saved beside the weights."""

    name: str
    default_system: str | None
    """Written where a conversation has no system message; None: nothing is."""
    system: Turn
    user: Turn
    assistant: str
    """Opens the assistant's turn."""
    reply: str = ""
    """Follows ``assistant`` where the model is about to write, in prompts and in training, not in replayed turns."""
    content: str = ""
    """The token that opens content, or nothing."""
    calls: Calls
    end: str | None = None
    """Ends the assistant's turn; None: the tokenizer's EOS."""
    after_end: str = ""
    """Fixed, never supervised."""
    tools: Tools
    results: Results
    special_tokens: tuple[SpecialToken, ...] = ()
    """In the order of their ids."""


OCTUPUS = Dialect(
    name="octupus",
    default_system="You are a helpful assistant.",
    system=Turn(open="<|SYSTEM|>"),
    user=Turn(open="<|USER|>"),
    assistant="<|ASSISTANT|>",
    content="<|CONTENT|>",
    calls=Calls(open="<|FUNCTION_CALL|>", separator="<|PARAMETERS|>"),
    tools=Tools(open="你可以使用这些工具来帮助用户解决问题: [", between=", ", close="]"),
    results=Results(each_open="<|FUNCTION_OUTPUT|>"),
    special_tokens=(
        SpecialToken(token="<|SYSTEM|>", like="system"),
        SpecialToken(token="<|USER|>", like="user"),
        SpecialToken(token="<|ASSISTANT|>", like="assistant"),
        SpecialToken(token="<|FUNCTION_CALL|>", like="tool call"),
        SpecialToken(token="<|PARAMETERS|>", like="arguments"),
        SpecialToken(token="<|FUNCTION_OUTPUT|>", like="tool response"),
        SpecialToken(token="<|CONTENT|>", like="content"),
    ),
)

OCTUPUS_V1 = OCTUPUS.model_copy(
    update={
        "name": "octupus-v1",
        "tools": Tools(open="你可以使用这些函数来帮助用户解决问题: [", between=", ", close="]", wrapped=False),
        "results": Results(open="<|FUNCTION_OUTPUT|>", as_array=True),
    }
)

DIALECTS: Mapping[str, Callable[[Tokenizer], Dialect]] = {
    "octupus": lambda _: OCTUPUS,
    "octupus-v1": lambda _: OCTUPUS_V1,
}


def make_dialect(name: str, tokenizer: Tokenizer) -> Dialect:
    """The dialect ``name`` as this checkpoint writes it (``qwen`` takes its sentences from the checkpoint's template).

    Raises:
        WireError: no such dialect, or a checkpoint that cannot speak it.
    """
    if name not in DIALECTS:
        raise WireError(f"no dialect {name!r}; choose one of: {', '.join(sorted(DIALECTS))}")
    return DIALECTS[name](tokenizer)
