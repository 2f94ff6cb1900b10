"""The table of WIRE.md, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from octupus.errors import WireError
from octupus.wire import CallGrammar, ResponseFormat, Tool, ToolChoice
from tests.support.tiny import tiny_wire


def tool(name: str, **more: Any) -> Tool:
    return Tool(raw={"type": "function", "function": {"name": name, **more}})


A, B = tool("a", parameters={"type": "object", "properties": {"x": {"type": "integer"}}}), tool("ab")


def grammar(tools: tuple[Tool, ...] = (A, B), **given: Any) -> CallGrammar:
    return tiny_wire().grammar(tools, **given)


def shape(g: CallGrammar) -> tuple[str, int, int | None, list[str]]:
    return g.content, g.min_calls, g.max_calls, [f.name for f in g.functions]


def test_no_tools_and_none_are_content_only() -> None:
    assert shape(grammar(tools=())) == ("required", 0, 0, [])
    assert shape(grammar(choice=ToolChoice(mode="none"))) == ("required", 0, 0, [])
    assert shape(grammar(choice=ToolChoice(mode="auto", names=()))) == ("required", 0, 0, [])


def test_auto_required_named_and_parallel() -> None:
    assert shape(grammar()) == ("optional", 0, None, ["a", "ab"])
    assert shape(grammar(parallel=False)) == ("optional", 0, 1, ["a", "ab"])
    assert shape(grammar(choice=ToolChoice(mode="required"))) == ("forbidden", 1, None, ["a", "ab"])
    assert shape(grammar(choice=ToolChoice(mode="required"), parallel=False)) == ("forbidden", 1, 1, ["a", "ab"])
    assert shape(grammar(choice=ToolChoice(mode="named", names=("ab",)))) == ("forbidden", 1, 1, ["ab"])


def test_allowed_tools_restrict_names() -> None:
    assert shape(grammar(choice=ToolChoice(mode="auto", names=("ab",)))) == ("optional", 0, None, ["ab"])
    assert shape(grammar(choice=ToolChoice(mode="required", names=("ab",)))) == ("forbidden", 1, None, ["ab"])


def test_response_format_is_a_schema_on_content() -> None:
    schema = {"type": "array", "items": {"type": "number"}}
    asked = ResponseFormat(type="json_schema", json_schema=schema)
    assert grammar(response_format=asked).content_schema == schema
    assert grammar(response_format=asked).content == "optional"
    assert grammar(tools=(), response_format=ResponseFormat(type="json_object")).content_schema == {"type": "object"}
    assert grammar(response_format=ResponseFormat(type="json_schema")).content_schema is True
    assert grammar().content_schema is None


def test_functions_carry_their_schema_and_none_means_no_arguments() -> None:
    functions = {f.name: f.parameters for f in grammar().functions}
    assert functions["a"] == {"type": "object", "properties": {"x": {"type": "integer"}}}
    assert functions["ab"] == {"type": "object", "properties": {}, "additionalProperties": False}


def test_frame_of_octupus_holds_ids_and_no_text() -> None:
    frame, ids = grammar().frame, tiny_wire().tokenizer.added_tokens
    assert frame.content == ids["<|CONTENT|>"]
    assert (frame.call_open, frame.separator) == (ids["<|FUNCTION_CALL|>"], ids["<|PARAMETERS|>"])
    assert (frame.end, frame.call_close) == (ids["<|endoftext|>"], None)
    assert {frame.before_first_call, frame.between_calls, frame.before_name, frame.after_arguments} == {""}


def test_a_grammar_travels_as_json() -> None:
    g = grammar(choice=ToolChoice(mode="required"))
    assert CallGrammar.model_validate_json(json.dumps(g.model_dump(mode="json"))) == g


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"choice": ToolChoice(mode="named", names=("c",))}, "no tool is named 'c'; offered: a, ab"),
        ({"choice": ToolChoice(mode="auto", names=("a", "zz"))}, "no tool is named 'zz'"),
        ({"choice": ToolChoice(mode="required"), "tools": ()}, "required needs at least one tool"),
        ({"choice": ToolChoice(mode="named", names=("a", "ab"))}, "exactly one name"),
        ({"tools": (A, A)}, "two functions have the same name"),
    ],
)
def test_requests_that_contradict_themselves_get_a_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words):
        grammar(**given)
