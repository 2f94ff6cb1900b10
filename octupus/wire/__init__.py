"""The wire format: how a conversation becomes tokens and back. See docs and :class:`Wire`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from octupus.wire.bind import Bound
from octupus.wire.dialect import Dialect, make_dialect
from octupus.wire.export import chat_template, check_fingerprint, fingerprint, read_wire, write_wire
from octupus.wire.format import Rendered, render, render_prompt
from octupus.wire.grammar import CallGrammar, Frame, FunctionGrammar, make_grammar
from octupus.wire.messages import (
    Conversation,
    Message,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolChoice,
)
from octupus.wire.parse import (
    ArgumentsDelta,
    CallEnd,
    CallStart,
    ContentDelta,
    Event,
    Parser,
    TurnEnd,
    by_position,
    collect,
    read,
)
from octupus.wire.tokenizer import Tokenizer


class Wire:
    """A dialect bound to a tokenizer: everything that a room does with tokens.

    Raises:
        WireError: naming the tokens that the tokenizer lacks.
    """

    def __init__(self, dialect: Dialect, tokenizer: Tokenizer) -> None:
        self.dialect, self.tokenizer = dialect, tokenizer
        self.bound = Bound(dialect, tokenizer)

    @property
    def frame(self) -> Frame:
        return self.bound.frame

    @property
    def end_id(self) -> int:
        """The token that ends the assistant's turn: the engine's stop token."""
        return self.bound.frame.end

    def render(self, conversation: Conversation) -> Rendered:
        """Ids and mask of a training example; WireError where it is none."""
        return render(self.bound, conversation)

    def render_prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Ids up to where the model goes on."""
        return render_prompt(self.bound, messages, tools)

    def grammar(
        self,
        tools: Sequence[Tool],
        choice: ToolChoice | None = None,
        parallel: bool = True,
        response_format: ResponseFormat | None = None,
    ) -> CallGrammar:
        """What the model may write for this request; WireError where the request contradicts itself."""
        return make_grammar(
            self.frame,
            self.dialect.calls,
            tools,
            choice or ToolChoice(),
            parallel,
            response_format or ResponseFormat(),
        )

    def parser(self, grammar: CallGrammar | None = None) -> Parser:
        """A parser for one answer; with a grammar it refuses calls of functions that are not in it."""
        names = None if grammar is None else frozenset(f.name for f in grammar.functions)
        return Parser(self.frame, self.tokenizer.token_bytes, names)

    def parse(self, ids: Sequence[int]) -> Conversation:
        """A rendered conversation or prompt, back."""
        return read(self.bound, ids)

    def normal(self, conversation: Conversation) -> Conversation:
        """What ``parse(render(conversation))`` gives: the default system message written out, call ids by position."""
        messages, default = conversation.messages, self.dialect.default_system
        if messages[0].role != "system" and default is not None:
            messages = (Message(role="system", content=default), *messages)
        return conversation.model_copy(update={"messages": by_position(messages)})

    def turns(self, rendered: Rendered) -> list[tuple[int, list[int]]]:
        """Each assistant turn: the length of the prompt before it, and its supervised ids (the end included)."""
        turns: list[tuple[int, list[int]]] = []
        inside = False
        for at, (id, supervised) in enumerate(zip(rendered.ids, rendered.mask, strict=True)):
            if supervised and not inside:
                turns.append((at, []))
            if supervised:
                turns[-1][1].append(id)
            inside = supervised
        return turns

    @cached_property
    def fingerprint(self) -> str:
        """Names this wire: dialect, token table, tokenizer and format version."""
        return fingerprint(self.bound)

    @cached_property
    def chat_template(self) -> str:
        """The Jinja template that renders as this wire does."""
        return chat_template(self.bound)


__all__ = [
    "ArgumentsDelta",
    "CallEnd",
    "CallGrammar",
    "CallStart",
    "ContentDelta",
    "Conversation",
    "Dialect",
    "Event",
    "Frame",
    "FunctionGrammar",
    "Message",
    "Parser",
    "Rendered",
    "ResponseFormat",
    "Tokenizer",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "TurnEnd",
    "Wire",
    "check_fingerprint",
    "collect",
    "make_dialect",
    "read_wire",
    "write_wire",
]
