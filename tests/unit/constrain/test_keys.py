"""Keys under llguidance: as they are and once in their object, however tokens cut the text."""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import Any

import pytest

from octupus.config import ConstraintSection
from octupus.constrain import Constraint, Vocabulary
from octupus.constrain.keys import KeyTokens
from octupus.constrain.reading import BEGIN, Reading

PIECES = [
    *('""', '"."', ' "."', ' "', '"\\', ' "\\', '"a', 'a"', '"a"', ' "a"', '": ', '": "', '":"","', '": 1, "', '","'),
    *('": 1, "a', '": 1, "a": 1', '{"', '{"a": ', '{"a": 1, "a": ', '}, "', '}, "a": ', '}, {"a": ', '"}, "b": 1}'),
    *(', "', ', "a', ', "b": {"a": 1, "\\', "u0061", "ud800", '\\"', '"\\n', ': {"\\'),
]
FREE = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
DECLARED = {
    "type": "object",
    "properties": {"a": {"type": "number", "minimum": 0}},
    "required": ["a"],
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "array"}]},
}


@cache
def vocabulary() -> Vocabulary:
    tokens = [bytes([byte]) for byte in range(256)] + [piece.encode() for piece in PIECES]
    return Vocabulary([*tokens, None], len(tokens), lambda text: list(text.encode()))


@cache
def constraint(whitespace: str) -> Constraint:
    options: dict[str, Any] = {"whitespace": whitespace, "backend": "llguidance"}
    return Constraint(vocabulary(), ConstraintSection(**options))


def follows(schema: Any, parts: list[str], whitespace: str = "canonical") -> bool:
    """Whether the last of these tokens may follow the others, which may follow one another."""
    ids = [vocabulary().tokens.index(part.encode()) for part in parts]
    position: Any = constraint(whitespace).json(schema, "", "", arguments=False)
    for id in ids[:-1]:
        position = position.advance(id)
        assert position is not None, vocabulary().tokens[id]
    allowed = bool(position.mask()[ids[-1] >> 5] >> (ids[-1] & 31) & 1)
    assert allowed == (position.advance(ids[-1]) is not None)
    return allowed


@pytest.mark.parametrize("whitespace", ["canonical", "any"])
def test_a_token_that_holds_a_key_and_more_is_judged_too(whitespace: str) -> None:
    one = ["{", '"."', ":", " ", "1", ","]
    assert follows(FREE, [*one, ' "a"'], whitespace)
    assert not follows(FREE, [*one, ' "."'], whitespace)
    assert not follows(FREE, [*one, " ", '"."'], whitespace)
    assert not follows(FREE, ["{", '""', ":", " ", "1", ",", " ", '""'], whitespace)
    assert not follows(FREE, ["{", '"\\'], whitespace)
    first = ["{", '"', "a", '": ', "1", ","]
    assert follows(DECLARED, [*first, ' "'], whitespace) and follows(DECLARED, [*first, ' "."'], whitespace)
    assert not follows(DECLARED, [*first, ' "\\'], whitespace)
    assert not follows(DECLARED, [*first, ' "a"'], whitespace)
    assert not follows(DECLARED, [*first, ' "', 'a"'], whitespace)
    assert not follows(FREE, [*first, ' "', "b", '": 1, "a": 1'], whitespace)
    assert not follows(FREE, ['{"a": 1, "a": '], whitespace)


def test_a_value_may_hold_what_a_key_may_not() -> None:
    assert follows(DECLARED, ["{", '"', "a", '": ', "1", ", ".strip(), ' "', "b", '": "', "\\", "n"])
    assert follows(DECLARED, ["{", '"', "a", '": ', "1", ",", ' "', "b", '": ', '"\\n'])
    assert follows(DECLARED, ["{", '"', "a", '": ', "1", ",", ' "', "b", '": ', "{", '"a', '": 1, "', ".", '"'])


def test_the_tables_say_what_the_reading_says() -> None:
    keys, rng, tokens = KeyTokens(vocabulary()), Random(5), vocabulary().tokens
    everything = ~vocabulary().pack([])
    judged = 0
    for _ in range(2_000):
        reading: Reading = BEGIN
        for _ in range(rng.randrange(1, 12)):
            after = reading.after(tokens[rng.choice([*range(256, len(tokens) - 1), *b'{{{,,""a:}]'])] or b"")
            reading = after if after.fresh else reading
        allowed = set(vocabulary().unpack(keys.fresh(everything, reading)))
        for id, text in enumerate(tokens):
            if text is not None and (b'"' in text or reading.key is not None):
                assert (id in allowed) == reading.after(text).fresh, (reading, text)
                judged += reading.key is not None or reading.awaits_key
    assert judged > 1_000


@pytest.mark.parametrize("whitespace", ["canonical", "any"])
def test_walks_write_no_key_twice_and_none_with_an_escape(whitespace: str) -> None:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(found)) == len(found), found
        return dict(found)

    ended, pieces, rng = 0, set(range(256, 256 + len(PIECES))), Random(6)
    for _ in range(60):
        position: Any = constraint(whitespace).json(rng.choice([FREE, DECLARED]), "", "", arguments=False)
        text = b""
        for _ in range(40):
            allowed = constraint(whitespace).vocabulary.unpack(position.mask())
            if position.ended or not allowed:
                break
            large = [id for id in allowed if id in pieces or id in b'"a:} ,1']
            token = rng.choice(large or allowed)
            position, text = position.advance(token), text + (vocabulary().tokens[token] or b"")
            assert position is not None
        if position.ended:
            ended += 1
            json.loads(text, object_pairs_hook=pairs)
    assert ended > 5


def test_set_up_works_out_every_kind_of_place_that_texts_come_to() -> None:
    prepared = KeyTokens(vocabulary())
    prepared.prepare()
    kinds = {*prepared}
    for text in ('{"a": {"b\\u0062": ["x\\"", -1, {}, [], null]}, "c": "d"}', '"x\\\\"', "[1, 2]"):
        reading = BEGIN
        for byte in text.replace("b\\u0062", "b").encode():
            prepared.fresh(vocabulary().pack(range(256)), reading)
            reading = reading.after(bytes([byte]))
    assert {*prepared} == kinds
