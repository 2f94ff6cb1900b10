"""Which authority enforces a schema, and what it enforces of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from octupus.config import ConstraintSection
from octupus.constrain.guidance import check, lark
from octupus.constrain.logic import Mark
from octupus.constrain.normal import Node, Normal, as_bytes
from octupus.constrain.schema import Document
from octupus.constrain.validate import Validator
from octupus.errors import ConstraintError
from octupus.wire.messages import canonical_json

Authority = Literal["lm-format-enforcer", "llguidance"]


@dataclass(frozen=True, eq=False)
class Plan:
    """How one schema is enforced.

    ``unenforced`` (pointer, keyword) is not in the masks: validate the finished value (which is always wise: it is cheap).
    """

    authority: Authority
    enforced: tuple[Mark, ...]
    unenforced: tuple[Mark, ...]
    normal: Normal
    validator: Validator

    @property
    def node(self) -> Node:
        return self.normal.root

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
    Document(schema)  # bounded first: what follows goes down into it
    validator = Validator(schema)
    normal = Normal(schema, closed=arguments, object_only=arguments)
    left_out = tuple(sorted(normal.unenforced))
    everything = tuple(sorted(normal.keywords))
    if options.backend == "llguidance" or (options.backend == "auto" and left_out):
        try:
            check(lark(normal.root, "", "", options.whitespace))
            return Plan("llguidance", everything, (), normal, validator)
        except ConstraintError as error:
            if options.backend == "llguidance" or (options.on_unenforced == "refuse" and not left_out):
                raise
            reason = f"neither lm-format-enforcer nor llguidance can enforce this ({error.reason})"
    else:
        reason = "lm-format-enforcer cannot enforce this"
    if left_out and options.on_unenforced == "refuse":
        pointer, keyword = left_out[0]
        raise ConstraintError(reason, pointer=pointer, keyword=keyword)
    enforced = tuple(mark for mark in everything if mark not in left_out)
    return Plan("lm-format-enforcer", enforced, left_out, normal, validator)


def _text(name: str) -> str:
    return as_bytes(canonical_json(name)[1:-1])
