"""Ids to events, and whole conversations: the only parser, streaming and not."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from octupus.errors import WireError
from octupus.wire.bind import Bound, Pieces
from octupus.wire.format import in_call_order
from octupus.wire.grammar import Frame
from octupus.wire.messages import Conversation, Message, Tool, ToolCall, canonical_json


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call whose name is complete."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of a call's arguments, JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call whose arguments are complete."""

    index: int


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The model has ended its turn; a stream that lacks it was cut."""


Event = ContentDelta | CallStart | ArgumentsDelta | CallEnd | TurnEnd


class _At(Enum):
    START = auto()
    CONTENT = auto()
    BEFORE_NAME = auto()
    NAME = auto()
    ARGUMENTS = auto()
    BETWEEN = auto()
    ENDED = auto()


class Parser:
    """One assistant turn, from behind the prompt on. The events do not depend on how the ids are cut into ``feed`` calls.

    Text that may turn out to be a delimiter is held back until it is known; so are the bytes of a character that is not whole.

    Args:
        frame: how the dialect delimits.
        token_bytes: the bytes of a text token, None for any other.
        names: the functions that may be called; None: any.
    """

    def __init__(
        self, frame: Frame, token_bytes: Callable[[int], bytes | None], names: Collection[str] | None = None
    ) -> None:
        self._frame, self._bytes, self._names = frame, token_bytes, names
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = _At.START
        self._held = ""
        self._calls = 0

    @property
    def ended(self) -> bool:
        return self._at is _At.ENDED

    def feed(self, ids: Iterable[int]) -> list[Event]:
        """The events that these ids complete.

        Raises:
            WireError: an id that cannot stand here; the turn is no turn of this dialect.
        """
        events: list[Event] = []
        table, decode = self._bytes, self._decoder.decode
        for id in ids:
            data = table(id)
            if data is None:
                rest = decode(b"", True)
                if rest:
                    self.text(rest, events)
                self.token(id, events)
            else:
                text = decode(data)
                if text:
                    self.text(text, events)
        return events

    def finish(self) -> list[Event]:
        """What was held back, once no more ids will come; nothing after a TurnEnd."""
        events: list[Event] = []
        rest = self._decoder.decode(b"", True)
        if rest:
            self.text(rest, events)
        if self._held:
            if self._at is _At.CONTENT:
                events.append(ContentDelta(self._held))
            elif self._at is _At.ARGUMENTS:
                events.append(ArgumentsDelta(self._calls - 1, self._held))
            self._held = ""
        return events

    def text(self, text: str, events: list[Event]) -> None:
        """Go on with text."""
        frame = self._frame
        if self._at is _At.CONTENT:
            ready = self._hold(text, frame.before_first_call)
            if ready:
                events.append(ContentDelta(ready))
        elif self._at is _At.ARGUMENTS:
            ready = self._hold(text, frame.after_arguments)
            if ready:
                events.append(ArgumentsDelta(self._calls - 1, ready))
        elif self._at is _At.START and frame.content is None:
            self._at = _At.CONTENT
            self.text(text, events)
        elif self._at is _At.NAME:
            self._held += text
            if isinstance(frame.separator, str) and frame.separator in self._held:
                name, _, rest = self._held.partition(frame.separator)
                self._begin(name, events)
                self.text(rest, events)
        elif self._at is _At.BEFORE_NAME:
            self._held += text
            before, size = frame.before_name, len(frame.before_name)
            self._expect(self._held[:size] == before[: len(self._held)], repr(self._held))
            if len(self._held) >= size:
                rest, self._held, self._at = self._held[size:], "", _At.NAME
                self.text(rest, events)
        elif self._at is _At.BETWEEN:
            self._held += text
            self._expect(frame.between_calls.startswith(self._held), repr(self._held))
        else:
            self._expect(False, repr(text))

    def token(self, id: int, events: list[Event]) -> None:
        """Go on with an added token."""
        frame, at, held = self._frame, self._at, self._held
        if at is _At.ARGUMENTS and id == (frame.call_close if frame.call_close is not None else id):
            self._expect(held == frame.after_arguments, repr(held))
            events.append(CallEnd(self._calls - 1))
            self._at, self._held = _At.BETWEEN, ""
            if frame.call_close is not None:
                return
            at, held = _At.BETWEEN, frame.between_calls
        if at is _At.START and id == frame.content:
            self._at = _At.CONTENT
        elif at is _At.NAME and id == frame.separator:
            self._begin(held, events)
        elif id == frame.call_open and (
            at in (_At.START, _At.CONTENT) or (at is _At.BETWEEN and held == frame.between_calls)
        ):
            if at is _At.CONTENT and held and held != frame.before_first_call:
                events.append(ContentDelta(held))
            self._held, self._at = "", _At.BEFORE_NAME if frame.before_name else _At.NAME
        elif id == frame.end and at in (_At.START, _At.CONTENT, _At.BETWEEN):
            if at is _At.CONTENT and held:
                events.append(ContentDelta(held))
            events.append(TurnEnd())
            self._held, self._at = "", _At.ENDED
        else:
            self._expect(False, f"token {id}")

    def _begin(self, name: str, events: list[Event]) -> None:
        self._expect(self._names is None or name in self._names, f"a call of {name!r}")
        events.append(CallStart(self._calls, name))
        self._calls += 1
        self._held, self._at = "", _At.ARGUMENTS

    def _hold(self, text: str, delimiter: str) -> str:
        """What of the held text and ``text`` cannot belong to the delimiter any more; the rest stays held."""
        text = self._held + text
        size = min(len(delimiter), len(text))
        while size and not text.endswith(delimiter[:size]):
            size -= 1
        self._held = text[len(text) - size :]
        return text[: len(text) - size]

    def _expect(self, ok: bool, found: str) -> None:
        if not ok:
            raise WireError(f"{found} cannot stand in an assistant turn at {self._at.name} (call {self._calls})")


def collect(events: Iterable[Event]) -> Message:
    """The assistant message that a stream of events tells; arguments that are no JSON object stay text."""
    content: list[str] = []
    names: list[str] = []
    arguments: list[list[str]] = []
    for event in events:
        if isinstance(event, ContentDelta):
            content.append(event.text)
        elif isinstance(event, ArgumentsDelta):
            arguments[event.index].append(event.text)
        elif isinstance(event, CallStart):
            names.append(event.name)
            arguments.append([])
    calls = (ToolCall.from_text(name, "".join(text)) for name, text in zip(names, arguments, strict=True))
    return Message(role="assistant", content="".join(content), tool_calls=tuple(calls))


def by_position(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Results in the order of their calls, and call ids replaced by ``call_0``, ``call_1`` ... through the conversation."""
    out: list[Message] = []
    waiting: list[str] = []
    count, at = 0, 0
    while at < len(messages):
        message = messages[at]
        if message.role == "tool":
            first = at
            while at < len(messages) and messages[at].role == "tool":
                at += 1
            for index, result in enumerate(in_call_order(messages, first, at)):
                id = waiting[index] if index < len(waiting) else None
                out.append(result.model_copy(update={"tool_call_id": id}))
            continue
        waiting = [f"call_{count + k}" for k in range(len(message.tool_calls))]
        count += len(waiting)
        calls = (c.model_copy(update={"id": id}) for c, id in zip(message.tool_calls, waiting, strict=True))
        out.append(message.model_copy(update={"tool_calls": tuple(calls)}))
        at += 1
    return tuple(out)


class _Cursor:
    """Reads a conversation's ids as added tokens and runs of text."""

    def __init__(self, bound: Bound, ids: Sequence[int]) -> None:
        self.items: list[int | str] = []
        run: list[int] = []
        tokenizer = bound.tokenizer
        for id in [*ids, None]:
            if id is not None and tokenizer.token_bytes(id) is not None:
                run.append(id)
                continue
            if run:
                self.items.append(tokenizer.decode(run))
                run = []
            if id is not None:
                self.items.append(id)
        self.at = 0

    @property
    def done(self) -> bool:
        return self.at == len(self.items)

    def take(self, pieces: Pieces) -> bool:
        """Step over fixed pieces; stay where it was if they do not stand here."""
        at, items = self.at, self.items
        rest: str | None = None
        for piece in pieces:
            item = rest if rest else items[at] if at < len(items) else None
            if isinstance(piece, str) and isinstance(item, str) and item.startswith(piece):
                rest = item[len(piece) :]
                at += 0 if rest else 1
            elif isinstance(piece, int) and item == piece:
                at += 1
            else:
                return False
        self.at = at
        if rest:
            self.items[at] = rest
        return True

    def run(self, close: Pieces = ()) -> str:
        """The text up to ``close``, or up to the next token."""
        if self.done or isinstance(self.items[self.at], int):
            return ""
        text = str(self.items[self.at])
        cut = text.find(close[0]) if close and isinstance(close[0], str) else -1
        if cut < 0:
            self.at += 1
            return text
        self.items[self.at] = text[cut:]
        return text[:cut]


class _Reader:
    """A rendered conversation, or a prompt, back to a conversation."""

    def __init__(self, bound: Bound, ids: Sequence[int]) -> None:
        self.bound, self.cursor = bound, _Cursor(bound, ids)
        self.messages: list[Message] = []
        self.tools: tuple[Tool, ...] = ()

    def read(self) -> Conversation:
        bound, cursor = self.bound, self.cursor
        while not cursor.done:
            if cursor.take(bound.system_open):
                self._system()
            elif cursor.take(bound.results_open + bound.each_open):
                self._results()
            elif cursor.take(bound.user_open):
                self.messages.append(Message(role="user", content=cursor.run()))
                self._close(bound.user_close)
            elif cursor.take(bound.assistant):
                self._assistant()
            else:
                raise WireError(f"no turn of dialect {bound.dialect.name!r} begins with {cursor.items[cursor.at]!r}")
        return Conversation(messages=by_position(self.messages), tools=self.tools)

    def _close(self, pieces: Pieces) -> None:
        if not self.cursor.take(pieces):
            raise WireError(
                f"a {self.messages[-1].role} turn is not closed as dialect {self.bound.dialect.name!r} closes it"
            )

    def _system(self) -> None:
        text: str | None = self.cursor.run()
        assert text is not None
        form, close = self.bound.dialect.tools, self.bound.tools_close
        cut = text.rfind(form.after_text + form.open)
        head, start = (text[:cut], cut + len(form.after_text)) if cut >= 0 else (None, 0)
        if not self.messages and (head is not None or text.startswith(form.open)):
            inner = text[start + len(form.open) :]
            first = close[0] if close and isinstance(close[0], str) else ""
            tools = (
                _tools(inner[: len(inner) - len(first)], form.between, form.wrapped) if inner.endswith(first) else None
            )
            if tools and self.cursor.take(close[1:] if first else close):
                self.tools, text = tools, head
        if text is not None:
            self.messages.append(Message(role="system", content=text))
        self._close(self.bound.system_close)

    def _results(self) -> None:
        bound, cursor = self.bound, self.cursor
        if bound.dialect.results.as_array:
            values = json.loads(cursor.run())
            texts = [v if isinstance(v, str) else canonical_json(v) for v in values]
        else:
            texts = []
            while True:
                texts.append(cursor.run(bound.each_close))
                if not cursor.take(bound.each_close):
                    raise WireError("a tool result is not closed")
                if not cursor.take(bound.each_open):
                    break
        self.messages += [Message(role="tool", content=text) for text in texts]
        self._close(bound.results_close)

    def _assistant(self) -> None:
        bound, cursor = self.bound, self.cursor
        cursor.take(bound.reply)
        if cursor.done:
            return  # a prompt: the model goes on here
        parser = Parser(bound.frame, bound.tokenizer.token_bytes)
        events: list[Event] = []
        while not parser.ended:
            if cursor.done:
                raise WireError("the ids end inside an assistant turn")
            item = cursor.items[cursor.at]
            cursor.at += 1
            if isinstance(item, str):
                parser.text(item, events)
            else:
                parser.token(item, events)
        self.messages.append(collect(events))
        self._close(bound.after_end)


def read(bound: Bound, ids: Sequence[int]) -> Conversation:
    """Law 3: ``read(render(c))`` is ``c`` with call ids by position and the default system message written out.

    Raises:
        WireError: these ids are no conversation of this dialect.
    """
    return _Reader(bound, ids).read()


def _tools(text: str, between: str, wrapped: bool) -> tuple[Tool, ...] | None:
    decoder = json.JSONDecoder()
    tools: list[Tool] = []
    at = 0
    try:
        while True:
            value, at = decoder.raw_decode(text, at)
            tools.append(Tool(raw=value if wrapped else {"type": "function", "function": value}))
            if at == len(text):
                return tuple(tools)
            if not text.startswith(between, at):
                return None
            at += len(between)
    except ValueError:
        return None
