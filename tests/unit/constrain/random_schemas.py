"""Random schemas that use every keyword, alone and against each other, and random values."""

from __future__ import annotations

from random import Random
from typing import Any

NAMES = ["a", "b", "c", "ab", '"q', "é", ""]
TYPES: list[Any] = ["string", "integer", "number", "boolean", "null", "array", "object", "object", "array", None]
TYPES += [["string", "null"], ["integer", "object"]]
BOUNDS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]


class Schemas:
    """Makes schemas; ``second``: also such as only the second authority enforces."""

    def __init__(self, rng: Random, second: bool) -> None:
        self.rng, self.second = rng, second

    def __call__(self) -> dict[str, Any]:
        """Arguments of two parameters, with a definition to refer to."""
        made: dict[str, Any] = {"type": "object", "properties": {"x": self.schema(2), "y": self.schema(1)}}
        made["$defs"] = {"r": self.schema(2)}
        return made | ({"required": ["x"]} if self.rng.random() < 0.5 else {})

    def value(self, depth: int = 2) -> Any:
        pick = self.rng.choice
        kind = self.rng.randrange(8 if depth else 6)
        if kind == 6:
            return [self.value(depth - 1) for _ in range(self.rng.randrange(3))]
        if kind == 7:
            return {pick(NAMES): self.value(depth - 1) for _ in range(self.rng.randrange(3))}
        return [None, True, False, pick([0, 1, -3, 7, 2.5, 10]), pick(["", "a", "ab", 'x"y', "é"]), 1][kind]

    def schema(self, depth: int) -> Any:
        if self.rng.random() < 0.04:
            return self.rng.random() < 0.8
        named = self.rng.choice(TYPES)
        kinds = named if isinstance(named, list) else [named]
        made: dict[str, Any] = {} if named is None else {"type": named}
        for kind, fill in (("string", self._string), ("array", self._array), ("object", self._object)):
            if kind in kinds or (named is None and self.rng.random() < 0.3):
                fill(made, depth)
        if self.second and {"integer", "number"} & {*map(str, kinds)}:
            made |= {self.rng.choice(BOUNDS): self.rng.choice([0, 1, 5, -2, 2.5])} if self.rng.random() < 0.5 else {}
            made |= {"multipleOf": self.rng.choice([2, 3, 0.5])} if self.rng.random() < 0.1 else {}
        if self.rng.random() < 0.08:
            made["enum"] = [self.value() for _ in range(self.rng.randrange(1, 5))]
        if self.rng.random() < 0.04:
            made["const"] = self.value()
        if depth:
            self._logic(made, depth - 1)
        return made

    def _some(self, chance: float, name: str, most: int) -> dict[str, int]:
        return {name: self.rng.randrange(most)} if self.rng.random() < chance else {}

    def _string(self, made: dict[str, Any], depth: int) -> None:
        made |= self._some(0.3, "minLength", 3) | self._some(0.3, "maxLength", 4)
        if self.second and self.rng.random() < 0.4:
            made["pattern"] = self.rng.choice(["^a", "b$", "^[a-c]{1,3}$", "x?"])

    def _array(self, made: dict[str, Any], depth: int) -> None:
        made |= self._some(0.3, "minItems", 3) | self._some(0.4, "maxItems", 4)
        if depth and self.rng.random() < 0.7:
            made["items"] = self.schema(depth - 1)
        if depth and self.rng.random() < 0.2:
            made["prefixItems"] = [self.schema(depth - 1) for _ in range(self.rng.randrange(1, 3))]

    def _object(self, made: dict[str, Any], depth: int) -> None:
        rng = self.rng
        made |= self._some(0.15, "minProperties", 3) | self._some(0.2, "maxProperties", 4)
        if depth and rng.random() < 0.8:
            made["properties"] = {rng.choice(NAMES): self.schema(depth - 1) for _ in range(rng.randrange(4))}
        if rng.random() < 0.4:
            made["required"] = [*dict.fromkeys(rng.choice(NAMES) for _ in range(rng.randrange(1, 3)))]
        if rng.random() < 0.4:
            inner = depth and rng.random() < 0.4
            made["additionalProperties"] = self.schema(depth - 1) if inner else rng.random() < 0.3
        if self.second and depth and rng.random() < 0.15:
            made["patternProperties"] = {rng.choice(["^a", "b"]): self.schema(depth - 1)}
        if rng.random() < 0.1:
            made["dependentRequired"] = {rng.choice(NAMES): [rng.choice(NAMES)]}
        if depth and rng.random() < 0.06:
            made["dependentSchemas"] = {rng.choice(NAMES): self.schema(depth - 1)}

    def _logic(self, made: dict[str, Any], depth: int) -> None:
        chance = self.rng.random()
        several = lambda least, most: [self.schema(depth) for _ in range(self.rng.randrange(least, most))]  # noqa: E731
        if chance < 0.1:
            made["anyOf"] = several(1, 4)
        elif chance < 0.2:
            made["oneOf"] = several(1, 4)
        elif chance < 0.26:
            made["allOf"] = several(1, 3)
        elif chance < 0.31:
            made["not"] = self.schema(depth)
        elif chance < 0.36:
            made |= {"if": self.schema(depth), "then": self.schema(depth), "else": self.schema(depth)}
        elif chance < 0.42:
            made["$ref"] = self.rng.choice(["#", "#/$defs/r", "#/$defs/r"])
