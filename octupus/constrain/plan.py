"""Which authority enforces a schema, and what it enforces of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from octupus.config import ConstraintSection
from octupus.constrain.guidance import BY_GUIDANCE, check, lark
from octupus.constrain.logic import Mark
from octupus.constrain.nodes import Node, as_bytes
from octupus.constrain.normal import Normal
from octupus.constrain.schema import bounded
from octupus.constrain.validate import Validator
from octupus.errors import ConstraintError
from octupus.wire.messages import canonical_json

Authority = Literal["lm-format-enforcer", "llguidance"]


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

    def admits(self, value: Any) -> bool:
        """Whether the masks would let this valid value through: it has no property that its tool does not declare."""
        return self.normal.admits(self.node, value)

    def arrange(self, value: Any) -> Any:
        """``value`` with its properties in the order that the authority generates them in."""
        return value if self.authority == "lm-format-enforcer" else self._arranged(self.node, value)

    def _arranged(self, node: Node | None, value: Any) -> Any:
        kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else ""
        shape = next((a for a in node.anyOf if a.type == kind and self.normal.admits(a, value)), None) if node else None
        if shape is None:
            return value
        if isinstance(value, list):
            inner = [*shape.prefix, *[shape.rest] * len(value)]
            return [self._arranged(n, v) for n, v in zip(inner, value, strict=False)]
        order = {name: place for place, name in enumerate(shape.properties)}
        names = sorted(value, key=lambda name: order.get(_text(name), len(order)))
        return {name: self._arranged(shape.properties.get(_text(name)), value[name]) for name in names}


def compile_schema(
    schema: dict[str, Any] | bool, options: ConstraintSection | None = None, *, arguments: bool = False
) -> Plan:
    """Decide how ``schema`` is enforced.

    Args:
        schema: JSON Schema, draft 2020-12 (what older drafts have besides is understood where it contradicts nothing).
        arguments: of a function: an object whatever the schema says; objects that declare properties and say nothing of
            others take no others.

    Raises:
        ConstraintError: with JSON pointer and keyword: no schema, one that nothing satisfies, one beyond the bounds, or
            one that the chosen authority cannot enforce (and ``on_unenforced`` is ``refuse``).
    """
    options = options or ConstraintSection()
    bounded(schema)  # first: what follows goes down into it
    try:
        validator = Validator(schema)
    except ConstraintError as error:
        if not error.pointer:
            Normal(schema)  # the validator does not say where a reference stands that names nothing
        raise
    normal = Normal(schema, arguments=arguments)
    authority: Authority = "lm-format-enforcer"
    left_out = normal.unenforced
    if options.backend == "llguidance" or (options.backend == "auto" and any(k in BY_GUIDANCE for _, k in left_out)):
        try:
            check(lark(normal.root, "", "", options.whitespace))
            authority, left_out = "llguidance", {mark for mark in left_out if mark[1] not in BY_GUIDANCE}
        except ConstraintError as error:
            if options.backend == "llguidance" or options.on_unenforced == "refuse":
                pointer, keyword = min(left_out, default=("", ""))
                reason = f"llguidance cannot enforce this either ({error.reason})"
                raise ConstraintError(reason, pointer=pointer, keyword=keyword) from error
    if left_out and options.on_unenforced == "refuse":
        pointer, keyword = min(left_out)
        raise ConstraintError(f"{authority} cannot enforce this", pointer=pointer, keyword=keyword)
    enforced = normal.keywords - left_out
    return Plan(authority, tuple(sorted(enforced)), tuple(sorted(left_out)), normal, validator)


def _text(name: str) -> str:
    return as_bytes(canonical_json(name)[1:-1])
