"""Everything that a room does with tokens, in one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from octupus.errors import WireError
from octupus.wire.bind import Bound
from octupus.wire.dialect import OCTUPUS, OCTUPUS_V1, Dialect
from octupus.wire.export import chat_template, fingerprint
from octupus.wire.format import render, render_prompt, turns
from octupus.wire.grammar import CallGrammar, make_frame, make_grammar
from octupus.wire.parse import Parser
from octupus.wire.qwen import qwen
from octupus.wire.read import read
from octupus.wire.tokenizer import Tokenizer

DIALECTS: Mapping[str, Callable[[Tokenizer], Dialect]] = {
    "octupus": lambda _: OCTUPUS,
    "octupus-v1": lambda _: OCTUPUS_V1,
    "qwen": qwen,
}


def make_dialect(name: str, tokenizer: Tokenizer) -> Dialect:
    """The dialect ``name`` as this checkpoint writes it (``qwen`` takes its sentences from the checkpoint's template).

    Raises:
        WireError: no such dialect, or a checkpoint that cannot speak it.
    """
    if name not in DIALECTS:
        raise WireError(f"no dialect {name!r}; choose one of: {', '.join(sorted(DIALECTS))}")
    return DIALECTS[name](tokenizer)


class Wire(Bound):
    """A dialect bound to a tokenizer.

    ``render(conversation) -> Rendered``, ``render_prompt(messages, tools) -> ids``, ``parse(ids) -> Conversation``,
    ``turns(rendered)``, ``grammar(tools, choice, parallel, response_format) -> CallGrammar``.

    Raises:
        WireError: naming the tokens that the tokenizer lacks.
    """

    render = render
    render_prompt = render_prompt
    parse = read
    grammar = make_grammar
    turns = staticmethod(turns)

    def __init__(self, dialect: Dialect, tokenizer: Tokenizer) -> None:
        super().__init__(dialect, tokenizer)
        self.frame = make_frame(self)
        self.end_id = self.frame.end  # the engine's stop token

    def parser(self, grammar: CallGrammar | None = None) -> Parser:
        """A parser for one answer; with a grammar it refuses calls of functions that are not in it."""
        return Parser(self, None if grammar is None else {f.name for f in grammar.functions})

    @cached_property
    def fingerprint(self) -> str:
        """Names this wire: dialect, token table, tokenizer and format version."""
        return fingerprint(self)

    @cached_property
    def chat_template(self) -> str:
        """The Jinja template that renders as this wire does."""
        return chat_template(self)
