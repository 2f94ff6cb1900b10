"""What the README tells users of the endpoint to type does what it says, in both languages."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import httpx
import pytest

from octupus.wire import Message, ToolCall
from tests.support.served import served
from tests.support.tiny import tiny_wire

ROOT = Path(__file__).resolve().parents[3]


def script(prompt_ids: list[int]) -> list[int]:
    """Calls every tool once for Rome, then says what came back."""
    wire = tiny_wire()
    asked = wire.parse(prompt_ids)
    results = [m.content for m in asked.messages if m.role == "tool"]
    calls = tuple(ToolCall(name=tool.name, arguments={"city": "Rome"}) for tool in asked.tools)
    turn = Message(role="assistant", content=" and ".join(results), tool_calls=() if results else calls)
    turn = turn if turn.content or turn.tool_calls else Message(role="assistant", content="Hello")
    ids = wire.render_prompt([Message(role="user", content="x"), turn])
    return ids[len(wire.render_prompt([Message(role="user", content="x")])) : -1]


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_curl_client_stream_and_agent_loop(name: str) -> None:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)
    with served(script=script) as server:
        curls = [shlex.split(line) for kind, body in fences if not kind for line in body.splitlines() if "curl" in line]
        assert len(curls) == 2
        for words in curls:
            url = server.url + words[2].removeprefix("localhost:8000")
            reply = httpx.post(url, content=words[4]) if "-d" in words else httpx.get(url)
            assert reply.status_code == 200 and reply.json()["object"] in ("list", "chat.completion")
        said, variables = io.StringIO(), {}
        with contextlib.redirect_stdout(said):
            for code in (body for kind, body in fences if kind == "python"):
                exec(code.replace("http://localhost:8000", server.url), variables)
    told = said.getvalue()
    assert "name='get_weather'" in told  # the first example prints the call
    assert 'get_weather{"city": "Rome"}' in told  # the second streams it
    assert told.endswith("Rome: 21 °C, sunny and Rome: 14:05\n")  # the loop gives the results back
