"""Ids to events: the only parser, streaming and not."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from octupus.errors import WireError
from octupus.wire.bind import MARK, Bound
from octupus.wire.messages import Message, ToolCall


@dataclass(frozen=True, slots=True)
class ContentDelta:
    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    index: int
    name: str  # whole


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    index: int
    text: str  # more of the JSON


@dataclass(frozen=True, slots=True)
class CallEnd:
    index: int


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The model has ended its turn; a stream without it was cut."""


Event = ContentDelta | CallStart | ArgumentsDelta | CallEnd | TurnEnd


def delimiters(bound: Bound) -> dict[str, tuple[tuple[str, str], ...]]:
    """For each state of a turn: what may end it, and the state that follows."""
    d, calls = bound.marked, bound.marked.calls
    call, tail = calls.open + calls.before_name, calls.after_arguments + calls.close
    last = (calls.between + call, "name"), (d.end, "ended")
    answer = (calls.after_content + call, "name"), (call, "name"), (d.end, "ended")
    return {
        "start": ((d.content, "content"), *answer) if d.content else (),
        "content": answer,
        "name": ((calls.separator, "arguments"),),
        "arguments": ((tail, "after"),) if tail else last,
        "after": last,
        "ended": (),
    }


_STREAMED = ("content", "arguments")


class Parser:
    """One assistant turn, from behind the prompt on. The events do not depend on how the ids are cut into feeds.

    Text that may turn out to be a delimiter is held back until that is known; so is a character that is not whole.

    Args:
        names: the functions that may be called; None: any.
    """

    def __init__(self, bound: Bound, names: Collection[str] | None = None) -> None:
        self._bound, self._bytes, self._names = bound, bound.tokenizer.token_bytes, names
        self._delimiters = delimiters(bound)
        firsts = {at: "".join(delimiter[0] for delimiter, _ in self._delimiters[at]) for at in _STREAMED}
        self._may_end = {at: re.compile(f"[{re.escape(found)}]").search for at, found in firsts.items()}
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._at = "start" if bound.dialect.content else "content"
        self._held = ""
        self._calls = 0

    @property
    def ended(self) -> bool:
        return self._at == "ended"

    def feed(self, ids: Iterable[int]) -> list[Event]:
        """The events that these ids complete.

        Raises:
            WireError: an id that cannot stand here; the turn is no turn of this dialect.
        """
        events: list[Event] = []
        for id in ids:
            data = self._bytes(id)
            text = self._decode(data) if data is not None else self._decode(b"", True) + self._bound.mark_of(id)
            if text:
                self.go_on(text, events)
        return events

    def finish(self) -> list[Event]:
        """What was held back, once no more ids will come; the stream was cut unless the last event is a TurnEnd."""
        events: list[Event] = []
        rest = self._decode(b"", True)
        if rest:
            self.go_on(rest, events)
        if self._held and self._at in _STREAMED and not MARK.search(self._held):
            self._emit(self._held, events)
        self._held = ""
        return events

    def go_on(self, marked: str, events: list[Event]) -> None:
        """Read marked text."""
        if not self._held and self._at in _STREAMED and not self._may_end[self._at](marked):  # nearly every token
            self._emit(marked, events)
            return
        text = self._held + marked
        while True:
            ends = self._delimiters[self._at]
            cut = len(text)
            for delimiter, follows in ends:
                at = text.find(delimiter, 0, cut + len(delimiter) - 1)
                if 0 <= at < cut:
                    cut, found, state = at, delimiter, follows
            if cut == len(text):
                break
            self._leave(text[:cut], state, events)
            text = text[cut + len(found) :]
        if self._at == "name":
            self._refuse_marks(text)
            self._held = text
            return
        cut -= max((_overlap(text, delimiter) for delimiter, _ in ends), default=0)
        self._held = text[cut:]
        if cut:
            self._emit(text[:cut], events)

    def _leave(self, text: str, state: str, events: list[Event]) -> None:
        if self._at == "name":
            if self._names is not None and text not in self._names:
                raise WireError(f"a call of {text!r}, which may not be called here")
            self._refuse_marks(text)
            events.append(CallStart(self._calls, text))
            self._calls += 1
        else:
            if text:
                self._emit(text, events)
            if self._at == "arguments":
                events.append(CallEnd(self._calls - 1))
        if state == "ended":
            events.append(TurnEnd())
        self._at = state

    def _emit(self, text: str, events: list[Event]) -> None:
        self._refuse_marks(text)
        if self._at == "content":
            events.append(ContentDelta(text))
        elif self._at == "arguments":
            events.append(ArgumentsDelta(self._calls - 1, text))
        else:
            raise WireError(f"{text!r} cannot stand in an assistant turn ({self._at}, {self._calls} calls)")

    def _refuse_marks(self, text: str) -> None:
        mark = MARK.search(text)
        if mark:
            id = self._bound.id_of(mark.group())
            raise WireError(f"token {id} cannot stand in an assistant turn ({self._at}, {self._calls} calls)")


def _overlap(text: str, delimiter: str) -> int:
    """How many of the last characters of ``text`` may be the beginning of ``delimiter``."""
    size = min(len(text), len(delimiter) - 1)
    while size > 0 and not text.endswith(delimiter[:size]):
        size -= 1
    return size


def collect(events: Iterable[Event]) -> Message:
    """The assistant message that a stream of events tells; arguments that are no JSON object stay text."""
    content: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for event in events:
        if isinstance(event, ContentDelta):
            content.append(event.text)
        elif isinstance(event, ArgumentsDelta):
            calls[event.index][1].append(event.text)
        elif isinstance(event, CallStart):
            calls.append((event.name, []))
    tool_calls = tuple(ToolCall.from_text(name, "".join(parts)) for name, parts in calls)
    return Message(role="assistant", content="".join(content), tool_calls=tool_calls)
