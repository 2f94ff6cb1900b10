"""Items of a stream as OpenAI writes them: chunks of server-sent events, or one chat completion."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any

from octupus.serve.engines import TokenLogprobs
from octupus.serve.errors import ApiError
from octupus.serve.protocol import Task
from octupus.serve.stream import Begun, CallOpened, Finish, Item, Logprobs
from octupus.wire import ArgumentsDelta, ContentDelta

DONE = b"data: [DONE]\n\n"
TokenText = Callable[[int], bytes | None]


@dataclass(frozen=True)
class Identity:
    """What every piece of one answer says about itself."""

    id: str
    created: int
    model: str
    fingerprint: str


class Writer:
    """An answer in one API's words, fed the same items whether it is streamed or not."""

    def __init__(self, identity: Identity, prompt_tokens: int, task: Task, token_text: TokenText) -> None:
        self._identity, self._prompt_tokens, self._task, self._token_text = identity, prompt_tokens, task, token_text

    def add(self, choice: int, items: Sequence[Item]) -> bytes:
        """Take one choice's items; what to send now, where the answer is streamed."""
        raise NotImplementedError

    def closing(self) -> bytes:
        """What ends a stream that went well."""
        raise NotImplementedError

    def failed(self, error: ApiError) -> bytes:
        """What ends a stream that did not."""
        raise NotImplementedError

    def value(self) -> dict[str, Any]:
        """The whole answer, where it is not streamed."""
        raise NotImplementedError


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


_LINE_ENDS = re.compile("[\u0085\u2028\u2029]")


def _in_one_line(text: str) -> str:
    """JSON without what some clients take for the end of a line, in the middle of an event."""
    return text if text.isascii() else _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def quoted(text: str) -> str:
    """A JSON string."""
    return _in_one_line(encode_basestring(text))


def written(value: Any) -> str:
    """JSON as answers hold it: compact, and text as text, not as escapes."""
    return _in_one_line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def event(value: Any) -> bytes:
    """One server-sent event."""
    return f"data: {written(value)}\n\n".encode()


def logprob_entry(token: TokenLogprobs, token_text: TokenText) -> dict[str, Any]:
    def one(id: int, logprob: float) -> dict[str, Any]:
        data = token_text(id) or b""
        return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}

    return {**one(token.id, token.logprob), "top_logprobs": [one(id, value) for id, value in token.top.items()]}


class Chunks(Writer):
    """Encodes items as ``chat.completion.chunk`` events. Built from strings: this runs once a token."""

    def __init__(self, identity: Identity, prompt_tokens: int, task: Task, token_text: TokenText) -> None:
        super().__init__(identity, prompt_tokens, task, token_text)
        include_usage = task.include_usage
        head = (
            f'data: {{"id":"chatcmpl-{identity.id}","object":"chat.completion.chunk","created":{identity.created},'
            f'"model":{quoted(identity.model)},"system_fingerprint":{quoted(identity.fingerprint)},"choices":['
        )
        self._head = head + '{"index":'
        self._tail = ',"usage":null}\n\n' if include_usage else "}\n\n"
        self._usage_head = head if include_usage else ""
        self._begun: set[int] = set()
        self._logprobs: dict[int, list[TokenLogprobs]] = {}
        self._completion_tokens = 0

    def add(self, choice: int, items: Sequence[Item]) -> bytes:
        """The chunks of one choice's items; the first ones say who speaks."""
        if len(items) == 1 and type(only := items[0]) is ContentDelta and choice in self._begun and not self._logprobs:
            text = quoted(only.text)  # nearly every token of a text
            delta = f'{choice},"delta":{{"content":{text}}},"logprobs":null,"finish_reason":null}}]'
            return f"{self._head}{delta}{self._tail}".encode()
        parts: list[str] = []
        if choice not in self._begun:
            self._begun.add(choice)
            calling = isinstance(items[0], CallOpened) or (isinstance(items[0], Begun) and items[0].calling)
            content = "null" if calling else '""'
            parts.append(self._chunk(choice, f'{{"role":"assistant","content":{content},"refusal":null}}'))
        for item in items:
            if isinstance(item, ContentDelta):
                parts.append(self._chunk(choice, f'{{"content":{quoted(item.text)}}}'))
            elif isinstance(item, ArgumentsDelta):
                function = f'{{"arguments":{quoted(item.text)}}}'
                parts.append(self._chunk(choice, f'{{"tool_calls":[{{"index":{item.index},"function":{function}}}]}}'))
            elif isinstance(item, CallOpened):
                call = f'"index":{item.index},"id":{quoted(item.id)},"type":"function"'
                function = f'{{"name":{quoted(item.name)},"arguments":""}}'
                parts.append(self._chunk(choice, f'{{"tool_calls":[{{{call},"function":{function}}}]}}'))
            elif isinstance(item, Logprobs):
                self._logprobs.setdefault(choice, []).extend(item.entries)
            elif isinstance(item, Finish):
                self._completion_tokens += item.tokens
                cut = item.incomplete
                # With a function: the official client's helper insists on one in every delta of a call.
                mark = f'{{"index":{cut},"function":{{"arguments":""}},"incomplete":true}}'
                # Cut within the first call's name: neither content nor a call has left, and one of them must be there.
                nothing = '{"content":""}' if not item.calls and item.reason == "length" else "{}"
                delta = nothing if cut is None else f'{{"tool_calls":[{mark}]}}'
                parts.append(self._chunk(choice, delta, f'"{item.reason}"'))
        return "".join(parts).encode()

    def _chunk(self, choice: int, delta: str, finish: str = "null") -> str:
        waiting = self._logprobs.pop(choice, None)
        logprobs = "null"
        if waiting:
            entries = [logprob_entry(entry, self._token_text) for entry in waiting]
            logprobs = written({"content": entries, "refusal": None})
        return f'{self._head}{choice},"delta":{delta},"logprobs":{logprobs},"finish_reason":{finish}}}]{self._tail}'

    def closing(self) -> bytes:
        """The chunk without choices that holds usage, where it was asked for, and the end."""
        value = written(usage(self._prompt_tokens, self._completion_tokens))
        return (f'{self._usage_head}],"usage":{value}}}\n\n'.encode() if self._usage_head else b"") + DONE

    def failed(self, error: ApiError) -> bytes:
        return event(error.body()) + DONE


@dataclass
class _Choice:
    content: list[str] | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: Finish | None = None


class Completion(Writer):
    """Gathers the same items into one ``chat.completion``."""

    def __init__(self, identity: Identity, prompt_tokens: int, task: Task, token_text: TokenText) -> None:
        super().__init__(identity, prompt_tokens, task, token_text)
        self._choices = [_Choice() for _ in range(task.n)]

    def add(self, choice: int, items: Sequence[Item]) -> bytes:
        into = self._choices[choice]
        for item in items:
            if isinstance(item, ContentDelta):
                into.content = into.content or []
                into.content.append(item.text)
            elif isinstance(item, ArgumentsDelta):
                into.calls[item.index]["function"]["arguments"].append(item.text)
            elif isinstance(item, CallOpened):
                function = {"name": item.name, "arguments": []}
                into.calls.append({"id": item.id, "type": "function", "function": function})
            elif isinstance(item, Logprobs):
                into.logprobs.extend(item.entries)
            elif isinstance(item, Finish):
                into.finish = item
        return b""

    def value(self) -> dict[str, Any]:
        i = self._identity
        completion_tokens = sum(c.finish.tokens for c in self._choices if c.finish is not None)
        return {
            "id": f"chatcmpl-{i.id}",
            "object": "chat.completion",
            "created": i.created,
            "model": i.model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self._choices)],
            "usage": usage(self._prompt_tokens, completion_tokens),
            "system_fingerprint": i.fingerprint,
        }

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        assert choice.finish is not None
        content = "".join(choice.content) if choice.content is not None else None if choice.calls else ""
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        for call in choice.calls:
            call["function"]["arguments"] = "".join(call["function"]["arguments"])
        if choice.finish.incomplete is not None:
            choice.calls[choice.finish.incomplete]["incomplete"] = True
        if choice.calls:  # absent rather than empty: clients read an empty list as "it called tools"
            message["tool_calls"] = choice.calls
        logprobs = None
        if choice.logprobs:
            entries = [logprob_entry(entry, self._token_text) for entry in choice.logprobs]
            logprobs = {"content": entries, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish.reason}
