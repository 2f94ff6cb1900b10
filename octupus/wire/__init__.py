"""The wire format: how a conversation becomes tokens and back, and what a model may write. Begin at :class:`Wire`."""
# ruff: noqa: F401

from octupus.wire.dialect import Dialect
from octupus.wire.export import check_fingerprint, read_wire, write_wire
from octupus.wire.format import Rendered
from octupus.wire.grammar import CallGrammar, Frame, FunctionGrammar
from octupus.wire.messages import Conversation, Message, ResponseFormat, Tool, ToolCall, ToolChoice
from octupus.wire.parse import ArgumentsDelta, CallEnd, CallStart, ContentDelta, Event, Parser, TurnEnd, collect
from octupus.wire.tokenizer import Tokenizer
from octupus.wire.wire import Wire, make_dialect
