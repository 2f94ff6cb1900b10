"""Property: whatever conversations go into a build, its packed rows give back exactly what was rendered, once each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_recipes.build import run as build
from data_recipes.check import arranged, check, check_language
from data_recipes.sources.openai_format import to_conversation
from octupus.data import Shards
from octupus.data.language import script_of
from octupus.data.store import as_json
from octupus.errors import DataError
from octupus.wire import Conversation
from tests.support.conversations import conversation
from tests.support.recipes import recipe, run_folder, write_jsonl
from tests.support.tiny import tiny_wire

CONTEXT = 400
LETTERS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def row_of(talk: Conversation) -> dict[str, Any]:
    """In the published shape of OpenAI's form."""
    messages = []
    for message in talk.messages:
        plain: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_call_id is not None:
            plain["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            calls = [(c.id, {"name": c.name, "arguments": c.arguments_text}) for c in message.tool_calls]
            plain["tool_calls"] = [{"id": id, "type": "function", "function": f} for id, f in calls]
        messages.append(plain)
    return {"messages": messages, "tools": [tool.raw for tool in talk.tools]}


def rendered(rows: list[dict[str, Any]]) -> Counter[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """What the rows that pass the checks come to, each conversation once, those that fit."""
    wire, kept = tiny_wire(), {}
    for row in rows:
        try:
            talk = to_conversation(row)
            check(talk)
            check_language(script_of(talk), ("en", "zh"))
            kept[as_json(talk)] = arranged(talk)
        except DataError:
            continue
    made = [wire.render(talk) for talk in kept.values()]
    return Counter((tuple(r.ids), tuple(r.mask)) for r in made if len(r.ids) <= CONTEXT)


@given(seeds=st.lists(st.integers(0, 2**32), min_size=20, max_size=40, unique=True), pool=st.lists(LETTERS, max_size=6))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_goes_in_comes_out(seeds: list[int], pool: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("roundtrip")
    # A plain chat each, so that something is left whatever the checks think of the rest.
    simple = [
        {"messages": [{"role": "user", "content": f"q {s}"}, {"role": "assistant", "content": "a"}]} for s in seeds
    ]
    rows = [row_of(conversation(seed, pool)) for seed in seeds] + simple
    wanted = rendered(rows)
    section = {
        "name": "openai_format",
        "path": str(write_jsonl(folder / "a.jsonl", rows)),
        "options": {"repair": False},
        "max_reject_rate": 1.0,
    }
    data = {
        "decontaminate": False,
        "near_duplicates": None,
        "stage1": {"context": CONTEXT, "sources": [section]},
        "stage2": {"context": CONTEXT, "sources": [section]},
    }
    run = run_folder(folder / "run")
    build(recipe(data=data), run)
    rows_out = list(Shards(run.path / "data/stage1"))
    found = Counter((tuple(i.tolist()), tuple(m.tolist())) for row in rows_out for i, m in row.documents())
    assert found == wanted and found.total() >= len(seeds)
