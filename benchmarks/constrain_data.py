"""What the constraint is measured on: BFCL's schemas and ground truth, two suites of schemas, Qwen's vocabulary."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from octupus.tokenizer import HfTokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("OCTUPUS_SHARED", ROOT.parent / "shared"))
BFCL = ROOT / ".cache/bfcl"


@dataclass(frozen=True)
class Answer:
    """A schema and arguments that satisfy it."""

    schema: dict[str, Any]
    arguments: dict[str, Any]

    @property
    def formats(self) -> bool:
        """Whether the arguments satisfy the schema's ``format`` too, which is an annotation for the judge."""
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        return jsonschema.Draft202012Validator(self.schema, format_checker=checker).is_valid(self.arguments)


def qwen() -> HfTokenizer:
    from tests.support.qwen import qwen_folder

    return load_tokenizer(qwen_folder())


def rows(name: str) -> list[dict[str, Any]]:
    lines = (BFCL / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def bfcl() -> list[Answer]:
    """The schema-valid ground truth of the single-turn categories, each acceptable value where the schema allows it.

    Raises:
        FileNotFoundError: no BFCL data; ``make bfcl-data`` makes it.
    """
    tools = {row["digest"]: row["tool"]["function"] for row in rows("tools")}
    questions = {row["id"]: row for row in rows("questions")}
    found: dict[str, Answer] = {}
    for truth in rows("truth"):
        if truth["category"].startswith(("multi_turn", "memory", "web_search")):
            continue
        functions = {tools[digest]["name"]: tools[digest] for digest in questions[truth["id"]]["tools"]}
        for call in truth["truth"]:
            ((name, wanted),) = call.items()
            function = functions.get(name.replace(".", "_"), functions.get(name))
            if function is None:
                continue
            schema = function["parameters"]
            judge = jsonschema.Draft202012Validator(schema)
            for arguments in _variants(wanted, schema):
                if judge.is_valid(arguments):
                    found[json.dumps([schema, arguments])] = Answer(schema, arguments)
    return list(found.values())


def _variants(wanted: dict[str, list[Any]], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The first acceptable values, optional ones in and out; then each other acceptable value in turn."""
    properties = schema.get("properties", {})
    fits = {k: [v for v in map(_plain, vs) if _fits(v, properties.get(k, True))] for k, vs in wanted.items()}
    needed = {key: values[0] for key, values in fits.items() if values and "" not in wanted[key]}
    whole = {key: values[0] for key, values in fits.items() if values}
    yield whole
    yield needed
    for key, values in fits.items():
        for value in values[1:]:
            yield whole | {key: value}


def _plain(value: Any) -> Any:
    """A ground-truth value: inside objects, lists hold the alternatives."""
    if isinstance(value, dict):
        alternatives = {k: [v for v in (vs if isinstance(vs, list) else [vs]) if v != ""] for k, vs in value.items()}
        return {key: _plain(values[0]) for key, values in alternatives.items() if values}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _fits(value: Any, schema: Any) -> bool:
    return value != "" and jsonschema.Draft202012Validator(schema).is_valid(value)


def in_schema_order(value: Any, schema: Any) -> Any:
    """The same arguments with declared properties in the schema's order, all the way down."""
    if isinstance(value, dict) and isinstance(schema, dict):
        declared = schema.get("properties", {})
        names = [*(name for name in declared if name in value), *(name for name in value if name not in declared)]
        return {name: in_schema_order(value[name], declared.get(name)) for name in names}
    if isinstance(value, list) and isinstance(schema, dict):
        return [in_schema_order(item, schema.get("items")) for item in value]
    return value


def enums_as_items(schema: Any) -> Any:
    """A schema in which an ``enum`` of scalars beside ``type: array`` is one of the items.

    Read literally no array satisfies it; BFCL's ground truth shows that its authors meant the items. Written apart from
    the constraint's own reading, so that one can judge the other.
    """
    if isinstance(schema, list):
        return [enums_as_items(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    read = {key: enums_as_items(value) for key, value in schema.items()}
    if schema.get("type") == "array" and schema.get("enum") and not any(isinstance(v, list) for v in schema["enum"]):
        read["items"] = {"allOf": [read.get("items", True), {"enum": read.pop("enum")}]}
    return read


@dataclass(frozen=True)
class Group:
    """A schema of a suite with instances and whether each is valid."""

    name: str
    schema: Any
    instances: list[tuple[Any, bool]]


def jsonschemabench() -> list[Group]:
    """The schemas of the sample that have instances; none where the file is absent."""
    path = SHARED / "data/jsonschemabench-dev.json"
    if not path.is_file():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))
    made = []
    for entry in entries:
        good, bad = ([json.loads(text) for text in entry[kind]] for kind in ("answers", "invalid"))
        if good or bad:
            made.append(Group(entry["id"], entry["schema"], [(v, True) for v in good] + [(v, False) for v in bad]))
    return made


def official_suite() -> list[Group]:
    """The JSON Schema Test Suite, draft 2020-12, without the optional part; none where the folder is absent."""
    made = []
    for path in sorted((SHARED / "data/json-schema-test-suite").glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            tests = [(test["data"], test["valid"]) for test in group["tests"]]
            made.append(Group(f"{path.stem}: {group['description']}", group["schema"], tests))
    return made
