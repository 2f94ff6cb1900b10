"""Masks are exact: a token is in the mask if and only if its bytes may follow, one after another."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from octupus.constrain import Constraint, Vocabulary
from octupus.constrain.vocabulary import utf8_after
from tests.unit.constrain.setting import byte_constraint, byte_vocabulary, setting

SCHEMAS: list[Any] = [
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 5},
            "unit": {"enum": ["c", "f", 1, 10, 12, None, '中"']},
            "l": {"items": {"type": "object", "properties": {"a": {"type": "number"}}}, "minItems": 1, "maxItems": 2},
            "x": {"$ref": "#"},
            "b": {"type": ["boolean", "string", "integer"], "minLength": 2},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"foo": {"type": "integer"}, "中": {"type": "string", "not": {"enum": ["foo", 'a"b']}}},
    },
    True,
    {"anyOf": [{"enum": ["ab", "abc", "foo"]}, {"type": "string", "maxLength": 2}, {"type": "array"}]},
]


def by_bytes(state: Any, vocabulary: Vocabulary) -> set[int]:
    found = set()
    for id, text in enumerate(vocabulary.tokens):
        after = state if text is not None else None
        for byte in text or b"":
            after = after and after.automaton.step(after, byte)
        if after is not None:
            found.add(id)
    return found


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@pytest.mark.parametrize("whitespace", ["canonical", "any"])
@pytest.mark.parametrize("vocabulary", ["bytes", "tiny"])
def test_masks_are_exact(schema: Any, whitespace: str, vocabulary: str) -> None:
    constraint = byte_constraint(whitespace) if vocabulary == "bytes" else setting("octupus", whitespace)[1]
    for seed in range(3):
        rng = random.Random(seed)
        state: Any = constraint.json(schema, "", "", arguments=False)
        for _ in range(40):
            allowed = constraint.vocabulary.unpack(state.mask())
            assert set(allowed) == by_bytes(state, constraint.vocabulary)
            if not allowed:
                assert state.ended
                break
            state = state.advance(rng.choice(allowed))


def test_text_masks_keep_utf8_whole() -> None:
    vocabulary = byte_vocabulary()
    for state in range(8):
        allowed = set(vocabulary.unpack(vocabulary.text(state)))
        assert allowed == {
            id for id, text in enumerate(vocabulary.tokens) if text is not None and utf8_after(state, text) >= 0
        }
    assert vocabulary.size - 1 not in allowed and vocabulary.eos_id not in allowed


def test_equal_masks_are_one_array() -> None:
    constraint = Constraint(byte_vocabulary())
    quote = constraint.vocabulary.tokens.index(b'"')
    first: Any = constraint.json({"type": "string"}, "", "", arguments=False).advance(quote)
    second: Any = constraint.json({"type": "string", "title": "another"}, "", "", arguments=False).advance(quote)
    assert first is not second and first.mask() is second.mask()
    assert not first.mask().flags.writeable


def test_pack_and_unpack() -> None:
    vocabulary = byte_vocabulary()
    for ids in ([], [0], [31, 32, 63, 64], list(range(0, vocabulary.size, 2)), list(range(200))):
        mask = vocabulary.pack(ids)
        assert mask.dtype == np.int32 and len(mask) == vocabulary.words and vocabulary.unpack(mask) == ids
