"""What the server takes and gives, as OpenAPI: from the models that parse requests, so that it cannot lag behind."""

from __future__ import annotations

from typing import Any

from octupus.serve.protocol import ChatRequest

_TEXT, _MAYBE = {"type": "string"}, {"type": ["string", "null"]}
_ERROR = {"message": _TEXT, "type": _TEXT, "param": _MAYBE, "code": _MAYBE}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": list(_ERROR), "properties": _ERROR}},
}
RESPONSES_REQUEST = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
        "instructions": _MAYBE,
        "tools": {"type": ["array", "null"], "items": {"type": "object", "required": ["type", "name"]}},
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1},
        "stream": {"type": ["boolean", "null"]},
    },
}


def describe() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    chat = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = {**chat.pop("$defs"), "ChatRequest": chat, "ResponsesRequest": RESPONSES_REQUEST, "Error": ERROR}
    paths = {
        "/v1/chat/completions": {"post": _post("ChatRequest", "One chat completion, or its stream")},
        "/v1/responses": {"post": _post("ResponsesRequest", "One response, or its stream; nothing is stored")},
    }
    for path, summary in {
        "/v1/models": "The served model",
        "/health": "Whether the process is up and not broken",
        "/ready": "Whether requests are taken: model loaded, canary come back",
        "/metrics": "Prometheus' text form",
    }.items():
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": summary}}}}
    info = {"title": "octupus", "version": "1", "description": "OpenAI's chat API; every call that leaves is legal."}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _post(schema: str, summary: str) -> dict[str, Any]:
    def held(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    refusals = {"400": "a field is wrong", "401": "no valid key", "413": "too large", "422": "no legal call came about"}
    refusals |= {"404": "no such model", "408": "out of time", "429": "queue full", "503": "not ready"}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": held(schema)},
        "responses": {
            "200": {"description": summary},
            **{status: {"description": why, "content": held("Error")} for status, why in refusals.items()},
        },
    }
