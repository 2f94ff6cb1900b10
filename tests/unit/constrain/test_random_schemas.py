"""Random schemas under both authorities: whatever ends is valid, whatever is valid may be said, nothing breaks."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from random import Random
from typing import Any

import jsonschema
import pytest

from benchmarks.constrain_data import enums_as_items
from octupus.config import ConstraintSection
from octupus.constrain import Constraint, Vocabulary
from octupus.errors import ConstraintError
from octupus.wire.messages import canonical_json
from tests.support.tiny import tiny_tokenizer
from tests.unit.constrain.random_schemas import Schemas

STEPS = 60
CLOSING = b'"}]'


@cache
def constraint(undeclared: Any) -> Constraint:
    return Constraint(Vocabulary.from_tokenizer(tiny_tokenizer()), ConstraintSection(undeclared=undeclared)).set_up()


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), f"a key twice: {pairs}"
    return dict(pairs)


def walk(position: Any, rng: Random, vocabulary: Vocabulary) -> bytes | None:
    """A random text that leans towards its end; None where it has not ended after ``STEPS``."""
    text = b""
    for step in range(STEPS):
        allowed = vocabulary.unpack(position.mask())
        if not allowed:
            assert position.ended, f"a dead end behind {text!r}"
            return text
        closing = [id for id in allowed if any(byte in CLOSING for byte in vocabulary.tokens[id] or b"")]
        token = rng.choice(closing if closing and step > 8 and rng.random() < 0.8 else allowed)
        forced, data = position.forced()[0], vocabulary.tokens[token] or b""
        common = min(len(forced), len(data))
        assert forced[:common] == data[:common], f"{data!r} is allowed where {forced!r} is forced"
        position, text = position.advance(token), text + data
        assert position is not None, f"the mask allows what ends {text!r}, advance does not"
    return None


def says(made: Constraint, schema: Any, value: Any) -> bool:
    """Whether the tokenizer's own tokens for a value go through."""
    text = canonical_json(made.plan(schema, arguments=True).arrange(value))
    position: Any = made.json(schema, "", "", arguments=True)
    for token in tiny_tokenizer().encode(text):
        position = position.advance(token)
        if position is None:
            return False
    return bool(position.ended)


def beyond(value: Any, second: bool) -> bool:
    """What cannot be had (docs/benchmarks.md): fractions where an integer is denied, quoted free keys (``second``)."""
    if isinstance(value, list | float):
        return isinstance(value, float) or any(beyond(inner, second) for inner in value)
    return isinstance(value, dict) and any((second and '"' in key) or beyond(v, second) for key, v in value.items())


def tried(seeds: range) -> Counter[str]:
    count: Counter[str] = Counter()
    for seed in seeds:
        rng = Random(seed)
        make, made = Schemas(rng, second=seed % 2 == 0), constraint(rng.choice(["closed", "open"]))
        schema = make()
        judge = jsonschema.Draft202012Validator(enums_as_items(schema))
        try:
            plan = made.plan(schema, arguments=True)
        except ConstraintError:
            count["refused"] += 1
            continue
        count[plan.authority] += 1
        for _ in range(4):
            text = walk(made.json(schema, "", "", arguments=True), rng, made.vocabulary)
            if text is not None:
                count[f"ended {plan.authority}"] += 1
                value = json.loads(text, object_pairs_hook=once)
                wrong = [error.message for error in judge.iter_errors(value)]
                assert not wrong, (seed, schema, text, wrong)
        for value in ({"x": make.value()} for _ in range(8 if made.options.undeclared == "open" else 0)):
            if judge.is_valid(value) and not beyond(value, plan.authority == "llguidance"):
                count["valid"] += 1
                assert says(made, schema, value), (seed, schema, value)
    return count


def test_random_schemas() -> None:
    count = tried(range(200))
    assert min(count["lm-format-enforcer"], count["llguidance"], count["refused"], count["valid"]) >= 15, count
    assert count["ended lm-format-enforcer"] >= 150 and count["ended llguidance"] >= 40, count


@pytest.mark.full
def test_many_random_schemas() -> None:
    count = tried(range(1_000, 6_000))
    print(count)
    assert count["ended lm-format-enforcer"] >= 5_000 and count["ended llguidance"] >= 1_000, count
