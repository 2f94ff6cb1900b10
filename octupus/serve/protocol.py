"""OpenAI's chat request, parsed once, at the border, into what the inner rooms know (:class:`Task`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from octupus.serve.engines import Sampling
from octupus.serve.errors import ApiError, refuse
from octupus.wire.messages import Message, ResponseFormat, Tool, ToolCall, ToolChoice, canonical_json

MAX_DEPTH = 200
"""Nesting of a request's JSON: far above any schema in use, and below every recursion limit on the way."""
MAX_TOOLS = 1024
MAX_MESSAGES = 4096


class _Open(BaseModel):
    """Unknown keys are kept apart, not refused; numbers are numbers, not strings of digits."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)


class Part(_Open):
    type: Literal["text", "refusal", "input_text", "output_text"]
    text: str | None = None
    refusal: str | None = None


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _arguments_text(value: Any) -> Any:
    return canonical_json(value) if isinstance(value, dict) else "" if value is None else value


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class FunctionParam(_Open):
    name: str
    arguments: Annotated[str, BeforeValidator(_arguments_text, str | dict[str, Any] | None)] = ""


class CallParam(_Open):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionParam


class MessageParam(_Open):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[list[Part] | None, BeforeValidator(_parts, str | list[Part] | None)] = None
    tool_calls: list[CallParam] | None = None
    function_call: FunctionParam | None = None
    """What tool_calls were called before."""
    tool_call_id: str | None = None


class StreamOptions(_Open):
    include_usage: bool | None = None


class ChatRequest(_Open):
    """The fields that change the answer, with OpenAI's ranges; null is the same as absent."""

    messages: list[MessageParam] = Field(min_length=1, max_length=MAX_MESSAGES)
    model: str | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1_000_000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[str] | None, BeforeValidator(_stops, str | list[str] | None)] = Field(
        default=None, max_length=16
    )
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    n: int | None = Field(default=None, ge=1, le=16)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,7}$")], Annotated[float, Field(ge=-100, le=100)]] | None = (
        Field(default=None, max_length=1024)
    )


NO_OPS: Mapping[str, tuple[Any, ...]] = {
    "store": (False,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "user": (str,),
    "metadata": (dict,),
    "service_tier": (str,),
    "safety_identifier": (str,),
    "prompt_cache_key": (str,),
    "prompt_cache_retention": (str,),
}
"""Known fields that ask for nothing while they are null, one of these values, or anything of these types."""


@dataclass(frozen=True)
class Task:
    """One request in the words of wire and engine. ``ignored`` are the fields that this server does not know."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    choice: ToolChoice
    response_format: ResponseFormat
    request: ChatRequest
    ignored: tuple[str, ...]

    @property
    def parallel(self) -> bool:
        return self.request.parallel_tool_calls is not False

    @property
    def n(self) -> int:
        return self.request.n or 1

    @property
    def include_usage(self) -> bool:
        options = self.request.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(stop for stop in self.request.stop or () if stop)

    @property
    def max_tokens(self) -> int | None:
        """The newer field's value, else the older one's; None where the request names no limit."""
        newer = self.request.max_completion_tokens
        return self.request.max_tokens if newer is None else newer

    def sampling(self, max_tokens: int, choice: int) -> Sampling:
        """For choice number ``choice`` of ``n``; each has a seed of its own, else seeded choices would be equal."""
        r = self.request
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if r.temperature is None else r.temperature,
            top_p=1.0 if r.top_p is None else max(r.top_p, 1e-6),  # 0, which engines do not know: the likeliest only
            top_k=max(0, r.top_k or 0),
            min_p=r.min_p or 0.0,
            presence_penalty=r.presence_penalty or 0.0,
            frequency_penalty=r.frequency_penalty or 0.0,
            repetition_penalty=1.0 if r.repetition_penalty is None else r.repetition_penalty,
            seed=None if r.seed is None else (r.seed + choice + 2**63) % 2**64 - 2**63,
            logit_bias={int(token): bias for token, bias in (r.logit_bias or {}).items()} or None,
            logprobs=(r.top_logprobs or 0) if r.logprobs else None,
        )


def read_json(body: bytes) -> dict[str, Any]:
    """A body as plain data that every later step can carry: well-formed Unicode, finite numbers, bounded depth.

    Raises:
        ApiError: 400.
    """
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"The body is not valid JSON in UTF-8: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError("The body must be a JSON object", code="invalid_json")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = (child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent))
        level = [child for child in inner if isinstance(child, dict | list)]
    if level:
        raise ApiError(f"The body nests deeper than {MAX_DEPTH} levels", code="invalid_json")
    if "\\u" in text:  # only an escape can smuggle half a surrogate pair past UTF-8, and no tokenizer can carry it
        for field, inside in value.items():
            if any(re.search("[\ud800-\udfff]", found) for found in (field, *_strings(inside))):
                refuse(ascii(field)[1:-1], "a lone surrogate; send well-formed Unicode", "invalid_unicode")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def read_task(value: dict[str, Any]) -> Task:
    """What a request's JSON asks for.

    Raises:
        ApiError: 400, with the field.
    """
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        issue = error.errors(include_url=False, include_input=False)[0]
        refuse(_path(issue["loc"]), issue["msg"], f"invalid_{issue['type']}"[:64])
    extra = request.model_extra or {}
    for name, harmless in NO_OPS.items():
        if name in extra and not _asks_nothing(extra[name], harmless):
            hint = "; use tools and tool_choice" if name.startswith("function") else ""
            refuse(name, f"this server does not do that{hint}", "unsupported_value")
    if request.top_logprobs is not None and not request.logprobs:
        refuse("top_logprobs", "needs logprobs to be true")
    tools = tuple(_tool(raw, f"tools[{i}]") for i, raw in enumerate(request.tools or ()))
    names = [tool.name for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            refuse(f"tools[{i}].function.name", f"{name!r} is the name of an earlier tool", "invalid_tool")
    return Task(
        messages=tuple(_message(param) for param in request.messages),
        tools=tools,
        choice=_choice(request.tool_choice, names),
        response_format=_response_format(request.response_format),
        request=request,
        ignored=tuple(name for name in extra if name not in NO_OPS),
    )


def _asks_nothing(value: Any, harmless: tuple[Any, ...]) -> bool:
    return value is None or any(
        isinstance(value, case) if isinstance(case, type) else value == case for case in harmless
    )


def _path(parts: tuple[int | str, ...]) -> str:
    """``("messages", 0, "content")`` as ``messages[0].content``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _tool(raw: dict[str, Any], where: str) -> Tool:
    function = raw.get("function")
    if raw.get("type", "function") != "function" or not isinstance(function, dict):
        shape = '{"type": "function", "function": {"name": ...}}'
        refuse(f"{where}.type", f"expected {shape}; built-in tools are not offered", "invalid_tool")
    name = function.get("name")
    if not isinstance(name, str) or not name or len(name) > 256 or any(ord(c) < 32 for c in name):
        refuse(f"{where}.function.name", "expected 1 to 256 printable characters", "invalid_tool")
    if not isinstance(function.get("parameters"), dict | bool | None):
        refuse(f"{where}.function.parameters", "expected a JSON Schema, an object", "invalid_tool")
    return Tool(raw=raw)


def _choice(value: Any, names: list[str]) -> ToolChoice:
    known = frozenset(names)

    def name_in(entry: Any) -> str:
        function = entry.get("function", entry) if isinstance(entry, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            refuse("tool_choice", 'a function is named as {"type": "function", "function": {"name": ...}}')
        if name not in known:
            refuse("tool_choice", f"no tool is named {name!r}; offered: {', '.join(names) or 'none'}")
        return name

    if value is None or value in ("auto", "none"):
        return ToolChoice(mode="none" if value == "none" or not names else "auto")
    if value == "required":
        return ToolChoice(mode="required") if names else refuse("tool_choice", "required needs at least one tool")
    if not isinstance(value, dict) or value.get("type") not in ("function", "allowed_tools"):
        refuse("tool_choice", "expected none, auto, required, a function, or allowed_tools")
    if value["type"] == "function":
        return ToolChoice(mode="named", names=(name_in(value),))
    allowed = value.get("allowed_tools", value)
    mode, entries = (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, dict) else (None, None)
    if mode not in ("auto", "required") or not isinstance(entries, list) or not entries:
        refuse("tool_choice", 'allowed_tools needs "mode" (auto or required) and a non-empty list "tools"')
    return ToolChoice(mode=mode, names=tuple(dict.fromkeys(name_in(entry) for entry in entries)))


def _response_format(value: Any) -> ResponseFormat:
    kind: Any = "text" if value is None else value.get("type") if isinstance(value, dict) else None
    if kind in ("text", "json_object"):
        return ResponseFormat(type=kind)
    if kind != "json_schema":
        refuse("response_format.type", "expected text, json_object or json_schema")
    given = value.get("json_schema")
    schema = given.get("schema", True) if isinstance(given, dict) else None
    if not isinstance(schema, dict | bool):
        refuse("response_format.json_schema.schema", "expected a JSON Schema, an object")
    return ResponseFormat(type="json_schema", json_schema=schema)


def _message(param: MessageParam) -> Message:
    """Roles that are other names for ours become ours. (Results are put in the order of their calls by the wire.)"""
    role: Any = {"developer": "system", "function": "tool"}.get(param.role, param.role)
    older = [CallParam(function=param.function_call)] if param.function_call is not None else []
    return Message(
        role=role,
        content="\n".join(part.text or part.refusal or "" for part in param.content or ()),
        tool_calls=tuple(_call(call) for call in param.tool_calls or older) if role == "assistant" else (),
        tool_call_id=param.tool_call_id if role == "tool" else None,
    )


def _call(param: CallParam) -> ToolCall:
    name, text = param.function.name, param.function.arguments
    try:
        call = ToolCall.from_text(name, text, param.id)
        call.arguments_text.encode()
        return call
    except (RecursionError, UnicodeEncodeError):
        # Escaped half pairs or absurd depth inside the string: nothing that a prompt could hold, so text stays text.
        return ToolCall(name=name, arguments=text, id=param.id)
