"""A scripted engine for BFCL: the truth for most prompts, nonsense for the others, always the same for one prompt.

What it was asked is appended to ``$MOODY_LOG``, a line a request, so that a test can count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from eval.oracle import Oracle
from octupus.publish import append_jsonl
from octupus.wire import CallGrammar


def key(users: Sequence[str], tools: Sequence[str]) -> str:
    """Names a request by what its user says and which tools are on offer."""
    return hashlib.sha256(json.dumps([list(users), list(tools)]).encode()).hexdigest()[:16]


class Moody(Oracle):
    async def generate(
        self, request_id: str, prompt_ids: list[int], grammar: CallGrammar | None, sampling: Any
    ) -> AsyncIterator[tuple[list[int], str | None]]:
        asked = self.wire.parse(prompt_ids)
        users = [m.content for m in asked.messages if m.role == "user"]
        named = key(users, [tool.name for tool in asked.tools])
        append_jsonl(Path(os.environ["MOODY_LOG"]), {"asked": named})
        self.wrong = int(named, 16) % 10 < 4
        async for step in super().generate(request_id, prompt_ids, grammar, sampling):
            yield step
