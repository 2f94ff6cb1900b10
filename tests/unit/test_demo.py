"""The demo's conversations: the same from the same seed, legal, and held out in earnest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from data_recipes.demo import corpus, dialogue, talk, teacher, values
from data_recipes.demo.tools import SEEN, UNSEEN
from data_recipes.sources import demo_chat, demo_tools
from octupus.config import load
from octupus.constrain import validate

Row = dict[str, Any]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    sizes = {"train": 3000, "heldout": 400, "unseen": 200}
    return {split: list(demo_tools.rows(None, split, n, 7)) for split, n in sizes.items()}


def calls(row: Row) -> Iterator[tuple[str, dict[str, Any]]]:
    for message in row["messages"]:
        for call in message.get("tool_calls", ()):
            yield call["function"]["name"], call["function"]["arguments"]


def test_the_same_seed_gives_the_same_rows_and_another_gives_others() -> None:
    first, again, other = (list(demo_tools.rows(None, "train", 50, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert list(demo_chat.rows(None, 50, 1)) == list(demo_chat.rows(None, 50, 1))


def test_every_row_is_a_conversation_whose_calls_are_offered_and_legal(splits: dict[str, list[Row]]) -> None:
    called = 0
    for row in (row for rows in splits.values() for row in rows):
        conversation = demo_tools.to_conversation(row)
        offered = {tool.name: tool for tool in conversation.tools}
        for name, arguments in calls(row):
            called += 1
            assert validate(offered[name].parameters, arguments) == []
    assert called > 3000


def test_no_question_and_no_invented_value_is_shared_with_training(splits: dict[str, list[Row]]) -> None:
    def invented(rows: list[Row]) -> set[str]:
        fixed = {json.dumps(word) for tool in SEEN + UNSEEN for word in _words(tool)} | {"true", "false"}
        flat = (item for row in rows for _, a in calls(row) for v in a.values() for item in _items(v))
        return {json.dumps(value, ensure_ascii=False) for value in flat} - fixed

    held = splits["heldout"] + splits["unseen"]
    assert len(invented(held)) > 200
    assert not invented(held) & invented(splits["train"])
    questions = [{row["messages"][0]["content"] for row in rows} for rows in (splits["train"], held)]
    assert not questions[0] & questions[1]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _words(tool: Any) -> list[str]:
    properties = [p for zh in (False, True) for p in tool.offer(zh)["function"]["parameters"]["properties"].values()]
    return [word for p in properties for word in p.get("enum", [])]


def test_unseen_tools_are_never_trained_on(splits: dict[str, list[Row]]) -> None:
    unseen = {tool.name for tool in UNSEEN}
    assert unseen and not unseen & {tool.name for tool in SEEN}
    assert {name for row in splits["unseen"] for name, _ in calls(row)} <= unseen
    assert not {t["function"]["name"] for row in splits["train"] for t in row["tools"]} & unseen


def test_kinds_and_languages_come_in_their_shares(splits: dict[str, list[Row]]) -> None:
    rows = splits["train"]
    kinds = Counter(row["kind"] for row in rows)
    for kind, share in dialogue.SHARES.items():
        assert abs(100 * kinds[kind] / len(rows) - share) < 3, kind
    chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in row["messages"][0]["content"]) for row in rows)
    assert 0.3 < chinese / len(rows) < 0.5


def test_the_scripted_teacher_knows_every_question() -> None:
    answers = [teacher.answer(row["messages"]) for row in talk.conversations(3, 1500)]
    assert len(answers) == 1500
    assert not set(answers) & set(teacher.UNSURE)


def test_the_corpus_holds_the_pieces_and_no_invented_name() -> None:
    text = "\n".join(islice(corpus.texts(load("demo")), 200_000))
    assert all(piece in text for piece in (*values.HEADS, *values.TAILS, *values.NOUNS))
    assert not any(head + tail in text for head in values.HEADS for tail in values.TAILS)
