"""Which authority enforces a schema, and what it enforces of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from octupus.config import ConstraintSection
from octupus.constrain.guidance import BY_GUIDANCE, check, lark
from octupus.constrain.keywords import FORMATS, written
from octupus.constrain.logic import Mark
from octupus.constrain.nodes import Node, as_bytes
from octupus.constrain.normal import Normal, member, plain
from octupus.constrain.schema import as_read, bounded, escape
from octupus.constrain.validate import Validator
from octupus.errors import ConstraintError
from octupus.wire.messages import canonical_json

Authority = Literal["lm-format-enforcer", "llguidance"]

PLAN_BYTES, NODE_BYTES = 4_000, 2_500
"""About what a plan takes, and each of its nodes, with the part of the schema that it comes from."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How one schema is enforced.

    ``unenforced`` (pointer, keyword) is not in the masks: validate the finished value (always wise, and cheap).
    """

    authority: Authority
    enforced: tuple[Mark, ...]
    unenforced: tuple[Mark, ...]
    normal: Normal
    validator: Validator

    @property
    def node(self) -> Node:
        return self.normal.root

    @property
    def size(self) -> int:
        """About how many bytes this takes."""
        return PLAN_BYTES + NODE_BYTES * self.normal.size

    def admits(self, value: Any) -> bool:
        """Whether the masks would let this valid value through: it has no property that its tool does not declare."""
        return self.normal.admits(self.node, value)

    def problems(self, value: Any) -> list[str]:
        """Why the masks refuse a value, each with JSON pointer and keyword; empty where only its text is wrong."""
        found = self.validator.problems(value)
        if not found and not self.admits(value):
            found = list(_undeclared(self.normal.document.root.schema, value))
        if not found and canonical_json(self.arrange(value)) != canonical_json(value):
            found = ["/: keys in another order than the one that is enforced (keyword 'properties')"]
        return found

    def arrange(self, value: Any) -> Any:
        """``value`` as the authority writes it: properties in its order, members of an enum as the schema has them."""
        ordered = self.authority == "llguidance" or self.normal.nested
        return self._arranged(self.node, value) if ordered else value

    def _arranged(self, node: Node | None, value: Any) -> Any:
        kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else ""
        kinds = [a for a in node.anyOf if a.type == kind or (a.type is None and a.enum)] if node and kind else []
        shape = next((a for a in kinds if self.normal.admits(a, value)), None)
        if shape is None:
            return value
        if shape.type is None:
            found = plain(member(shape, value) or "null")
            return written(found) if self.authority == "llguidance" else found
        if isinstance(value, list):
            inner = [*shape.prefix, *[shape.rest] * len(value)]
            return [self._arranged(n, v) for n, v in zip(inner, value, strict=False)]
        order = {n: place for place, n in enumerate(shape.properties)} if self.authority == "llguidance" else {}
        names = sorted(value, key=lambda name: order.get(_text(name), len(order)))
        other = None if shape.patterns else shape.properties.additional
        return {name: self._arranged(shape.properties.get(_text(name), other), value[name]) for name in names}


def compile_schema(
    schema: dict[str, Any] | bool, options: ConstraintSection | None = None, *, arguments: bool = False
) -> Plan:
    """Decide how ``schema`` is enforced.

    Args:
        schema: JSON Schema, draft 2020-12 (what older drafts have besides is understood where it contradicts nothing).
        arguments: of a function: an object whatever the schema says. Where ``options`` do not say otherwise, objects
            that declare properties and are silent on others take no others, and ``format`` is the annotation that
            JSON Schema takes it for: it tells the model what is wanted. In any other schema it is asserted.

    Raises:
        ConstraintError: with JSON pointer and keyword: no schema, one that nothing satisfies, one beyond the bounds, or
            one that the chosen authority cannot enforce (and ``on_unenforced`` is ``refuse``).
    """
    options = options or ConstraintSection()
    bounded(schema)  # first: what follows goes down into it
    asserted = options.formats == "all" or (options.formats == "content" and not arguments)
    schema = as_read(schema, FORMATS if asserted else frozenset())
    try:
        validator = Validator(schema)
    except ConstraintError as error:
        if not error.pointer:
            Normal(schema)  # the validator does not say where a reference stands that names nothing
        raise
    normal = Normal(schema, arguments=arguments, closed=arguments and options.undeclared == "closed")
    authority: Authority = "lm-format-enforcer"
    left_out = normal.unenforced
    if options.backend == "llguidance" or (options.backend == "auto" and any(k in BY_GUIDANCE for _, k in left_out)):
        try:
            check(lark(normal.root, "", "", options.whitespace))
            authority, left_out = "llguidance", {mark for mark in left_out if mark[1] not in BY_GUIDANCE}
        except ConstraintError as error:
            if options.backend == "llguidance" or options.on_unenforced == "refuse":
                mine = (error.pointer, error.keyword)
                pointer, keyword = mine if error.keyword else min(left_out, default=("", ""))
                reason = f"llguidance cannot enforce this either ({error.reason})"
                raise ConstraintError(reason, pointer=pointer, keyword=keyword) from error
    if left_out and options.on_unenforced == "refuse":
        pointer, keyword = min(left_out)
        raise ConstraintError(f"{authority} cannot enforce this", pointer=pointer, keyword=keyword)
    enforced = normal.keywords - left_out
    return Plan(authority, tuple(sorted(enforced)), tuple(sorted(left_out)), normal, validator)


def _text(name: str) -> str:
    return as_bytes(canonical_json(name)[1:-1])


def _undeclared(schema: Any, value: Any, pointer: str = "") -> Iterator[str]:
    """Keys that an object holds beside those it declares, which the constraint forbids where the schema is silent."""
    if not isinstance(schema, dict):
        return
    declared = schema.get("properties")
    if isinstance(value, dict) and isinstance(declared, dict):
        for key, inner in value.items():
            if key in declared:
                yield from _undeclared(declared[key], inner, pointer + escape(key))
            elif "additionalProperties" not in schema:
                yield f"{pointer}{escape(key)}: not declared (keyword 'additionalProperties')"
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _undeclared(schema.get("items"), inner, pointer + escape(index))
