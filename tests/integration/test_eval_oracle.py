"""The perfect model's answers through the real server and the real constraint come out as the ground truth."""

from __future__ import annotations

import json

import pytest

from eval.checker import judge, schemas_of
from eval.oracle import CANNOT, Oracle, apart
from eval.sample import BfclData
from eval.weights import GROUPS
from octupus.config import ServeSection
from octupus.errors import ConfigError, JobError
from tests.support.served import served
from tests.support.tiny import tiny_folder, tiny_wire

CATEGORIES = ["simple_python", "simple_java", "parallel_multiple", "live_multiple", "irrelevance", "multi_turn_base"]


@pytest.fixture(scope="module")
def data() -> BfclData:
    try:
        return BfclData.ready()
    except (ConfigError, JobError) as error:
        pytest.skip(str(error))


def oracle(categories: list[str], mode: str = "truth") -> Oracle:
    return Oracle(tiny_folder(), tiny_wire(), ServeSection(engine_args={"categories": categories, "mode": mode}))


@pytest.mark.parametrize("constrained", [True, False])
def test_answers_come_out_as_they_went_in(data: BfclData, constrained: bool) -> None:
    perfect = oracle(CATEGORIES)
    make = None if constrained else lambda section: perfect
    limits = {"max_model_len": 65536, "default_max_tokens": 4096}
    with served(make, script=perfect.script if constrained else None, canary=False, **limits) as server:
        for category in CATEGORIES:
            for question in list(data.questions([category]))[:3]:
                (choice,) = server.client.chat.completions.create(
                    model="any", messages=question.turns[0], tools=question.tools
                ).choices
                calls, text = perfect.truth.answer(_messages(question.turns[0]), question.tools)
                got = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls or ()]
                assert got == calls and (choice.message.content or "") == text, question.id
                assert choice.finish_reason == ("tool_calls" if calls else "stop")
                for name, arguments in calls:
                    call = {"name": name, "arguments": json.dumps(arguments)}
                    assert judge(call, schemas_of(question.tools)).status == "legal", question.id


def test_categories_that_share_an_opening_are_kept_apart(data: BfclData) -> None:
    wanted = [*GROUPS["single_turn"], *GROUPS["multi_turn"]]
    groups = apart(data, wanted)
    assert sorted(name for group in groups for name in group) == sorted(wanted) and len(groups) < 6
    for group in groups:
        # live_simple_29-7-2 and live_irrelevance_118-7-8, for one, ask the same and want opposite answers.
        assert not {"live_simple", "live_irrelevance"} <= set(group)
        assert sum(name.startswith("multi_turn") for name in group) <= 1


def _messages(turn: list[dict[str, str]]):
    from octupus.wire.messages import Message

    return [Message(role=m["role"], content=m["content"]) for m in turn]


def test_every_turn_of_a_conversation_is_found_again(data: BfclData) -> None:
    from octupus.wire.messages import Message, ToolCall

    truth = oracle(["multi_turn_base", "multi_turn_miss_func"]).truth
    question = next(q for q in data.questions(["multi_turn_base"]) if len(q.turns) == 4)
    (wanted,) = [row["truth"] for row in data.rows("truth") if row["id"] == question.id]
    said: list[Message] = []
    for turn, calls_wanted in zip(question.turns, wanted, strict=True):
        said += _messages(turn)
        calls, _ = truth.answer(said, question.tools)
        assert len(calls) == len(calls_wanted)
        said.append(Message(role="assistant", tool_calls=tuple(ToolCall(name=n, arguments=a) for n, a in calls)))
        said += [Message(role="tool", content="{}", tool_call_id=str(i)) for i in range(len(calls))]
        assert truth.answer(said, question.tools) == ([], "Done.")


def test_the_wrong_oracle_and_strangers(data: BfclData) -> None:
    wire, question = tiny_wire(), next(iter(data.questions(["irrelevance"])))
    from octupus.wire.messages import Message, Tool

    tools = [Tool(raw=tool) for tool in question.tools]
    wrong = oracle(["irrelevance"], "wrong")
    prompt = wire.render_prompt(_messages(question.turns[0]), tools)
    asked = wire.parse([*prompt, *wrong.script(prompt)])
    assert asked.messages[-1].tool_calls, "it calls where nothing fits"
    assert wire.parse([*prompt, *oracle(["irrelevance"]).script(prompt)]).messages[-1].content == CANNOT
    stranger = wire.render_prompt([Message(role="user", content="never asked")], [])
    said = oracle(["irrelevance"]).script(stranger)
    assert "no BFCL entry" in wire.parse([*stranger, *said]).messages[-1].content
    with pytest.raises(ConfigError, match="categories"):
        Oracle(tiny_folder(), wire, ServeSection())
