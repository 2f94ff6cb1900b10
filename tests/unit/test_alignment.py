"""Law 4 of the wire: the grammar of a training example's own tools allows every supervised token, and the end.

On generated conversations with a tiny vocabulary, and on the rows of the demo and of the golden sources with Qwen's.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings

from data_recipes.check import arranged
from data_recipes.sources import demo_tools
from octupus.config import SourceSection
from octupus.constrain import Constraint, Vocabulary
from octupus.data.sources import open_source
from octupus.errors import WireError
from octupus.runs import Run
from octupus.wire import Conversation, ResponseFormat, Tool, ToolChoice, Wire
from tests.support.conversations import conversations
from tests.support.qwen import qwen_wire
from tests.support.tiny import tiny_dialect

GOLDEN = Path(__file__).resolve().parents[1] / "golden/data_sources"


@cache
def setting(dialect: str) -> tuple[Wire, Constraint]:
    wire = tiny_dialect(dialect)
    return wire, Constraint(Vocabulary.from_tokenizer(wire.tokenizer))


def refused(wire: Wire, constraint: Constraint, conversation: Conversation) -> list[str]:
    """The supervised tokens that the grammar would not have allowed."""
    wrong = []
    row = np.empty(constraint.vocabulary.words, np.int32)
    rendered = wire.render(conversation)
    for _, ids in wire.turns(rendered):
        grammar = wire.grammar(conversation.tools, ToolChoice(), True, ResponseFormat())
        state = constraint.start(grammar)
        for at, token in enumerate(ids):
            state.fill(row)
            in_mask = bool(row[token >> 5] >> (token & 31) & 1)
            accepted = state.advance(token)
            assert in_mask == accepted
            if not accepted:
                wrong.append(f"{wire.tokenizer.decode(ids[:at])!r} | {token} {wire.tokenizer.decode([token])!r}")
                break
        else:
            if not state.terminated:
                wrong.append(f"{wire.tokenizer.decode(ids)!r} did not end")
    return wrong


def inferred(values: list[Any]) -> dict[str, Any] | bool:
    """A schema that just these values satisfy, as tight as the constraint enforces it."""
    scalars = {"bool": "boolean", "int": "integer", "float": "number", "NoneType": "null"}
    found: list[dict[str, Any]] = []
    texts = [v for v in values if isinstance(v, str)]
    if texts:
        limits = {"minLength": min(map(len, texts)), "maxLength": max(map(len, texts))}
        found.append({"type": "string", **limits} if len(texts) > 1 else {"enum": texts})
    found += [{"type": scalars[name]} for name in sorted({type(v).__name__ for v in values} & scalars.keys())]
    lists = [v for v in values if isinstance(v, list)]
    if lists:
        inner = [item for v in lists for item in v]
        found.append({"type": "array", "maxItems": max(map(len, lists)), "items": inferred(inner)})
    objects = [v for v in values if isinstance(v, dict)]
    if objects:
        keys = dict.fromkeys(key for v in objects for key in v)
        properties = {key: inferred([v[key] for v in objects if key in v]) for key in keys}
        required = [key for key in keys if all(key in v for v in objects)]
        found.append({"type": "object", "properties": properties, "required": required, "additionalProperties": False})
    return found[0] if len(found) == 1 else {"anyOf": found} if found else False


def fitted(conversation: Conversation, tight: bool) -> Conversation:
    """The conversation with tools whose schemas its calls obey."""
    said: dict[str, list[Any]] = {}
    for message in conversation.messages:
        for call in message.tool_calls:
            said.setdefault(call.name, []).append(call.arguments)
    tools = []
    for tool in conversation.tools:
        schema = inferred(said[tool.name]) if tight and tool.name in said else {"type": "object"}
        tools.append(Tool(raw={"type": "function", "function": {"name": tool.name, "parameters": schema}}))
    return conversation.model_copy(update={"tools": tuple(tools)})


@pytest.mark.parametrize("tight", [True, False])
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversation=conversations())
def test_every_supervised_token_is_allowed(tight: bool, conversation: Conversation) -> None:
    aligned("octupus", tight, conversation)


@pytest.mark.parametrize("tight", [True, False])
@pytest.mark.parametrize("dialect", ["octupus-v1", "qwen2_5", "qwen3"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversation=conversations())
def test_every_supervised_token_is_allowed_in_the_other_dialects(
    dialect: str, tight: bool, conversation: Conversation
) -> None:
    aligned(dialect, tight, conversation)


def aligned(dialect: str, tight: bool, conversation: Conversation) -> None:
    wire, constraint = setting(dialect)
    legal = fitted(conversation, tight)
    try:
        wire.render(legal)
        wire.grammar(legal.tools, ToolChoice(), True, ResponseFormat())
    except WireError:
        reject()  # a name that this dialect cannot write
    assert refused(wire, constraint, legal) == []


@cache
def qwen() -> Constraint:
    return Constraint(Vocabulary.from_tokenizer(qwen_wire().tokenizer)).set_up()


@pytest.mark.parametrize("split", ["train", "heldout", "unseen"])
def test_every_row_of_the_demo_is_allowed(split: Literal["train", "heldout", "unseen"]) -> None:
    rows = map(demo_tools.to_conversation, demo_tools.rows(None, split, 300, 3))
    assert [line for row in rows for line in refused(qwen_wire(), qwen(), arranged(row))] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.jsonl")))
def test_every_golden_row_of_a_source_is_allowed(name: str, tmp_path: Path) -> None:
    source = open_source(SourceSection(name=name, path=str(tmp_path)), Run(tmp_path))
    cases = [json.loads(line) for line in (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [source.conversation("0", case["row"]) for case in cases if "refused" not in case]
    assert [line for row in rows for line in refused(qwen_wire(), qwen(), arranged(row))] == []
