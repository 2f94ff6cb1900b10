"""The wire format as a value, and the dialects that ship; renderer, parser, grammar and template only read it.

In every string of a :class:`Dialect`, an added token of the checkpoint's tokenizer means that token; the rest is text.
"""

from __future__ import annotations

from octupus.wire.messages import Frozen

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
    wrapped: bool = True  # {"type": "function", "function": {...}} as the request gave it, or the inner object alone


class Results(Frozen):
    """Consecutive tool results, in the order of the calls that they answer."""

    open: str = ""
    each_open: str = ""
    each_close: str = ""
    close: str = ""
    as_array: bool = False  # one JSON array, each content as JSON where it parses; else one text after another


class Calls(Frozen):
    """``after_content? (open before_name NAME separator ARGUMENTS after_arguments close) between (open ...``"""

    open: str  # a token
    before_name: str = ""
    separator: str  # a token, or text
    after_arguments: str = ""
    close: str = ""  # a token; empty: the arguments end where the next token stands
    after_content: str = ""
    between: str = ""
    names_exclude: str = ""  # characters that a name cannot hold


class SpecialToken(Frozen):
    """A token that surgery adds; its embedding rows start as the mean of those of ``like``."""

    token: str
    like: str


class Dialect(Frozen):
    """How a conversation is written, see WIRE.md. Saved beside the weights."""

    name: str
    default_system: str | None  # written where a conversation has no system message; None: nothing is
    system: Turn
    user: Turn
    assistant: str  # opens the assistant's turn
    reply: str = ""  # follows where the model is about to write, in prompts and in training, not in replayed turns
    content: str = ""  # the token that opens content, or nothing
    calls: Calls
    end: str = ""  # the token that ends the assistant's turn; empty: the tokenizer's EOS
    after_end: str = ""  # never supervised
    tools: Tools
    results: Results
    special_tokens: tuple[SpecialToken, ...] = ()  # in the order of their ids


_LIKE = {
    "<|SYSTEM|>": "system",
    "<|USER|>": "user",
    "<|ASSISTANT|>": "assistant",
    "<|FUNCTION_CALL|>": "tool call",
    "<|PARAMETERS|>": "arguments",
    "<|FUNCTION_OUTPUT|>": "tool response",
    "<|CONTENT|>": "content",
}

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
    special_tokens=tuple(SpecialToken(token=token, like=like) for token, like in _LIKE.items()),
)

OCTUPUS_V1 = OCTUPUS.model_copy(
    update={
        "name": "octupus-v1",
        "tools": Tools(open="你可以使用这些函数来帮助用户解决问题: [", between=", ", close="]", wrapped=False),
        "results": Results(open="<|FUNCTION_OUTPUT|>", as_array=True),
    }
)
