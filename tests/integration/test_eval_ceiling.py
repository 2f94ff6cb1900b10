"""Which of BFCL's true answers the constraint refuses: exactly those that break their own schema, each with a reason.

Here the oracle meets the mask without HTTP and without the harness; ``make oracle`` goes the whole way.
"""

from __future__ import annotations

import asyncio
import random
import re

import pytest

from eval.oracle import Oracle
from eval.sample import BfclData, Question
from eval.weights import GROUPS
from octupus.config import ServeSection
from octupus.constrain import compile_schema
from octupus.errors import ConfigError, JobError, Unsatisfiable
from octupus.serve.engines import RequestFailed, Sampling
from octupus.serve.masked import MaskedEngine
from octupus.wire import Message, Tool, ToolChoice
from tests.support.tiny import tiny_folder, tiny_wire

REFUSED = {
    "parallel_multiple_21": "/x: .*'type'",
    "parallel_multiple_94": "/elements/0: .*'type'",
    "live_simple_106-63-0": "'required'",  # the truth holds no acceptable value for a required array
    "live_simple_112-68-0": "'required'",
    "live_multiple_87-38-4": "/type: .*'enum'",
    "live_multiple_189-83-0": "/data/name: not declared .*'additionalProperties'",
    "live_multiple_507-149-4": "'required'",  # it must be sent, as an empty text
    "live_multiple_552-153-1": "/is_unisex: .*'type'",
    "live_multiple_595-158-1": "/number_of_rooms: .*'type'",
    "live_multiple_596-158-2": "/number_of_rooms: .*'type'",
    "live_multiple_731-167-2": "/in_unit_laundry: .*'type'",
    "live_multiple_733-167-4": "/in_unit_laundry: .*'type'",
    "live_multiple_735-167-6": "/in_unit_laundry: .*'type'",
    "live_multiple_750-169-5": "/genre: .*'enum'",
    "live_multiple_835-178-10": "/genre: .*'enum'",
    "live_multiple_862-181-3": "/journey_start_time: not declared",
    "live_multiple_871-182-8": "/genre: .*'enum'",
    "live_multiple_947-197-0": "/duration: .*'enum'",
    "live_multiple_964-207-0": "'required'",
    "live_multiple_1038-265-0": "/start_date: .*'type'",
    "live_parallel_multiple_2-2-0": "/command: .*'enum'",
}


async def refusals(category: str, questions: list[Question]) -> dict[str, str]:
    """By id, why the true answer to the first turn does not pass."""
    wire, section = tiny_wire(), ServeSection(engine_args={"categories": [category]})
    engine = MaskedEngine(Oracle(tiny_folder(), wire, section), wire, section.constraint)
    found = {}
    for question in questions:
        tools = [Tool(raw=tool) for tool in question.tools]
        said = [Message(role=m["role"], content=m["content"]) for m in question.turns[0]]
        grammar = wire.grammar(tools, ToolChoice(names=tuple(t.name for t in tools if callable_at_all(t))))
        steps = engine.generate("x", wire.render_prompt(said, tools), grammar, Sampling(max_tokens=8192))
        try:
            ended = [finish async for _, finish in steps]
            assert ended[-1] == "stop", question.id
        except RequestFailed as error:
            found[question.id] = str(error)
    return found


def callable_at_all(tool: Tool) -> bool:
    try:
        compile_schema(tool.parameters, arguments=True)
    except Unsatisfiable:
        return False
    return True


def check(category: str, pick: int | None) -> None:
    try:
        questions = list(BfclData.ready().questions([category]))
    except (ConfigError, JobError) as error:
        pytest.skip(str(error))
    expected = {id: why for id, why in REFUSED.items() if id.startswith(f"{category}_")}
    if pick is not None:
        drawn = {q.id for q in random.Random(category).sample(questions, min(pick, len(questions)))}
        questions = [q for q in questions if q.id in drawn or q.id in expected]
    found = asyncio.run(refusals(category, questions))
    assert found.keys() == {id for id in expected if any(q.id == id for q in questions)}
    for id, why in found.items():
        assert "does not allow it here" in why
        assert re.search(expected[id], why), f"{id}: {why}"


def test_the_truth_that_calls_what_is_withheld() -> None:
    """No legal call has the result that the harness wants of this turn, so no server that keeps to its tools has it."""
    try:
        data = BfclData.ready()
    except (ConfigError, JobError) as error:
        pytest.skip(str(error))
    truth = {row["id"]: row["truth"] for row in data.rows("truth") if row["category"] == "multi_turn_miss_func"}
    early = []
    for question in data.questions(["multi_turn_miss_func"]):
        withheld = {tool["function"]["name"] for tool in question.tools[len(question.tools) - question.late :]}
        joins = next(number for number, turn in enumerate(question.turns) if not turn)
        called = {call.partition("(")[0] for turn in truth[question.id][:joins] for call in turn}
        early += [(question.id, sorted(called & withheld))] if called & withheld else []
    assert early == [("multi_turn_miss_func_49", ["tail"])]


@pytest.mark.parametrize(
    "category", ["simple_java", "parallel_multiple", "live_simple", "live_multiple", "irrelevance"]
)
def test_a_sample_of_true_answers_passes(category: str) -> None:
    check(category, 10)


@pytest.mark.full
@pytest.mark.parametrize("category", GROUPS["single_turn"])
def test_every_true_answer_passes_or_is_explained(category: str) -> None:
    check(category, None)
