"""``make chat``: talk to an endpoint in a terminal; two small tools show how calls come and go.

Speaks to any OpenAI-compatible server with nothing but the standard library, so that it also runs on a laptop.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import operator
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_ROUNDS = 8
"""Calls and results go back and forth so often for one question at most."""
OPERATORS: Mapping[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def now(utc_offset_hours: float = 0) -> str:
    """The date and time at an offset from UTC"""
    zone = datetime.timezone(datetime.timedelta(hours=utc_offset_hours))
    return datetime.datetime.now(zone).strftime("%A %Y-%m-%d %H:%M")


def calculate(expression: str) -> str:
    """The value of an arithmetic expression with + - * / % and brackets"""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.operand))
        raise ValueError(f"{ast.unparse(node)} is no arithmetic")

    return f"{value(ast.parse(expression, mode='eval').body):.12g}"


def tool(function: Callable[..., str], **parameters: str) -> dict[str, Any]:
    """A Python function as OpenAI's API describes it; ``parameters`` maps names to JSON types, all optional or not."""
    properties = {name: {"type": kind.rstrip("?")} for name, kind in parameters.items()}
    required = [name for name, kind in parameters.items() if not kind.endswith("?")]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    described = {"name": function.__name__, "description": function.__doc__, "parameters": schema}
    return {"type": "function", "function": described}


FUNCTIONS: Mapping[str, Callable[..., str]] = {"now": now, "calculate": calculate}
TOOLS = [tool(now, utc_offset_hours="number?"), tool(calculate, expression="string")]


def streamed(url: str, key: str, messages: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The deltas of one answer.

    Raises:
        OSError: no server, or one that refuses; ``HTTPError`` with what it says.
    """
    body = json.dumps({"messages": messages, "tools": TOOLS, "stream": True}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    with OPENER.open(urllib.request.Request(f"{url}/chat/completions", body, headers), timeout=600) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise OSError(chunk["error"]["message"])
                yield from (choice["delta"] for choice in chunk["choices"])


def answered(url: str, key: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask once, print text as it comes, append the answer to ``messages``; its calls."""
    content, calls = "", list[dict[str, Any]]()
    for delta in streamed(url, key, messages):
        if delta.get("content"):
            content += delta["content"]
            print(delta["content"], end="", flush=True)
        for piece in delta.get("tool_calls") or ():
            if piece["index"] == len(calls):
                calls.append({"id": piece["id"], "type": "function", "function": {**piece["function"]}})
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    if content:
        print()
    messages.append({"role": "assistant", "content": content or None, **({"tool_calls": calls} if calls else {})})
    return calls


def carried_out(call: Mapping[str, Any]) -> str:
    """What the function says; its mistakes are the model's to hear of."""
    function = call["function"]
    try:
        return FUNCTIONS[function["name"]](**json.loads(function["arguments"]))
    except (KeyError, TypeError, ValueError, SyntaxError, ArithmeticError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


def turn(url: str, key: str, messages: list[dict[str, Any]]) -> None:
    """One question, with as many calls as it takes."""
    for _ in range(MOST_ROUNDS):
        calls = answered(url, key, messages)
        if not calls:
            return
        for call in calls:
            result = carried_out(call)
            print(f"  {call['function']['name']}({call['function']['arguments']}) = {result}", flush=True)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


def main(argv: Sequence[str] | None = None) -> int:
    """Read questions until the end of input; 1 when the server cannot be asked."""
    parser = argparse.ArgumentParser(prog="python -m octupus.serve.chat", description="Chat with an endpoint.")
    parser.add_argument("--url", default="http://localhost:8000/v1", help="of the API, with its /v1")
    parser.add_argument("--api-key-file", type=Path, help="its first line; else OCTUPUS_API_KEY")
    arguments = parser.parse_args(argv)
    file = arguments.api_key_file
    key = file.read_text(encoding="utf-8").split()[0] if file else os.environ.get("OCTUPUS_API_KEY", "none")
    print(f"{arguments.url}, tools: {', '.join(FUNCTIONS)}; an empty line starts anew, Ctrl-D ends")
    messages: list[dict[str, Any]] = []
    while True:
        try:
            said = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if not said:
            messages = []
            continue
        messages.append({"role": "user", "content": said})
        try:
            turn(arguments.url, key, messages)
        except KeyboardInterrupt:
            print(" (stopped)")
        except urllib.error.HTTPError as error:
            print(f"{arguments.url}: {error.code} {error.read().decode(errors='replace')[:500]}", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"{arguments.url}: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
