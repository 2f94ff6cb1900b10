"""One chat request to a server, and what came back or why nothing did."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from eval.endpoint import OPENER


@dataclass(frozen=True)
class Asked:
    """An answer; or ``error``, and nothing else."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    """``name``, ``arguments`` (text) and whether it is ``incomplete``."""
    content: str = ""
    finish_reason: str | None = None
    seconds: float = 0.0
    error: str = ""


def ask(
    base_url: str, key: str, model: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], max_tokens: int
) -> Asked:
    """Ask at temperature 0 with the tools on offer, if there are any."""
    body: dict[str, Any] = {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    body |= {"tools": tools, "tool_choice": "auto"} if tools else {}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)
    began = time.monotonic()
    try:
        with OPENER.open(request, timeout=600) as response:
            choice = json.load(response)["choices"][0]
        message = choice["message"]
        calls = [{**c["function"], "incomplete": c.get("incomplete", False)} for c in message.get("tool_calls") or ()]
    except urllib.error.HTTPError as error:
        return Asked(error=f"HTTP {error.code}: {error.read()[:300].decode(errors='replace')}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        return Asked(error=f"{type(error).__name__}: {error}")
    return Asked(calls, message.get("content") or "", choice.get("finish_reason"), time.monotonic() - began)
