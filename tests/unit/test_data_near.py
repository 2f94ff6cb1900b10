"""Near duplicates, language by script, caps and augmentations, each on rows made for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_recipes.check import check, check_language
from data_recipes.choose import above_cap
from data_recipes.sources.openai_format import to_conversation
from octupus.config import BalanceSection, load
from octupus.data import near
from octupus.data.augment import NONE_FITS, Augmentation
from octupus.data.language import language_of, script_of
from octupus.data.near import NearDuplicates, signatures, words
from octupus.data.store import Store, StoreWriter, as_json, line
from octupus.errors import DataError
from octupus.publish import read_json
from octupus.wire.messages import Conversation
from tests.support.recipes import chat

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("an", "el", "im", "ok", "ur", "ast", "ent")]


def text(rng: random.Random, n: int) -> list[str]:
    return [rng.choice(WORDS) for _ in range(n)]


def files(folder: Path, *sources: list[list[str]]) -> list[Path]:
    found = []
    for number, rows in enumerate(sources):
        found.append(folder / f"{number}.bin")
        signatures(rows).tofile(found[-1])
    return found


def test_near_duplicates_are_found_within_and_across_sources(tmp_path: Path) -> None:
    rng = random.Random(1)
    first, second = ([text(rng, 200) for _ in range(150)] for _ in range(2))
    near_copies = {}
    for at in range(0, 60, 3):
        copy = list(first[at])
        copy[rng.randrange(200)] = "changed"
        second[at + 1] = copy
        near_copies[150 + at + 1] = at
    first[100] = [*first[99][:-1], "another"]
    far = list(first[7])
    for place in range(0, 200, 10):
        far[place] = "other"
    second[149] = far  # a tenth of its words differ, so half of its runs
    twin = NearDuplicates(files(tmp_path, first, second)).find(0.85)
    assert {row: int(of) for row, of in enumerate(twin) if of >= 0} == {**near_copies, 100: 99}


def test_memory_holds_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    rows = [text(rng, 50) for _ in range(40)]
    rows[33] = rows[2]
    whole = NearDuplicates(files(tmp_path, rows)).find(0.9)
    monkeypatch.setattr(near, "BLOCK", 7)
    assert (NearDuplicates(files(tmp_path, rows)).find(0.9) == whole).all() and whole[33] == 2
    assert (NearDuplicates(files(tmp_path, [], rows[:1])).find(0.9) == [-1]).all()


def test_signatures_estimate_what_is_shared() -> None:
    rng = random.Random(3)
    base = text(rng, 2000)
    other = base[:1500] + text(rng, 500)
    one, two = signatures([base, other])
    runs = [{tuple(t[i : i + near.RUN]) for i in range(len(t) - near.RUN + 1)} for t in (base, other)]
    exact = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
    assert abs(float((one == two).mean()) - exact) < 0.15
    assert signatures([[], ["one"], ["one"], ["two"]]).shape == (4, near.SLOTS)
    short = signatures([["one"], ["one"], ["two"]])
    assert (short[0] == short[1]).all() and (short[0] != short[2]).any()
    assert words(to_conversation(chat("Hello, 你好 World!", "x_1"))) == ["hello", "你", "好", "world", "x_1"]


@pytest.mark.parametrize(
    ("said", "script", "language"),
    [
        ("How are you? Fine, thank you.", "Latin", "en"),
        ("请写一个 Python 函数, def f(x): return x 计算平方", "Han", "zh"),
        ("今日はとても良い天気ですね、散歩に行きましょう", "Kana", "other"),
        ("Привет, как дела? print(1)", "Cyrillic", "other"),
        ("안녕하세요 만나서 반갑습니다", "Hangul", "other"),
        ("1 + 1 = 2 🎉", "", "none"),
        ("Ça va très bien, merci", "Latin", "en"),
    ],
)
def test_language_is_told_by_script(said: str, script: str, language: str) -> None:
    found = script_of(to_conversation(chat(said, said)))
    assert (found, language_of(found)) == (script, language)
    if language in ("en", "zh", "none"):
        check_language(script, ("en", "zh"))
    else:
        with pytest.raises(DataError, match=rf"language: written in {script} letters, wanted en, zh"):
            check_language(script, ("en", "zh"))


def tool(name: str) -> dict[str, Any]:
    properties = {
        "city": {"type": "string", "description": "which city"},
        "days": {"type": "integer", "description": "how many"},
    }
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    return {
        "type": "function",
        "function": {"name": name, "description": f"does {name}", "parameters": parameters},
    }


def row(number: int, called: str = "f0", offered: int = 2) -> dict[str, Any]:
    call = {"id": "c", "function": {"name": called, "arguments": f'{{"city": "town {number}", "days": {number}}}'}}
    turns = [
        {"role": "user", "content": f"what about town {number}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "fine"},
        {"role": "assistant", "content": "It is fine."},
    ]
    names = [called, *(f"g{number}_{i}" for i in range(offered - 1))]
    return {"messages": turns, "tools": [tool(name) for name in names]}


def store(folder: Path, rows: list[dict[str, Any]]) -> Store:
    found = [to_conversation(r) for r in rows]
    with StoreWriter(folder) as writer:
        lines = [line(str(i), {}, as_json(c)) for i, c in enumerate(found)]
        zeros = np.zeros(len(found), np.uint64)
        empty = np.zeros((0, near.SLOTS), np.uint32)
        writer.add(lines, empty, identities=zeros, questions=zeros, languages=zeros, tools=zeros)
        writer.publish({})
    return Store(folder, read_json(folder / "report.json") or {})


def test_a_cap_keeps_so_many_rows_of_each_function(tmp_path: Path) -> None:
    rows = [row(i, called=f"f{i % 3 if i < 30 else 9}") for i in range(33)] + [chat("q", "a")]
    found = store(tmp_path / "s", rows)
    candidates = np.ones(34, np.bool_)
    candidates[0] = False
    over = above_cap(found, candidates, 4, seed=1)
    kept = [i for i in range(34) if candidates[i] and not over[i]]
    assert [sum(i % 3 == f for i in kept if i < 30) for f in range(3)] == [4, 4, 4]
    assert kept[-4:] == [30, 31, 32, 33], "what is rare, and what calls nothing, stays"
    assert (above_cap(found, candidates, 4, seed=1) == over).all()
    assert (above_cap(found, candidates, 4, seed=2) != over).any()


def augmented(found: Store, **balance: Any) -> list[tuple[Conversation, Conversation]]:
    change = Augmentation(BalanceSection(**balance), seed=3)
    pairs = [(found.conversation(i), change(found.conversation(i), i, found)) for i in range(len(found))]
    assert pairs == [(c, change(c, i, found)) for i, (c, _) in enumerate(pairs)], "the same key, the same change"
    for _, after in pairs:
        check(after)
    return pairs


def test_names_are_masked_alike_in_tools_and_calls(tmp_path: Path) -> None:
    rows = [row(i) for i in range(20)]
    rows[3]["tools"][0]["function"]["parameters"]["properties"]["days"].pop("description")
    rows[4]["tools"][0]["function"].pop("description")
    for number, (before, after) in enumerate(augmented(store(tmp_path / "s", rows), mask_names=1.0)):
        (old,), (new,) = before.messages[1].tool_calls, after.messages[1].tool_calls
        assert list(new.arguments.values()) == list(old.arguments.values())  # type: ignore[union-attr]
        assert (new.name == old.name) == (number == 4), "a function that says nothing of itself keeps its name"
        assert ("city" in new.arguments) == (number in (3, 4)), "so do parameters"
        assert {t.name for t in after.tools}.isdisjoint({"f0"}) == (number != 4)
        assert after.messages[3] == before.messages[3] and len(after.tools) == len(before.tools)


def test_tools_are_shuffled_and_joined_by_strangers(tmp_path: Path) -> None:
    found = store(tmp_path / "s", [row(i, offered=5) for i in range(30)])
    shuffled = augmented(found, shuffle_tools=1.0)
    assert all(
        sorted(a.model_dump_json() for a in x.tools) == sorted(b.model_dump_json() for b in y.tools)
        for x, y in shuffled
    )
    assert sum(x.tools != y.tools for x, y in shuffled) > 20
    added = [len(after.tools) - len(before.tools) for before, after in augmented(found, distractors=3)]
    assert set(added) == {0, 1, 2, 3}
    for before, after in augmented(found, distractors=3):
        assert after.tools[: len(before.tools)] == before.tools and after.messages == before.messages


def test_without_the_right_tool_the_right_answer_is_text(tmp_path: Path) -> None:
    rows = [row(i, offered=1 + i % 3) for i in range(60)]
    rows += [{**chat("hi", "hello"), "tools": [tool("f0")]}]
    changed = 0
    for before, after in augmented(store(tmp_path / "s", rows), irrelevance=0.5):
        if after.messages == before.messages:
            continue
        changed += 1
        assert after.messages[-1].content in NONE_FITS["Latin"] and len(after.messages) == 2
        assert after.tools and "f0" not in {t.name for t in after.tools}, "and a stranger does not bring it back"
    assert 15 < changed < 45
    assert augmented(store(tmp_path / "t", rows[-1:]), irrelevance=1.0)[0][1].messages[-1].content == "hello"


@settings(max_examples=60, deadline=None)
@given(
    balance=st.fixed_dictionaries(
        {
            "mask_names": st.sampled_from([0.0, 0.5, 1.0]),
            "shuffle_tools": st.sampled_from([0.0, 1.0]),
            "distractors": st.integers(0, 3),
            "irrelevance": st.sampled_from([0.0, 0.5]),
        }
    ),
    key=st.integers(0, 1 << 50),
)
def test_every_change_leaves_a_legal_conversation(
    balance: dict[str, Any], key: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = STORES.setdefault(
        "one", store(tmp_path_factory.mktemp("s"), [row(i, f"f{i}", 1 + i % 4) for i in range(9)])
    )
    check(Augmentation(BalanceSection(**balance), seed=0)(found.conversation(key % 9), key, found))


STORES: dict[str, Store] = {}


def test_balance_is_on_in_plus_alone() -> None:
    for name in ("demo", "v1", "v2"):
        for stage in (load(name).data.stage1, load(name).data.stage2):
            assert stage.balance == BalanceSection(), name
    plus = load("plus").data.stage2
    assert plus.balance.max_per_function and plus.balance.mask_names and plus.balance.shuffle_tools
    assert plus.balance.distractors and plus.balance.irrelevance
    *others, worlds = plus.sources
    assert worlds.name == "worlds" and tuple(others) == load("v2").data.stage2.sources


STAGE1 = [("openhermes", "rewrite", 1), ("wildchat", "English", 1), ("wildchat", "Chinese", 2)]
STAGE2 = [
    ("openhermes", "rewrite", 0.04),
    ("wildchat", "English", 0.02),
    ("wildchat", "Chinese", 0.2),
    ("hermes_fc", "func_calling", 4),
    ("hermes_fc", "glaive_func_calling", 4),
    ("hermes_fc", "func_calling_singleturn", 4),
    ("fc_zh_hard", None, 4),
    ("toolace", None, 2),
]


@pytest.mark.parametrize(("name", "stage2"), [("v1", STAGE2[:-1]), ("v2", STAGE2)])
def test_the_recipes_are_the_forerunners_table(name: str, stage2: list[tuple[str, str | None, float]]) -> None:
    data = load(name).data
    for stage, context, table in ((data.stage1, 4096, STAGE1), (data.stage2, 8192, stage2)):
        found = [(s.name, next(iter(s.options.values()), None), s.epochs) for s in stage.sources]
        assert (stage.context, found) == (context, table)
