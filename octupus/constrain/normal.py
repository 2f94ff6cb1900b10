"""JSON Schema rewritten into what lm-format-enforcer's grammar implements, and a list of what that leaves out.

Every subschema becomes a :class:`Node`: one or more alternatives, each of one type, in the shape that lm-format-enforcer's
``get_parser`` reads (it only looks at attributes, so that nodes may be lazy, shared and cyclic where its own model is a tree).
All text in nodes is JSON text as UTF-8 bytes, one character a byte (latin-1): the grammar works on bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from octupus.constrain.logic import EXCLUDE, TYPES, Alternative, Logic, Mark
from octupus.constrain.schema import Document, Location, escape
from octupus.constrain.validate import validate
from octupus.errors import ConstraintError
from octupus.wire.messages import canonical_json

MAX_ENUM = 1024
"""Values of one enum; larger ones are left to the second authority."""
ANY_KEY = "\0"
"""Stands among the keys of an object that takes undeclared ones; no JSON text holds this character."""


def as_bytes(text: str) -> str:
    """Text as its UTF-8 bytes, one character each."""
    try:
        return text.encode().decode("latin-1")
    except UnicodeEncodeError as error:
        raise ConstraintError(f"a lone surrogate cannot be generated: {text!r}") from error


class Excluding(list[str]):
    """Empty, so that a string is free; ``texts`` are the strings that it must not be."""

    def __init__(self, texts: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.texts = texts


class Literal(float):
    """A JSON text. lm-format-enforcer writes the members of a numeric enum with ``str`` and takes each as it is."""

    text: str

    def __new__(cls, text: str) -> Literal:
        made = super().__new__(cls, 0.0)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


class Properties(dict[str, "Node"]):
    """Declared properties; ``additional`` is what any other may hold (None: no other may stand)."""

    additional: Node | None = None

    def keys(self) -> Any:
        return super().keys() if self.additional is None else {**self, ANY_KEY: self.additional}.keys()

    def __missing__(self, name: str) -> Node:
        assert self.additional is not None, name
        return self.additional


class Node:
    """A schema in normal form. Upper half: what lm-format-enforcer reads; lower half: what its grammar cannot say."""

    allOf: tuple[Node, ...] = ()
    oneOf: tuple[Node, ...] = ()
    ref: str | None = None
    pattern: str | None = None
    additionalProperties: Node | None = None

    def __init__(self, type: str | None = None) -> None:
        self.type = type
        self.extras: dict[str, Any] = {}
        self.anyOf: list[Node] = []
        self.enum: list[Any] = []
        self.minLength: int | None = None
        self.maxLength: int | None = None
        self.items: Node | None = None
        self.minItems: int | None = None
        self.maxItems: int | None = None
        self.properties = Properties()
        self.required: list[str] = []

        self.prefix: list[Node] = []
        self.rest: Node | None = None
        """Of an array: what its items are behind ``prefix``. ``items`` is the array itself, so that its state leads back here."""
        self.forbidden: frozenset[str] = frozenset()
        """Names that no undeclared property may have."""
        self.min_properties = 0
        self.max_properties: int | None = None
        self.patterns: dict[str, Node] = {}
        """What undeclared properties hold whose names match."""
        self.parts: tuple[Location, ...] = ()
        """Where this node comes from."""
        self.marks: frozenset[Mark] = frozenset()
        """What this node leaves out."""


class Normal:
    """A schema's normal form.

    Args:
        closed: objects that declare properties and say nothing of others take no others (the arguments of functions).
        object_only: the root is an object, whatever the schema says.

    Raises:
        ConstraintError: no schema, one that nothing satisfies, one beyond the bounds, or a keyword that is not understood.
    """

    def __init__(self, schema: Any, *, closed: bool = False, object_only: bool = False) -> None:
        self.document = Document(schema)
        self._logic = Logic(self.document, self._disjoint)
        self._closed = closed
        self._nodes: dict[frozenset[str], Node] = {}
        self._goals: dict[Node, tuple[Location, ...]] = {}
        self._working: set[Node] = set()
        self.keywords: set[Mark] = set()
        """(pointer, keyword) of every assertion met."""
        goal = [self.document.root]
        if object_only:
            goal.append(self.document.root.instead({"type": "object"}, "arguments"))
        self.root = self._node(tuple(goal))
        productive = self._productive(self.root)
        if self.root not in productive:
            raise ConstraintError("no value satisfies the schema")
        self.unenforced: set[Mark] = set()
        for node in list(self._below(self.root)):
            _prune(node, productive)
            self.unenforced |= node.marks

    def _node(self, goal: tuple[Location, ...]) -> Node:
        key = frozenset(at.key for at in goal if at.schema is not True)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node()
            self._goals[node] = goal
        return node

    def _ready(self, node: Node) -> Node:
        """Fill in a node's alternatives; one that is being filled in stays as it is."""
        goal = self._goals.pop(node, None)
        if goal is not None:
            self._working.add(node)
            node.anyOf = list(_absorbed([n for a in self._logic.alternatives(goal) for n in self._typed(a)]))
            self._working.remove(node)
        return node

    def _below(self, root: Node) -> Iterator[Node]:
        """Every node that can be reached, alternatives and elements included."""
        seen, stack = {root}, [root]
        while stack:
            node = self._ready(stack.pop())
            yield node
            inner = [*node.anyOf, *node.prefix, *node.properties.values(), *node.patterns.values(), node.rest]
            inner.append(node.properties.additional)
            fresh = [n for n in inner if n is not None and n not in seen]
            seen.update(fresh)
            stack += fresh

    def _productive(self, root: Node) -> set[Node]:
        """The nodes below ``root`` that some finite value satisfies; those being filled in count as such."""
        nodes = list(self._below(root))
        found: set[Node] = set()
        size = -1
        while size != len(found):
            size = len(found)
            found.update(n for n in nodes if n not in found and self._is_productive(n, found))
        return found

    def _is_productive(self, node: Node, found: set[Node]) -> bool:
        if node in self._working:
            return True
        if node.type is None and not node.enum:
            return any(a in found for a in node.anyOf)
        if node.type == "array":
            first = node.prefix[: node.minItems or 0]
            more = (node.minItems or 0) > len(node.prefix)
            return all(n in found for n in first) and (not more or node.rest in found)
        return all(node.properties[name] in found for name in node.required)

    def _disjoint(self, goal: tuple[Location, ...]) -> bool:
        node = self._node(goal)
        return node not in self._productive(node)

    def _typed(self, alternative: Alternative) -> Iterator[Node]:
        """One node for each type that all parts admit."""
        parts = alternative.parts
        types, whole = set(TYPES), False
        for at in parts:
            self.keywords.update((at.pointer, keyword) for keyword in at.schema if keyword in ASSERTIONS)
            named = _types(at)
            if named is not None:
                whole = whole or ("integer" in named and "number" not in named)
                types &= {"number" if t == "integer" else t for t in named}
        nodes = [node for kind in TYPES if kind in types for node in self._of_type(kind, parts, whole)]
        values = _values(parts)
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
        node.marks = frozenset((at.pointer, k) for at in parts for k in at.schema if _left_out(kind, at, k))
        if kind != "string" and any(type_of(x) == kind for x in excluded):
            node.marks |= {(parts[0].pointer, "not")}
        if kind == "string":
            node.minLength, node.maxLength = _bounds(parts, "minLength", "maxLength")
            node.enum = Excluding(frozenset(as_bytes(canonical_json(x)[1:-1]) for x in excluded if isinstance(x, str)))
            return [node] if node.maxLength is None or (node.minLength or 0) <= node.maxLength else []
        if kind == "array":
            return self._array(node, parts)
        return self._object(node, parts) if kind == "object" else [node]

    def _array(self, node: Node, parts: tuple[Location, ...]) -> list[Node]:
        node.minItems, node.maxItems = _bounds(parts, "minItems", "maxItems")
        prefixes, rests = [], []
        for at in parts:
            by_draft_4 = isinstance(at.schema.get("items"), list)
            word, rest = ("items", "additionalItems") if by_draft_4 else ("prefixItems", "items")
            prefixes.append([at.under(word, i) for i in range(len(at.schema.get(word, ())))])
            rests.append([at.under(rest)] if rest in at.schema else [])
        for index in range(max(map(len, prefixes), default=0)):
            goal = [at for p, r in zip(prefixes, rests, strict=True) for at in (p[index : index + 1] or r)]
            node.prefix.append(self._node(tuple(goal)))
        node.items, node.rest = node, self._node(tuple(at for rest in rests for at in rest))
        return [node] if node.maxItems is None or (node.minItems or 0) <= node.maxItems else []

    def _object(self, node: Node, parts: tuple[Location, ...]) -> list[Node]:
        least, most = _bounds(parts, "minProperties", "maxProperties")
        node.min_properties, node.max_properties = least or 0, most
        needed = dict.fromkeys(n for at in parts for n in _strings(at, "required"))
        names = dict.fromkeys(n for at in parts for n in _object_of(at, "properties"))
        shut = self._closed and names and not any(k in at.schema for at in parts for k in _OPEN)
        for name in dict.fromkeys([*names, *needed]):
            goal = [inner for at in parts for inner in _property(at, name)]
            text = as_bytes(canonical_json(name)[1:-1])
            if (shut and name not in names) or any(at.schema is False for at in goal):
                node.forbidden |= {text}
                if name in needed:
                    return []
            else:
                node.properties[text] = self._node(tuple(goal))
        node.required = [text for n in needed if (text := as_bytes(canonical_json(n)[1:-1]))]
        rest = [at.under("additionalProperties") for at in parts if "additionalProperties" in at.schema]
        if not shut and not any(at.schema is False for at in rest):
            node.properties.additional = self._node(tuple(rest))
        for at in parts:
            others = [
                o.under("additionalProperties") for o in parts if o is not at and "additionalProperties" in o.schema
            ]
            for pattern in _object_of(at, "patternProperties"):
                node.patterns[pattern] = self._node((at.under("patternProperties", pattern), *others))
        node.forbidden |= frozenset(node.properties)
        if not node.properties.additional:
            most = min(len(node.properties), len(node.properties) if most is None else most)
        return [node] if most is None or max(node.min_properties, len(needed)) <= most else []

    def _literals(self, values: list[Any], shapes: list[Node], parts: tuple[Location, ...]) -> list[Node]:
        """Of ``values`` those that a shape admits; what a shape leaves out stays marked."""
        self._logic.step(parts[0], len(values))
        kept, marks = [], set[Mark]()
        for value in values:
            admitting = [shape for shape in shapes if self.admits(shape, value)]
            if admitting:
                kept.append(value)
                marks |= set().union(*(s.marks for s in admitting if s.type in ("array", "object")))
        if len(kept) > MAX_ENUM:
            marks.add((parts[0].pointer, "enum"))
        node = literals(text for value in kept for text in _spellings(value))
        node.marks = frozenset(marks)
        return [node] if kept else []

    def admits(self, node: Node, value: Any) -> bool:
        """Whether a value satisfies a node, what the node leaves out apart (of scalars nothing is left out)."""
        kind = type_of(value)
        if node.type is None:
            if node.enum:
                return any(canonical_json(value).encode().decode("latin-1") == literal.text for literal in node.enum)
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
        facets = [{k: v for k, v in at.schema.items() if k in SCALAR_FACETS} for at in node.parts]
        integer = {"type": "integer"} if node.type == "integer" else True
        return not any(validate(schema, value) for schema in (*facets, integer)) and not (
            isinstance(node.enum, Excluding) and as_bytes(canonical_json(value)[1:-1]) in node.enum.texts
        )


def _prune(node: Node, productive: set[Node]) -> None:
    """Take out what no finite value satisfies: the grammar would lead into it and find no end."""
    node.anyOf = [a for a in node.anyOf if a in productive]
    for name in [n for n, p in node.properties.items() if p not in productive]:
        del node.properties[name]
    if node.properties.additional not in productive:
        node.properties.additional = None
    if node.type == "array":
        items = [*node.prefix, node.rest]
        most = next((i for i, item in enumerate(items) if item not in productive), None)
        if most is not None:
            node.maxItems = most if node.maxItems is None else min(most, node.maxItems)


def literals(texts: Iterable[str]) -> Node:
    """The node of these texts and no others."""
    node = Node()
    node.enum = [Literal(text) for text in sorted({as_bytes(text) for text in texts})]
    return node


def _spellings(value: Any) -> list[str]:
    """The texts of a JSON value: its canonical one, and 1 for 1.0."""
    text = canonical_json(value)
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return [text, str(int(value))] if whole else [text]


def type_of(value: Any) -> str:
    """The JSON type of a value."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _types(at: Location) -> set[str] | None:
    named = at.schema.get("type")
    if named is None:
        return None
    types = set(named) if isinstance(named, list) and all(isinstance(t, str) for t in named) else {named}
    for name in types:
        if name not in (*TYPES, "integer"):
            known = ", ".join((*TYPES, "integer"))
            raise ConstraintError(f"{name!r} is no JSON type ({known})", pointer=at.pointer + "/type", keyword="type")
    return types


def _values(parts: tuple[Location, ...]) -> list[Any] | None:
    """The values that const and enum leave; None where there is neither."""
    lists = []
    for at in parts:
        if "const" in at.schema:
            lists.append([at.schema["const"]])
        if "enum" in at.schema:
            if not isinstance(at.schema["enum"], list):
                raise ConstraintError("must be a list", pointer=at.pointer + "/enum", keyword="enum")
            lists.append(at.schema["enum"])
    excluded = {_identity(value) for at in parts for value in at.schema.get(EXCLUDE, ())}
    if not lists:
        return None
    known = [{_identity(value) for value in values} for values in lists[1:]]
    first = {_identity(value): value for value in lists[0]}
    return [v for i, v in first.items() if i not in excluded and all(i in values for values in known)]


def _identity(value: Any) -> Any:
    """Equal exactly for what JSON Schema calls equal: 1 and 1.0 are, 1 and true are not, the order of keys is nothing."""
    if isinstance(value, dict):
        return ("object", frozenset((key, _identity(inner)) for key, inner in value.items()))
    return ("array", *map(_identity, value)) if isinstance(value, list) else (type_of(value), value)


def _bounds(parts: tuple[Location, ...], low: str, high: str) -> tuple[int | None, int | None]:
    lows, highs = ([_count(at, word) for at in parts if word in at.schema] for word in (low, high))
    return max(lows, default=None), min(highs, default=None)


def _count(at: Location, keyword: str) -> int:
    value = at.schema[keyword]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise ConstraintError("must be a whole number from 0", pointer=at.pointer + escape(keyword), keyword=keyword)
    return int(value)


def _strings(at: Location, keyword: str) -> list[str]:
    value = at.schema.get(keyword, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConstraintError("must be a list of names", pointer=at.pointer + escape(keyword), keyword=keyword)
    return value


def _object_of(at: Location, keyword: str) -> dict[str, Any]:
    value = at.schema.get(keyword, {})
    if not isinstance(value, dict):
        raise ConstraintError("must be an object", pointer=at.pointer + escape(keyword), keyword=keyword)
    return value


def _property(at: Location, name: str) -> list[Location]:
    """What a subschema says of the property ``name``."""
    found = [at.under("properties", name)] if name in _object_of(at, "properties") else []
    patterns = [p for p in _object_of(at, "patternProperties") if not validate({"pattern": p}, name)]
    found += [at.under("patternProperties", pattern) for pattern in patterns]
    return found or ([at.under("additionalProperties")] if "additionalProperties" in at.schema else [])


def _left_out(kind: str, at: Location, keyword: str) -> bool:
    if keyword not in LEFT_OUT[kind]:
        return False
    if keyword == "format":
        return at.schema[keyword] in FORMATS
    value = at.schema[keyword]
    return value is True if keyword == "uniqueItems" else keyword == "contains" or (value is not True and value != {})


def _absorbed(nodes: list[Node]) -> Iterator[Node]:
    """Without alternatives that another one says already: any string, any number, the same literals."""
    free = {n.type for n in nodes if n.type in ("string", "number") and _is_free(n)}
    seen = set()
    for node in nodes:
        key = tuple(literal.text for literal in node.enum) if node.type is None else id(node)
        said = (node.type == "integer" and "number" in free) or (node.type in free and not _is_free(node))
        if not said and key not in seen:
            seen.add(key)
            yield node
            if node.type in free:
                seen.update(id(n) for n in nodes if n.type == node.type)


def _is_free(node: Node) -> bool:
    texts = node.enum.texts if isinstance(node.enum, Excluding) else ()
    return not (node.minLength or node.maxLength is not None or texts or node.marks)


_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames")
NUMERIC = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
SCALAR_FACETS = NUMERIC | {"pattern", "minLength", "maxLength"}
LEFT_OUT = {
    "string": frozenset({"pattern", "format", "$dynamicRef"}),
    "number": NUMERIC | {"$dynamicRef"},
    "array": frozenset({"uniqueItems", "contains", "unevaluatedItems", "$dynamicRef"}),
    "object": frozenset({"patternProperties", "propertyNames", "unevaluatedProperties", "$dynamicRef"}),
}
"""By type: assertions that lm-format-enforcer's grammar does not implement."""
ASSERTIONS = frozenset().union(*LEFT_OUT.values()) | {
    *(
        "type",
        "enum",
        "const",
        "minLength",
        "maxLength",
        "items",
        "prefixItems",
        "additionalItems",
        "minItems",
        "maxItems",
    ),
    *(
        "properties",
        "required",
        "additionalProperties",
        "minProperties",
        "maxProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
    ),
    *("if", "dependentRequired", "dependentSchemas", "dependencies", "$ref"),
}
FORMATS = frozenset({"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""Formats that the second authority implements; any other is an annotation."""
