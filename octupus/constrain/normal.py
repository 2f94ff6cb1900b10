"""JSON Schema rewritten into what lm-format-enforcer's grammar implements, and a list of what that leaves out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from octupus.constrain import keywords
from octupus.constrain.logic import EXCLUDE, TYPES, Alternative, Logic, Mark
from octupus.constrain.nodes import Excluding, Node, absorbed, as_bytes, literals, prune
from octupus.constrain.schema import Document, Location
from octupus.constrain.validate import Validator
from octupus.errors import ConstraintError, Unsatisfiable
from octupus.wire.messages import canonical_json

MAX_ENUM = 1024
"""Values of one enum; larger ones are left to the second authority."""

_ROOT = "urn:octupus:schema"
MAX_DEEP = 8
"""Questions whether two alternatives exclude each other, asked inside one another; more count as not known."""


class Normal:
    """A schema's normal form; its nodes last as long as it does.

    Args:
        arguments: of a function: the root is an object, whatever the schema says.
        closed: objects that declare properties and say nothing of others take no others.

    Raises:
        ConstraintError: nothing satisfies the schema, or it is beyond the bounds.
    """

    def __init__(self, schema: Any, *, arguments: bool = False, closed: bool = False) -> None:
        self._nodes: dict[tuple[bool, frozenset[str]], Node] = {}
        self.document = Document(schema)
        self._closed = closed
        self._goals: dict[Node, tuple[Location, ...]] = {}
        self._working: set[Node] = set()
        self._validators: dict[str, Validator] = {}
        self._deep = 0
        self._dead: set[Node] = set()
        """Objects that must hold more properties than they can."""
        self.keywords: set[Mark] = set()
        """(pointer, keyword) of every assertion met."""
        self.unenforced: set[Mark] = set()
        self.nested = False
        """Whether a list or an object is one of the values of an enum."""
        self._arguments = self.document.root.instead({"type": "object"}, "arguments")
        self._logic = Logic(self.document, self._disjoint)
        try:
            self.root = self._node((self.document.root, *([self._arguments] if arguments else [])))
            productive = self._productive(self.root)
            while short := {node for node in productive if _too_few(node, productive)}:
                self._dead |= short
                productive = self._productive(self.root)
            if self.root not in productive:
                raise Unsatisfiable("no value satisfies the schema")
            nodes = list(self._below(self.root))
        except RecursionError as error:
            pointer = self._logic.at.pointer
            raise ConstraintError("references lead into one another too deeply", pointer=pointer) from error
        finally:
            del self._logic  # it leads back here, and nothing is left to be worked out
            self._validators.clear()
        for node in nodes:
            prune(node, productive)
            self.unenforced |= node.marks
        self.size = len(nodes)

    def __del__(self) -> None:
        """Schemas lead back to themselves, and so do their nodes: taken apart, they need no garbage collection."""
        for node in self._nodes.values():
            node.anyOf = []

    def _node(self, goal: tuple[Location, ...]) -> Node:
        key = self._closed, frozenset(at.key for at in goal if at.schema is not True)
        node = self._nodes.get(key)
        if node is None:
            self._logic.step(goal[0] if goal else self.document.root, 4)
            node = self._nodes[key] = Node()
            self._goals[node] = goal
        return node

    def _ready(self, node: Node) -> Node:
        """Fill in a node's alternatives; one that is being filled in stays as it is."""
        goal = self._goals.pop(node, None)
        if goal is not None:
            self._working.add(node)
            node.anyOf = list(absorbed([n for a in self._logic.alternatives(goal) for n in self._typed(a)]))
            self._working.remove(node)
        return node

    def _below(self, root: Node) -> Iterator[Node]:
        """Every node that can be reached, alternatives and elements included."""
        seen, stack = {root}, [root]
        while stack:
            node = self._ready(stack.pop())
            if self._deep:
                self._logic.step(self.document.root)  # for every pair of alternatives again
            yield node
            inner = [*node.anyOf, *node.prefix, *node.properties.values(), *node.patterns.values(), node.rest]
            inner.append(node.properties.additional)
            fresh = [n for n in inner if n is not None and n not in seen]
            seen.update(fresh)
            stack += fresh

    def _productive(self, root: Node) -> set[Node]:
        """The nodes below ``root`` that some finite value satisfies; those being filled in count as such."""
        found: set[Node] = set()
        waiting: defaultdict[Node, list[tuple[Node, Iterator[Node]]]] = defaultdict(list)
        below = (node for node in self._below(root) if node not in self._dead)
        ready = [(node, needs) for node in below for needs in self._needs(node)]
        while ready:
            node, needs = ready.pop()
            lacking = next((n for n in needs if n not in found), None)
            if lacking is not None:
                waiting[lacking].append((node, needs))  # and goes on behind it once it is found
            elif node not in found:
                found.add(node)
                ready += waiting.pop(node, ())
        return found

    def _needs(self, node: Node) -> Iterator[Iterator[Node]]:
        """The ways to satisfy a node: each what has to be productive for it."""
        if node in self._working or (node.type is None and node.enum):
            yield iter(())
        elif node.type is None:
            yield from (iter((alternative,)) for alternative in node.anyOf)
        elif node.type == "array":
            least = node.minItems or 0
            assert node.rest is not None
            yield iter((*node.prefix[:least], *([node.rest] if least > len(node.prefix) else [])))
        else:
            yield (node.properties[name] for name in node.required)

    def _disjoint(self, goal: tuple[Location, ...]) -> bool:
        """As the schema says it: of a value that a closed object forbids, two branches may hold all the same."""
        self._logic.step(goal[0], 8)
        if self._deep == MAX_DEEP:
            return False
        self._deep += 1
        closed, self._closed = self._closed, False
        node = self._node(goal)
        disjoint = node not in self._productive(node)
        self._closed = closed
        self._deep -= 1
        return disjoint

    def _typed(self, alternative: Alternative) -> Iterator[Node]:
        """One node for each type that all parts admit."""
        parts = alternative.parts
        types, whole = set(TYPES), False
        for at in parts:
            self.keywords.update((at.pointer, keyword) for keyword in at.schema if keyword in keywords.ASSERTIONS)
            named = keywords.types(at)
            if named is not None:
                whole = whole or ("integer" in named and "number" not in named)
                types &= {"number" if t == "integer" else t for t in named}
        values = keywords.values(parts)
        if values is not None:
            types &= {keywords.type_of(value) for value in values}
        nodes = [node for kind in TYPES if kind in types for node in self._of_type(kind, parts, whole)]
        if values is not None:
            nodes = self._literals(values, nodes, parts)
        for node in nodes:
            node.marks |= alternative.marks
        yield from nodes

    def _of_type(self, kind: str, parts: tuple[Location, ...], whole: bool) -> list[Node]:
        excluded = [value for at in parts for value in at.schema.get(EXCLUDE, ())]
        if kind in ("null", "boolean"):
            values = [v for v in ([None] if kind == "null" else [True, False]) if not any(v is x for x in excluded)]
            return [literals(map(canonical_json, values))] if values else []
        node = Node("integer" if kind == "number" and whole else kind)
        node.parts = parts
        node.marks = frozenset((at.pointer, k) for at in parts for k in at.schema if keywords.left_out(kind, at, k))
        if kind != "string" and any(keywords.type_of(x) == kind for x in excluded):
            node.marks |= {(parts[0].pointer, "not")}
        if kind == "string":
            node.minLength, node.maxLength = keywords.bounds(parts, "minLength", "maxLength")
            node.enum = Excluding(frozenset(as_bytes(canonical_json(x)[1:-1]) for x in excluded if isinstance(x, str)))
            return [node] if node.maxLength is None or (node.minLength or 0) <= node.maxLength else []
        if kind == "array":
            return self._array(node, parts)
        return self._object(node, parts) if kind == "object" else [node]

    def _array(self, node: Node, parts: tuple[Location, ...]) -> list[Node]:
        node.minItems, node.maxItems = keywords.bounds(parts, "minItems", "maxItems")
        prefixes, rests = [], []
        for at in parts:
            prefixes.append([at.under("prefixItems", i) for i in range(len(at.schema.get("prefixItems", ())))])
            rests.append([at.under("items")] if "items" in at.schema else [])
        for index in range(max(map(len, prefixes), default=0)):
            goal = [at for p, r in zip(prefixes, rests, strict=True) for at in (p[index : index + 1] or r)]
            node.prefix = [*node.prefix, self._node(tuple(goal))]
        node.rest = self._node(tuple(at for rest in rests for at in rest))
        return [node] if node.maxItems is None or (node.minItems or 0) <= node.maxItems else []

    def _object(self, node: Node, parts: tuple[Location, ...]) -> list[Node]:
        least, most = keywords.bounds(parts, "minProperties", "maxProperties")
        node.min_properties, node.max_properties = least or 0, most
        needed = dict.fromkeys(n for at in parts for n in at.schema.get("required", []))
        names = dict.fromkeys(n for at in parts for n in at.schema.get("properties", {}))
        # An inner object that declares no property is a free one; a function that declares none takes no arguments.
        if parts:
            self._logic.step(parts[0], (len(names) + 4 * len(needed)) * len(parts) // 4)
        declares = names or (
            any(at is self._arguments for at in parts) and any("properties" in at.schema for at in parts)
        )
        shut = self._closed and declares and not any(k in at.schema for at in parts for k in keywords.OPEN)
        for name in dict.fromkeys([*names, *needed]):
            goal = [inner for at in parts for inner in keywords.property_of(at, name)]
            text = as_bytes(canonical_json(name)[1:-1])
            if (shut and name not in names) or any(at.schema is False for at in goal):
                node.forbidden |= {text}
                if name in needed:
                    return []
            else:
                node.properties[text] = self._node(tuple(goal))
        node.required = [as_bytes(canonical_json(name)[1:-1]) for name in needed]
        rest = [at.under("additionalProperties") for at in parts if "additionalProperties" in at.schema]
        if not shut and not any(at.schema is False for at in rest):
            node.properties.additional = self._node(tuple(rest))
        for at in (at for at in parts if "patternProperties" in at.schema):
            others = [
                o.under("additionalProperties") for o in parts if o is not at and "additionalProperties" in o.schema
            ]
            for pattern in at.schema["patternProperties"]:
                node.patterns[pattern] = self._node((at.under("patternProperties", pattern), *others))
        node.forbidden |= frozenset(node.properties)
        if not node.properties.additional:
            most = min(len(node.properties), len(node.properties) if most is None else most)
        return [node] if most is None or max(node.min_properties, len(needed)) <= most else []

    def _literals(self, values: list[Any], shapes: list[Node], parts: tuple[Location, ...]) -> list[Node]:
        """Of ``values`` those that a shape and, of lists and objects, the validator admits."""
        self._logic.step(parts[0], len(values))
        kept, marks = [], set[Mark]()
        for value in values:
            as_bytes(canonical_json(value))  # a half character is refused here, as the schema's fault
            kinds = (None, kind := keywords.type_of(value), "integer" if kind == "number" else kind)
            admitting = [shape for shape in shapes if shape.type in kinds and self.admits(shape, value)]
            nested = isinstance(value, list | dict)
            if admitting and nested and any(n.marks or n.patterns for s in admitting for n in self._below(s)):
                if any(at.key != at.pointer for at in parts):
                    marks.add((parts[0].pointer, "not"))  # one of them is made up: the validator does not know it
                if not all(self._validator(at).admits(value) for at in parts if at.key == at.pointer):
                    continue
            if admitting:
                kept.append(value)
        if len(kept) > MAX_ENUM:
            marks.add((parts[0].pointer, "enum"))
        node = literals(text for value in kept for text in keywords.spellings(value))
        node.marks, node.parts = frozenset(marks), parts
        self.nested = self.nested or any(isinstance(value, list | dict) for value in kept)
        return [node] if kept else []

    def _validator(self, at: Location) -> Validator:
        """Judges values by one of the document's subschemas."""
        if at.key not in self._validators:
            root = self.document.root
            inside = {"$ref": f"{root.base or _ROOT}#{quote(at.pointer)}", "$defs": {"": {"$id": _ROOT, **root.schema}}}
            self._validators[at.key] = Validator(inside, formats=True)
        return self._validators[at.key]

    def admits(self, node: Node, value: Any) -> bool:
        """Whether a value satisfies a node, what the node leaves out apart (of scalars nothing is left out)."""
        kind = keywords.type_of(value)
        if node.type is None:
            if node.enum:
                return member(node, value) is not None
            return node in self._working or any(self.admits(a, value) for a in self._ready(node).anyOf)
        if kind == "array" == node.type:
            inner = [*node.prefix, *[node.rest] * len(value)][: len(value)]
            low, high = node.minItems or 0, node.maxItems
            fits = low <= len(value) and (high is None or len(value) <= high)
            return fits and all(n is not None and self.admits(n, v) for n, v in zip(inner, value, strict=True))
        if kind == "object" == node.type:
            texts = {as_bytes(canonical_json(name)[1:-1]): v for name, v in value.items()}
            most, properties = node.max_properties, node.properties
            fits = node.min_properties <= len(value) and (most is None or len(value) <= most)
            known = all(name in properties or (properties.additional and name not in node.forbidden) for name in texts)
            complete = fits and known and set(node.required) <= texts.keys()
            return bool(complete and all(self.admits(properties[name], v) for name, v in texts.items()))
        if kind != ("number" if node.type == "integer" else node.type):
            return False
        facets = [{k: v for k, v in at.schema.items() if k in keywords.SCALAR_FACETS} for at in node.parts]
        integer = {"type": "integer"} if node.type == "integer" else {}
        return all(Validator(s, formats=True).admits(value) for s in (*facets, integer) if s) and not (
            isinstance(node.enum, Excluding) and _said(value)[1:-1] in node.enum.texts
        )


def member(node: Node, value: Any) -> str | None:
    """The text of the literal that a value is equal to: the same text, or of a list or an object the same JSON."""
    text, nested = _said(value), isinstance(value, list | dict)
    same = keywords.identity(value) if nested else None
    texts = (literal.text for literal in node.enum)
    return next((t for t in texts if t == text or (nested and keywords.identity(plain(t)) == same)), None)


def plain(text: str) -> Any:
    """The value of a literal's text."""
    return json.loads(text.encode("latin-1"))


def _said(value: Any) -> str:
    """Its canonical JSON as bytes, one character each; UnicodeEncodeError where a value holds half a character."""
    if isinstance(value, str):
        value.encode()  # so that the error says where in the text it stands
    return canonical_json(value).encode().decode("latin-1")


def _too_few(node: Node, productive: set[Node]) -> bool:
    """Whether an object cannot hold as many properties as it must."""
    if node.type != "object" or node.properties.additional in productive:
        return False
    return sum(inner in productive for inner in node.properties.values()) < node.min_properties
