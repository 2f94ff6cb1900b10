"""``python -m octupus.constrain --tokenizer T --tools TOOLS.json --answer ANSWER.json``: an answer, token by token.

Shows how many tokens were allowed and which were forced, and at a refusal what was allowed instead and what breaks the
schema. Needs no model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from octupus.config import ConstraintSection
from octupus.constrain import Constraint, Vocabulary
from octupus.errors import ConfigError, OctupusError
from octupus.tokenizer import load_wire
from octupus.wire import Conversation, Message, ResponseFormat, Tool, ToolCall, ToolChoice, Wire

SHOWN = 12
"""Alternatives printed at a refusal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0: the whole answer is legal; 1: it is not; 2: a file or an option that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m octupus.constrain", description=(__doc__ or "").splitlines()[2])
    parser.add_argument("--tokenizer", required=True, help="a checkpoint's folder (its tokenizer; no weights are read)")
    parser.add_argument("--dialect", help="octupus, octupus-v1 or qwen, where the folder has no wire.json")
    parser.add_argument("--tools", required=True, type=Path, help="JSON: a list of tools in OpenAI's form")
    parser.add_argument("--answer", required=True, type=Path, help='JSON: {"content": ..., "tool_calls": [...]}')
    parser.add_argument("--backend", default="auto", choices=["auto", "lm-format-enforcer", "llguidance"])
    options = parser.parse_args(arguments)
    try:
        wire, tokenizer = load_wire(options.tokenizer, options.dialect)
        constraint = Constraint(Vocabulary.from_tokenizer(tokenizer), ConstraintSection(backend=options.backend))
        tools, answer = _tools(_read(options.tools), options.tools), _read(options.answer)
        calls = answer.get("tool_calls") or [] if isinstance(answer, dict) else None
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise ConfigError(f"{options.answer}: expected an object with content, tool_calls (a list) or both")
        lines = explain(wire, constraint, tools, answer)
        legal = True
        for line, ok in lines:
            print(line)
            legal = legal and ok
        return 0 if legal else 1
    except OctupusError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        print(f"{options.answer}: not an assistant message in OpenAI's form: {error}", file=sys.stderr)
        return 2


def explain(
    wire: Wire, constraint: Constraint, tools: tuple[Tool, ...], answer: dict[str, Any]
) -> Iterator[tuple[str, bool]]:
    """Lines, each with whether all is well up to there.

    Args:
        answer: an assistant message in OpenAI's form, or with its arguments as objects.

    Raises:
        ConstraintError: a tool's schema that cannot be enforced.
    """
    for tool in tools:
        plan = constraint.plan(tool.parameters, arguments=True)
        left = ", ".join(f"{pointer or '/'} {keyword}" for pointer, keyword in plan.unenforced)
        yield f"{tool.name}: {plan.authority}{f'; not enforced: {left}' if left else ''}", True
    calls = [_call(wire, constraint, tools, call) for call in answer.get("tool_calls") or ()]
    message = Message(role="assistant", content=answer.get("content") or "", tool_calls=tuple(calls))
    rendered = wire.render(Conversation(messages=(Message(role="user", content="-"), message), tools=tools))
    ((_, ids),) = wire.turns(rendered)
    state = constraint.start(wire.grammar(tools, ToolChoice(), True, ResponseFormat()))
    row = np.empty(constraint.vocabulary.words, np.int32)
    added = {id: text for text, id in wire.tokenizer.added_tokens.items()}
    for place, token in enumerate(ids):
        state.fill(row)
        allowed = constraint.vocabulary.unpack(row)
        forced = ", forced" if state.forced()[:1] == [token] else ""
        shown = added[token] if token in added else repr(_text(constraint, token))
        if not state.advance(token):
            others = [added[t] if t in added else repr(_text(constraint, t)) for t in allowed[:SHOWN]]
            rest = f" and {len(allowed) - SHOWN} more" if len(allowed) > SHOWN else ""
            yield f"{place:4} {shown:24} REFUSED; allowed here: {' '.join(others)}{rest}", False
            break
        yield f"{place:4} {shown:24} 1 of {len(allowed)}{forced}", True
    by_name = {tool.name: tool for tool in tools}
    for call in calls:
        if call.name in by_name:
            for problem in constraint.plan(by_name[call.name].parameters, arguments=True).problems(call.arguments):
                yield f"{call.name}: {problem}", False


def _call(wire: Wire, constraint: Constraint, tools: tuple[Tool, ...], call: dict[str, Any]) -> ToolCall:
    function = call.get("function", call)
    arguments = function["arguments"]
    read = arguments if isinstance(arguments, dict) else ToolCall.from_text("", arguments).arguments
    if not isinstance(read, dict):
        raise ConfigError(f"the arguments of {function['name']!r} are no JSON object: {arguments!r}")
    tool = next((tool for tool in tools if tool.name == function["name"]), None)
    plan = constraint.plan(tool.parameters, arguments=True) if tool is not None else None
    return ToolCall(name=function["name"], arguments=plan.arrange(read) if plan is not None else read)


def _text(constraint: Constraint, token: int) -> str:
    return (constraint.vocabulary.tokens[token] or b"").decode(errors="backslashreplace")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ConfigError(f"cannot read {path}: nested too deeply") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _tools(raw: Any, path: Path) -> tuple[Tool, ...]:
    if not isinstance(raw, list) or not all(isinstance(tool, dict) for tool in raw):
        raise ConfigError(f"{path}: expected a list of tools in OpenAI's form")
    return tuple(Tool(raw=tool if "function" in tool else {"type": "function", "function": tool}) for tool in raw)


if __name__ == "__main__":
    sys.exit(main())
