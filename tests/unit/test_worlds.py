"""Simulated worlds: what domains promise, what trajectories must be, and that the replay sees through spoiled ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from data_recipes.check import check
from data_recipes.sources import worlds, worlds_prompts
from data_recipes.worlds import make, phrasing
from data_recipes.worlds.__main__ import main
from data_recipes.worlds.blueprint import Trajectory
from data_recipes.worlds.goals import Stuck, draw
from data_recipes.worlds.kinds import Ref
from data_recipes.worlds.produce import SHARES, Order, order, produce
from data_recipes.worlds.registry import HELDOUT, TRAINING
from data_recipes.worlds.replay import Replay, judge
from data_recipes.worlds.sampler import KINDS, Kind, sample
from data_recipes.worlds.world import World, WorldError, offer
from octupus.data.decontaminate import signature
from octupus.errors import ConfigError
from octupus.wire.messages import Message, Tool
from tests.support.spoiled import SPOILS, calls_of, passed, retold, spoil
from tests.support.tiny import tiny_wire

ALL = {**TRAINING, **HELDOUT}


def one(kind: Kind, index: int = 0, split: str = "train") -> Trajectory:
    return produce(order(1, "heldout" if split == "heldout" else "train", {kind: 1}, False), index)[0]


def test_there_are_enough_worlds_and_none_is_trained_on_and_measured() -> None:
    assert len(TRAINING) >= 12 and len(HELDOUT) >= 3 and not TRAINING.keys() & HELDOUT.keys()
    trained = {name for world in TRAINING.values() for name in world.METHODS}
    shared = {name for world in HELDOUT.values() for name in world.METHODS} & trained
    assert not shared, f"functions of held-out worlds that training shows: {shared}"


@pytest.mark.parametrize("world", ALL.values(), ids=ALL)
def test_a_domain_is_documented_typed_and_whole(world: type[World]) -> None:
    assert 8 <= len(world.METHODS) <= 20
    prefixes = [table.prefix for table in world.TABLES.values()]
    assert len(set(prefixes)) == len(prefixes) and all(len(p) == 2 for p in prefixes)
    for name, method in world.METHODS.items():
        assert all(method.doc), f"{name} lacks a description in one of the languages"
        for zh in (False, True):
            tool = Tool(raw=offer(world, name, zh))
            assert any("\u4e00" <= c <= "\u9fff" for c in tool.raw["function"]["description"]) is zh
            properties = tool.raw["function"]["parameters"]["properties"]
            assert all(p["type"] and p["description"] for p in properties.values())
        if method.sets is not None:
            method.param(method.sets)
    found = {method.table for method in world.METHODS.values()}
    asked = {p.refs.table for m in world.METHODS.values() for p in m.params if isinstance(p.refs, Ref)}
    assert asked <= found, f"no function finds {asked - found}"


@pytest.mark.parametrize("world", ALL.values(), ids=ALL)
def test_a_domain_keeps_its_invariants_and_refuses_before_it_changes(world: type[World]) -> None:
    rng, refused = Random(world.NAME), 0
    state = world(5)
    assert world(5).state == state.state and world(6).state != state.state and not state.violations()
    methods = list(world.METHODS.values())
    for _ in range(60):
        before = state.fork()
        try:
            goal = draw(state, rng, (), methods, fails=rng.random() < 0.4)
        except Stuck:
            continue
        if goal.error is not None:
            refused += 1
            assert state.state == before.state, f"{goal.method.name} refused and changed something"
        if not goal.method.changes:
            assert state.state == before.state, f"{goal.method.name} changes the state unannounced"
        assert not state.violations(), goal.method.name
    assert refused > 0
    with pytest.raises(WorldError) as caught:
        state.get(next(iter(world.TABLES)), "XX-1")
    assert caught.value.unknown


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_legal_training_data_and_the_same_each_time(kind: Kind) -> None:
    for index in range(4):
        trajectory = one(kind, index)
        again = sample(trajectory.world, kind, "x", TRAINING)
        assert again.messages() == sample(trajectory.world, kind, "x", TRAINING).messages()
        assert 1 <= len(trajectory.turns) <= 8
        assert all(sum(len(m.tool_calls) for m in turn.messages) <= 8 for turn in trajectory.turns)
        verdict = judge(trajectory.messages(), trajectory)
        assert verdict.right and verdict.score == 1
        for conversation in trajectory.conversations():
            check(conversation)
    wants = {"miss_func": "refuse", "irrelevance": "refuse", "miss_param": "ask", "no_call": "talk"}
    if kind in wants:
        assert wants[kind] in [turn.kind for turn in trajectory.turns]


def test_a_tool_that_joins_was_missing_before_and_its_refusal_is_not_learned() -> None:
    trajectory = one("miss_func")
    before, after = trajectory.conversations()
    (joined,) = {t.name for t in after.tools} - {t.name for t in before.tools}
    refusal = before.messages[-1]
    assert not refusal.tool_calls and after.messages[: len(before.messages)] == before.messages
    assert joined in {c.name for m in after.messages[len(before.messages) :] for c in m.tool_calls}
    wire = tiny_wire()
    learned = "".join(wire.tokenizer.decode(ids) for _, ids in wire.turns(wire.render(after)))
    assert after.learn_from == len(before.messages) and joined in learned and refusal.content not in learned
    assert refusal.content in "".join(wire.tokenizer.decode(ids) for _, ids in wire.turns(wire.render(before)))


def test_later_arguments_come_from_earlier_results() -> None:
    chained = Counter[bool]()
    for index in range(40):
        for turn in one("base", index).turns:
            returned = "".join(m.content for m in turn.messages if m.role == "tool")
            for call in (c for m in turn.messages for c in m.tool_calls):
                ids = [v for k, v in dict(call.arguments).items() if k.endswith("_id")] if call.arguments else []
                chained.update(id in returned and id not in turn.user for id in ids)
    assert chained[True] > chained[False]


@pytest.fixture(scope="module")
def some() -> list[Trajectory]:
    return [produce(Order(seed=3), index)[0] for index in range(30)]


def test_what_is_not_spoiled_passes(some: list[Trajectory]) -> None:
    assert all(passed(trajectory, retold(trajectory, calls_of(trajectory))) for trajectory in some)


@pytest.mark.parametrize("way", SPOILS, ids=lambda way: way.__name__)
def test_what_is_spoiled_is_rejected(some: list[Trajectory], way) -> None:
    spoiled = [(t, found[1]) for i, t in enumerate(some) if (found := spoil(t, Random(i), [way])) is not None]
    assert len(spoiled) >= 10 and sum(passed(*pair) for pair in spoiled) <= 1


def test_a_reward_has_reasons_and_counts_turns() -> None:
    trajectory = next(t for i in range(20) if len((t := one("base", i)).turns) == 2)
    whole = trajectory.messages()
    first = [*trajectory.messages(1), Message(role="user", content=trajectory.turns[1].user), whole[-1]]
    verdict = judge(first, trajectory)
    assert verdict.score == 0.5 and any("turn 2: lacks" in r for r in verdict.reasons)
    assert judge(trajectory.messages(1), trajectory).score == 0.5
    lied = [*whole[:-1], whole[-1].model_copy(update={"content": "It is 987654."})]
    assert judge(lied, trajectory).reasons == ("turn 2: says 987654, which nobody has",)
    false = [m.model_copy(update={"content": '{"ok": true}'}) if m.role == "tool" else m for m in whole]
    assert any("not what execution gives" in r for r in judge(false, trajectory).reasons)


def test_a_call_that_is_not_on_offer_is_an_error_and_changes_nothing() -> None:
    trajectory = one("miss_func")
    refused = next(turn for turn in trajectory.turns if turn.kind == "refuse")
    wanted = next(turn for turn in trajectory.turns if turn.needed and set(turn.offered) > set(refused.offered))
    replay = Replay(trajectory)
    before = replay.world.digest()
    replay.begin(refused, refused.user)
    assert "error" in replay.act([wanted.needed[0]])[0] and replay.world.digest() == before
    assert any("not on offer" in r for r in replay.wrong) and any("no call is wanted" in r for r in replay.outcome())


def test_shares_are_kept_and_refused_where_they_make_no_sense() -> None:
    wanted = order(0, "train", None, False)
    counts = Counter(wanted.kind(index) for index in range(4000))
    assert all(abs(100 * counts[k] / 4000 - share) < 2.5 for k, share in SHARES.items())
    for shares in ({"nothing": 1}, {"base": 0}):
        with pytest.raises(ConfigError, match="base, miss_func"):
            order(0, "train", shares, False)
    with pytest.raises(ConfigError, match="train or heldout"):
        order(0, "all", None, False)  # type: ignore[arg-type]


def test_the_source_gives_rows_that_any_process_can_convert() -> None:
    found = list(worlds.rows(None, n=30, seed=4))
    kinds = Counter(row["kind"] for row in found if row["part"] == 0)
    assert kinds.total() == 30 and sum(row["part"] for row in found) == kinds["miss_func"] > 0
    conversations = [worlds.to_conversation(row) for row in found]
    assert conversations == [worlds.to_conversation(row) for row in found]
    assert {c.learn_from > 0 for c, row in zip(conversations, found, strict=True) if row["part"]} == {True}
    heldout = worlds.to_conversation(next(worlds.rows(None, n=1, seed=4, split="heldout")))
    trained = {signature(Tool(raw=offer(w, m, zh)))[0] for w in TRAINING.values() for m in w.METHODS for zh in (False,)}
    assert not {signature(tool)[0] for tool in heldout.tools} & trained


def test_a_teachers_words_are_taken_where_everything_can_still_be_derived(tmp_path: Path) -> None:
    rows = list(worlds_prompts.rows(None, n=3, seed=4, candidates=2))
    asked = worlds_prompts.to_conversation(rows[0])
    trajectory, _ = produce(Order(seed=4), 0)
    assert [r["id"] for r in rows[:2]] == ["4-0-0", "4-0-1"] and len(asked.messages) == len(trajectory.turns)
    good = [f"Well, {turn.user}" for turn in trajectory.turns]
    bad = ["Do it." for _ in trajectory.turns]
    assert [t.user for t in phrasing.best(trajectory, [bad, good]).turns] == good
    mixed = phrasing.best(trajectory, [[good[0], *bad[1:]]])
    assert mixed.turns[0].user == good[0] and judge(mixed.messages(), mixed).right
    loud = phrasing.phrased(trajectory, lambda prompt: prompt.rsplit("\n\n", 1)[1] + " !")
    assert all(turn.user.endswith(" !") for turn in loud.turns)
    answers = tmp_path / "answers"
    answers.mkdir()
    told = [
        m
        for q, a in zip(asked.messages, good, strict=True)
        for m in (q.model_dump(), {"role": "assistant", "content": a})
    ]
    row = {"id": "x", "messages": told, "source": "worlds_prompts(n=3)", "row": "4-0-0"}
    (answers / "00000.jsonl").write_text(json.dumps(row) + "\n")
    first = next(worlds.rows(answers, variant="worded", n=3, seed=4))
    assert worlds.to_conversation(first).messages[0].content == good[0]


def test_the_command_counts_and_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(make, "CHUNK", 2)  # enough of them that other processes do the work
    out = tmp_path / "rows.jsonl"
    assert main(["make", "--n", "12", "--seed", "9", "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["trajectories"] == 12 and report["distinct"]["first user turns"] == 12
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) >= 12 - report["near duplicates at 0.9"] and rows[0]["tools"][0]["type"] == "function"
    assert main(["show", "--n", "1", "--kind", "miss_param"]) == 0
    assert "(ask) user:" in (shown := capsys.readouterr().out) and "replayed: score 1" in shown
