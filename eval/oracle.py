"""A perfect model: BFCL's ground truth as an engine inside our own server, to measure what the path itself costs.

``serve.engine: eval.oracle:Oracle`` with ``serve.engine_args: {categories: [...], mode: truth|wrong}``. Not all
categories in one run: some entries of different ones ask the same and want different answers (:func:`apart`). Answers
are natural: the first acceptable value that the tool's schema allows, Java and JavaScript values as literals, all calls
of a turn at once.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from eval.checker import satisfies
from eval.sample import BfclData
from octupus.config import ConstraintSection, ServeSection
from octupus.constrain import Plan, compile_schema
from octupus.errors import ConfigError, ConstraintError
from octupus.wire import CallGrammar, Conversation, Message, Tool, ToolCall, Wire

Calls = list[tuple[str, dict[str, Any]]]
DONE, CANNOT = "Done.", "None of the available functions can help with this."
JOINED = "I have updated some more functions you can choose from."
"""What the harness says in the user's place when tools join."""
DEFAULTS = {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}


@dataclass(frozen=True)
class Planned:
    """What a perfect model does in one entry: calls by turn, and the text where a turn has none."""

    tools: list[dict[str, Any]]
    late: int
    systems: list[str]
    users: list[str]
    turn_lengths: list[int]
    calls: list[Calls]
    text: str


class Answers(Protocol):
    """Whatever knows the answer to a conversation."""

    def answer(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Calls, str]:
        """Calls, or none and a text; LookupError where the conversation is unknown."""
        ...


class Truth:
    """Finds the entry that a request belongs to and what it wants."""

    def __init__(self, data: BfclData, categories: Sequence[str]) -> None:
        truths = {row["id"]: row["truth"] for row in data.rows("truth") if row["category"] in categories}
        originals = {row["tool"]["function"]["name"]: row["original"] for row in data.rows("tools") if row["original"]}
        self.by_opening: dict[str, list[Planned]] = defaultdict(list)
        for question in data.questions(categories):
            spoken = [m for m in question.turns[0] if m["role"] != "system"]
            calls, text = _wanted(question.category, question.tools, truths.get(question.id), originals)
            self.by_opening[_opening([(m["role"], m["content"]) for m in spoken])].append(
                Planned(
                    tools=question.tools,
                    late=question.late,
                    systems=[m["content"] for m in question.turns[0] if m["role"] == "system"],
                    users=[m["content"] for turn in question.turns for m in turn if m["role"] == "user"],
                    turn_lengths=[max(1, sum(m["role"] != "system" for m in turn)) for turn in question.turns],
                    calls=calls,
                    text=text,
                )
            )

    def answer(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Calls, str]:
        """Calls, or none and a text.

        Raises:
            LookupError: no entry opens like this.
        """
        spoken = [m for m in messages if m.role != "system"]
        entry = self._find(spoken, [m.content for m in messages if m.role == "system"], tools)
        users = sum(m.role == "user" for m in spoken)
        ends = [sum(entry.turn_lengths[: i + 1]) for i in range(len(entry.turn_lengths))]
        turn = next((i for i, end in enumerate(ends) if end >= users), len(ends) - 1)
        wanted = entry.calls[turn] if turn < len(entry.calls) else []
        last = max(i for i, m in enumerate(spoken) if m.role == "user")
        rest = wanted[sum(len(m.tool_calls) for m in spoken[last + 1 :]) :]
        return rest, "" if rest else DONE if wanted else entry.text

    def _find(self, spoken: Sequence[Message], systems: Sequence[str], tools: Sequence[Mapping[str, Any]]) -> Planned:
        said = [(m.role, m.content) for m in spoken]
        found = [e for n in range(len(said), 0, -1) for e in self.by_opening.get(_opening(said[:n]), ())]
        if not found:
            raise LookupError(f"no BFCL entry opens with {said[0][1][:80]!r}")
        users = [m.content for m in spoken if m.role == "user" and not m.content.startswith(JOINED)]
        offered = json.dumps(tools, sort_keys=True)
        tests = (
            lambda e: _names(e.tools[: len(e.tools) - e.late]) <= _names(tools) <= _names(e.tools),
            lambda e: e.users[: len(users)] == users,
            lambda e: json.dumps(e.tools, sort_keys=True) == offered,
            lambda e: e.systems == list(systems),
        )
        for test in tests:
            found = [e for e in found if test(e)] or found
        return found[0]


def apart(data: BfclData, categories: Sequence[str]) -> list[list[str]]:
    """The categories in as few groups as come of putting each into the first one where nobody opens as it does."""
    first: dict[str, set[str]] = {category: set() for category in categories}
    for question in data.questions(categories):
        first[question.category].add(next(m["content"] for m in question.turns[0] if m["role"] != "system"))
    groups: list[list[str]] = []
    for category in categories:
        free = (group for group in groups if all(first[category].isdisjoint(first[other]) for other in group))
        group = next(free, None)
        if group is None:
            groups.append(group := [])
        group.append(category)
    return groups


def _names(tools: Sequence[Mapping[str, Any]]) -> set[str]:
    return {tool["function"]["name"] for tool in tools}


def _opening(said: Sequence[tuple[str, str]]) -> str:
    return json.dumps(list(map(list, said)))


def _wanted(
    category: str, tools: Sequence[Mapping[str, Any]], truth: Any, originals: Mapping[str, Any]
) -> tuple[list[Calls], str]:
    if category == "live_relevance":
        return [[next(call for tool in tools if (call := _any_call(tool["function"])) is not None)]], ""
    if "irrelevance" in category:
        return [[]], CANNOT
    if category.startswith(("memory", "web_search")):
        return [[]], str({"answer": truth[0], "context": "oracle"}) if truth else "Noted."
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    if category.startswith("multi_turn"):
        return [[_read_call(text, functions) for text in turn] for turn in truth], CANNOT
    language = category.removeprefix("simple_") if category in ("simple_java", "simple_javascript") else "python"
    return [[_natural_call(call, functions, originals, language) for call in truth]], ""


def _any_call(function: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """A call with the least that the function needs; None where that is against its own schema."""
    parameters = function["parameters"]
    needed = {name: parameters["properties"][name] for name in parameters.get("required", [])}
    arguments = {k: s["enum"][0] if "enum" in s else DEFAULTS[s["type"]] for k, s in needed.items()}
    return (function["name"], arguments) if satisfies(arguments, parameters) else None


def _read_call(text: str, functions: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """``cd(folder='a')`` as a call; positional arguments take the schema's names in their order."""
    node = ast.parse(text.strip(), mode="eval").body
    assert isinstance(node, ast.Call), text
    name = ast.unparse(node.func)
    names = list(functions[name]["parameters"]["properties"]) if node.args else []
    pairs = [*zip(names, node.args, strict=False), *((str(k.arg), k.value) for k in node.keywords)]
    return name, {key: ast.literal_eval(value) for key, value in pairs}


def _natural_call(
    truth: Mapping[str, Any], functions: Mapping[str, Any], originals: Mapping[str, Any], language: str
) -> tuple[str, dict[str, Any]]:
    ((dotted, wanted),) = truth.items()
    name = dotted.replace(".", "_")
    parameters = functions[name]["parameters"]
    arguments = {}
    for key, alternatives in wanted.items():
        schema = parameters["properties"].get(key)
        values = [_unwrap(a) for a in (alternatives if isinstance(alternatives, list) else [alternatives]) if a != ""]
        if language != "python" and schema is not None:
            kind = originals[name]["parameters"]["properties"][key]
            inner = (kind.get("items") or {}).get("type")
            values = [_literal(v, language, kind["type"], inner) for v in values]
        elif schema is not None:
            values = [_cased(v, schema) for v in values]
        legal = [v for v in values if schema is None or satisfies(v, schema)]
        optional = "" in alternatives and (schema is None or key not in parameters.get("required", []))
        if optional and alternatives[0] == "":
            continue  # the first acceptable value is none
        if legal and not (optional and schema is None):
            arguments[key] = legal[0]
        elif values and not optional:
            arguments[key] = values[0]
    return name, arguments


def _unwrap(value: Any) -> Any:
    """Inside an acceptable value, each key of an object holds a list of alternatives of its own."""
    if isinstance(value, dict):
        firsts = {k: next((a for a in v if a != ""), None) if isinstance(v, list) else v for k, v in value.items()}
        kept = {k: v for k, v in firsts.items() if v is not None or not isinstance(value[k], list)}
        return {k: _unwrap(v) for k, v in kept.items()}
    return [_unwrap(v) for v in value] if isinstance(value, list) else value


def _cased(value: Any, schema: Mapping[str, Any]) -> Any:
    """The harness compares without case; the schema's enum does not."""
    same = [c for c in schema.get("enum", ()) if isinstance(c, str) and c.lower() == str(value).lower()]
    return same[0] if same and isinstance(value, str) else value


def _literal(value: Any, language: str, kind: str, inner: str | None = None, top: bool = True) -> str:
    """A Java or JavaScript value as source text; a string that is the whole argument stays bare, as BFCL wants it."""
    java = language == "java"
    if isinstance(value, str):
        return value if top else f"'{value}'" if kind == "char" else f'"{value}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value}{({'long': 'L', 'float': 'f'} if java else {'Bigint': 'n'}).get(kind, '')}"
    if isinstance(value, list):
        parts = ", ".join(_literal(v, language, inner or "any", None, False) for v in value)
        if not java:
            return f"[{parts}]"
        if kind == "ArrayList":
            return f"new ArrayList<>(Arrays.asList({parts}))" if value else "new ArrayList<>()"
        names = {"integer": "int", "any": "Object", None: "Object"}
        return f"new {names.get(inner, inner)}[]{{{parts}}}"
    pairs = [(key, _literal(v, language, "any", None, False)) for key, v in value.items()]
    if java:
        puts = " ".join(f'put("{key}", {v});' for key, v in pairs)
        return f"new HashMap<String, Object>() {{{{ {puts} }}}}"
    return "{" + ", ".join(f'"{k}": {v}' for k, v in pairs) + "}"


def spoil(calls: Calls, text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[Calls, str]:
    """The deliberately wrong model: one call too few, or a call where none fits."""
    if calls:
        return calls[:-1], "" if calls[:-1] else DONE
    call = next((c for tool in tools if (c := _any_call(tool["function"])) is not None), None)
    return ([call], "") if call is not None and text == CANNOT else ([], "I do not know.")


def _arranged(arguments: dict[str, Any], schema: str | None, options: ConstraintSection) -> dict[str, Any]:
    """In the order in which the constraint lets a model write them, as trained models learn it from their data."""
    plan = None if schema is None else _plan(schema, options)
    return arguments if plan is None else dict(plan.arrange(arguments))


@lru_cache(maxsize=4096)
def _plan(schema: str, options: ConstraintSection) -> Plan | None:
    try:
        return compile_schema(json.loads(schema), options, arguments=True)
    except ConstraintError:
        return None


def _stub(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


class Oracle:
    """The engine; see octupus/serve/engines.py for the protocol. Stands on no model, so it answers at once."""

    def __init__(self, model_dir: Path, wire: Wire, section: ServeSection) -> None:
        options = {"categories": None, "mode": "truth", **section.engine_args}
        if not options["categories"] or options["mode"] not in ("truth", "wrong"):
            raise ConfigError(
                "eval.oracle:Oracle needs serve.engine_args: {categories: [simple_python], mode: truth|wrong}"
            )
        self.wire, self.options, self.wrong = wire, section.constraint, options["mode"] == "wrong"
        self.truth: Answers = Truth(BfclData.ready(), options["categories"])

    async def generate(
        self, request_id: str, prompt_ids: list[int], grammar: CallGrammar | None, sampling: Any
    ) -> AsyncIterator[tuple[list[int], str | None]]:
        """The answer's ids in pieces of eight."""
        whole = self.script(prompt_ids)
        ids, finish = whole[: sampling.max_tokens], "stop" if len(whole) <= sampling.max_tokens else "length"
        for start in range(0, len(ids), 8):
            yield ids[start : start + 8], finish if start + 8 >= len(ids) else None

    def script(self, prompt_ids: Sequence[int]) -> list[int]:
        """The assistant's turn for a prompt; a request of no entry gets a text that says so."""
        asked = self.wire.parse(prompt_ids)
        tools = [tool.raw for tool in asked.tools]
        try:
            calls, text = self.truth.answer(asked.messages, tools)
        except LookupError as error:
            calls, text = [], str(error)
        if self.wrong:
            calls, text = spoil(calls, text, tools)
        schemas = {tool.name: json.dumps(tool.parameters) for tool in asked.tools}
        made = tuple(ToolCall(name=n, arguments=_arranged(a, schemas.get(n), self.options)) for n, a in calls)
        reply = Message(role="assistant", content=text, tool_calls=made)
        question = Message(role="user", content="?")
        # One entry calls a tool before it is on offer: whether that passes is for the constraint to say, not for us.
        late = tuple(Tool(raw=_stub(name)) for name in dict.fromkeys(n for n, _ in calls) if name not in schemas)
        asking = Conversation(messages=(question, reply), tools=(*asked.tools, *late))
        ((_, ids),) = self.wire.turns(self.wire.render(asking))
        return ids

    async def abort(self, request_id: str) -> None:
        return None

    async def close(self) -> None:
        return None
