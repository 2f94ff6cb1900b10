"""The wire changes only together with its golden files; a difference is printed as text AND ids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.make import DIALECTS, FOLDER, golden


def shown(runs: list[dict[str, Any]]) -> list[str]:
    return [f"{'*' if r['supervised'] else ' '} {r.get('token') or repr(r.get('text'))} {r['ids']}" for r in runs]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_golden_conversations(dialect: str) -> None:
    expected, found = json.loads((FOLDER / f"{dialect}.json").read_text(encoding="utf-8")), golden(dialect)
    assert sorted(found) == sorted(expected)
    differences = []
    for title, parts in expected.items():
        for part, runs in parts.items():
            before, after = shown(runs), shown(found[title][part])
            for i in range(max(len(before), len(after))):
                was, now = (rows[i] if i < len(rows) else "(nothing)" for rows in (before, after))
                if was != now:
                    differences.append(f"{title}, {part}, run {i}:\n  expected {was}\n  found    {now}")
    assert not differences, "the wire has changed (supervised: *):\n" + "\n".join(differences[:20])
