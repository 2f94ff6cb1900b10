"""OpenAI's Responses API as another dress of the same task and the same stream. Without state: nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octupus.serve.answers import Identity, TokenText, Writer, written
from octupus.serve.errors import ApiError, refuse
from octupus.serve.protocol import ChatRequest, Task
from octupus.serve.stream import CallOpened, Finish, Item
from octupus.wire import ArgumentsDelta, ContentDelta

SAME = ("model", "tool_choice", "parallel_tool_calls", "temperature", "top_p", "stream", "seed", "top_k", "min_p")
NOTHING_KEPT: Mapping[str, tuple[Any, ...]] = {
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "background": (False,),
    "store": (False,),
}
HARMLESS = ("include", "reasoning", "truncation", "stream_options")
"""What clients send out of habit; none of it changes what this server does."""
WORDS = {"messages": "input", "response_format": "text.format"}
WORDS |= dict.fromkeys(("max_tokens", "max_completion_tokens"), "max_output_tokens")


def to_chat(value: dict[str, Any]) -> dict[str, Any]:
    """The request in the words of chat completions.

    Raises:
        ApiError: 400, with the field in the words of this API.
    """
    for name, allowed in NOTHING_KEPT.items():
        if value.get(name) is not None and value[name] not in allowed:
            refuse(name, "this server keeps no state; send the whole conversation as input", "unsupported_value")
    for name in sorted({*ChatRequest.model_fields} - {*SAME, "messages", "tools", "stream_options"}):
        if value.get(name):
            hint = f"; here it is {WORDS[name]}" if name in WORDS else ""
            why = f"{name} is a field of chat completions that /v1/responses does not have{hint}"
            refuse(name, why, "unsupported_parameter")
    if not isinstance(value.get("text"), dict | None):
        refuse("text", "expected an object")
    chat = {name: value[name] for name in SAME if name in value}
    known = {*NOTHING_KEPT, *HARMLESS, *ChatRequest.model_fields, *WORDS.values(), "instructions", "text"}
    chat |= {name: inner for name, inner in value.items() if name not in known}  # to be named as unknown, or as no-ops
    chat["max_completion_tokens"] = value.get("max_output_tokens")
    chat["messages"] = _messages(value.get("instructions"), value.get("input"))
    tools = value.get("tools")
    if isinstance(tools, list):
        tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    text = value.get("text")
    shape = text.get("format") if isinstance(text, dict) else None
    if isinstance(shape, dict) and shape.get("type") == "json_schema":
        shape = {"type": "json_schema", "json_schema": shape}
    return {**chat, "tools": tools, "response_format": shape}


def in_our_words(error: ApiError) -> ApiError:
    """A refusal of the chat request, as the client of this API knows the field."""
    field = (error.param or "").replace("[", ".").partition(".")[0]
    param = WORDS.get(field, (error.param or "").replace(".function", "")) or None
    return ApiError(error.message, error.status, param, error.code, error.retry_after_s)


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        refuse(f"{where}.type", "only function tools are offered", "invalid_tool")
    return {"type": "function", "function": {key: inner for key, inner in tool.items() if key != "type"}}


def _messages(instructions: Any, given: Any) -> list[dict[str, Any]]:
    """Items as messages. An assistant's text and the calls behind it are one turn, as they were when they were made."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        refuse("input", "expected a text or a list of items")
    for i, item in enumerate(given):
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "message" and isinstance(item.get("role"), str):
            messages.append({"role": item["role"], "content": item.get("content")})
        elif kind == "function_call" and {"name", "arguments"} <= item.keys():
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            content = item.get("output")
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":
            refuse(f"input[{i}]", "expected a message, function_call or function_call_output", "invalid_input")
    return messages


class ResponseWriter(Writer):
    """Items as the events of a response, and the response that they add up to."""

    def __init__(self, identity: Identity, prompt_tokens: int, task: Task, token_text: TokenText) -> None:
        super().__init__(identity, prompt_tokens, task, token_text)
        request = task.request
        self._echo: dict[str, Any] = {
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": task.parallel,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_output_tokens": task.max_tokens,
            "tool_choice": request.tool_choice or "auto",
            "tools": [{"type": "function", **tool.raw["function"]} for tool in task.tools],
        }
        self._output: list[dict[str, Any]] = []
        self._calls: list[dict[str, Any]] = []
        self._finish: Finish | None = None
        self._number = 0
        self._events: list[bytes] = []

    def add(self, choice: int, items: Sequence[Item]) -> bytes:
        if not self._number:
            self._say("response.created", response=self.value())
            self._say("response.in_progress", response=self.value())
        for item in items:
            if isinstance(item, ContentDelta):
                if not self._output:
                    self._open_message()
                self._output[0]["content"][0]["text"] += item.text
                self._say("response.output_text.delta", **self._at(0), content_index=0, delta=item.text, logprobs=[])
            elif isinstance(item, CallOpened):
                self._close()
                head = {"id": f"fc_{item.id.removeprefix('call_')}", "type": "function_call", "status": "in_progress"}
                self._calls.append({**head, "call_id": item.id, "name": item.name, "arguments": ""})
                self._output.append(self._calls[-1])
                self._say("response.output_item.added", output_index=len(self._output) - 1, item=self._calls[-1])
            elif isinstance(item, ArgumentsDelta):
                self._calls[item.index]["arguments"] += item.text
                self._say("response.function_call_arguments.delta", **self._at(-1), delta=item.text)
            elif isinstance(item, Finish):
                self._finish = item
                if not self._output:
                    self._open_message()
                calling = self._output[-1]["type"] == "function_call"
                whole = item.reason != "length" or (calling and item.incomplete is None)
                self._close("completed" if whole else "incomplete")
        said, self._events = b"".join(self._events), []
        return said

    def _at(self, index: int) -> dict[str, Any]:
        index %= len(self._output)
        return {"item_id": self._output[index]["id"], "output_index": index}

    def _open_message(self) -> None:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        message = {"id": f"msg_{self._identity.id}", "type": "message", "status": "in_progress", "role": "assistant"}
        self._output.append({**message, "content": []})
        self._say("response.output_item.added", output_index=0, item=self._output[0])
        self._output[0]["content"].append(part)
        self._say("response.content_part.added", **self._at(0), content_index=0, part=part)

    def _close(self, status: str = "completed") -> None:
        """End the item that is open, if one is."""
        if not self._output or self._output[-1]["status"] != "in_progress":
            return
        item = self._output[-1]
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            self._say("response.output_text.done", **self._at(0), content_index=0, text=part["text"], logprobs=[])
            self._say("response.content_part.done", **self._at(0), content_index=0, part=part)
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            self._say("response.function_call_arguments.done", **self._at(-1), **done)
        self._say("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _say(self, kind: str, **fields: Any) -> None:
        data = written({"type": kind, "sequence_number": self._number, **fields})
        self._events.append(f"event: {kind}\ndata: {data}\n\n".encode())
        self._number += 1

    def closing(self) -> bytes:
        cut = self._finish is not None and self._finish.reason == "length"
        self._say("response.incomplete" if cut else "response.completed", response=self.value())
        return self._events.pop()

    def failed(self, error: ApiError) -> bytes:
        self._say("error", code=error.code, message=error.message, param=error.param)
        return self._events.pop()

    def value(self) -> dict[str, Any]:
        finish, i = self._finish, self._identity
        cut = finish is not None and finish.reason == "length"
        used = None
        if finish is not None:
            used = {
                "input_tokens": self._prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": finish.tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self._prompt_tokens + finish.tokens,
            }
        return {
            "id": f"resp_{i.id}",
            "object": "response",
            "created_at": i.created,
            "status": "in_progress" if finish is None else "incomplete" if cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": i.model,
            "output": self._output,
            **self._echo,
            "usage": used,
        }
