"""The chain with nobody in its way: the demo's from base model to report, and a short one."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml

from slurm import chain as graph
from tests.cluster.chained import OTHERS, STEPS, Chain, Checkout
from tests.cluster.registry import Scene
from tests.cluster.slurm_view import Here, job_state, nodes_of, slurm, until

pytestmark = pytest.mark.cluster
MOST_MINUTES = 10
MANY = 60
"""Numbers that a server is made to write while it is cancelled."""
NODES = ["node1", "node2", "node3", "node4"]


def demo(checkout: Checkout) -> str:
    """The demo with stage 1 on four nodes; with a third of its tool conversations, unless everything is asked for."""
    values = yaml.safe_load((checkout.path / "data_recipes/demo.yaml").read_text(encoding="utf-8"))
    values["stage1"] |= {"nodes": 4, "ranks_per_node": 1, "global_batch": 4}
    if os.environ.get("FULL") != "1":
        values["data"]["stage2"]["sources"][0]["options"]["n"] //= 3
    checkout.write("data_recipes/demo4.yaml", yaml.safe_dump(values, allow_unicode=True))
    return "demo4"


@pytest.fixture(scope="module")
def whole(checkout: Checkout, here: Here) -> tuple[Chain, str, float]:
    """The demo's chain, what it said, and how many minutes it took."""
    chain = Chain(checkout, here, "demo", demo(checkout), "devcluster")
    began = time.monotonic()
    said = chain.call("slurm.submit", "demo", WAIT="1")
    return chain, said, (time.monotonic() - began) / 60


def test_the_whole_demo_with_stage_1_on_four_addresses(whole: tuple[Chain, str, float], here: Here) -> None:
    chain, said, minutes = whole
    print(f"the demo's chain: {minutes:.1f} minutes")
    for step in graph.CHAIN:
        state = chain.state(step.name)
        assert state is not None and state.status == "done", f"{step.name}: {state}"
        assert len(chain.jobs(step.name)) == 1, f"{step.name} was submitted more than once"
    (trained,) = chain.jobs("stage1")
    assert nodes_of(trained) == NODES
    if not here.shared:
        told = [slurm("scontrol", "-o", "show", "node", name) for name in NODES]
        assert len({word for text in told for word in text.split() if word.startswith("NodeAddr=")}) == 4
    logs = [(chain.run.stage("stage1").log / f"rank{rank}.out").read_text() for rank in range(4)]
    assert "4 ranks on cpu" in logs[0]
    scores = json.loads((chain.run.path / "bfcl/scores.json").read_text())
    assert scores and (chain.run.path / "report/index.html").is_file() and "report: " in said
    (server,) = chain.jobs("serve")
    until(lambda: job_state(server) != "COMPLETING", "the server ends with the last who needs it")
    assert job_state(server) == "COMPLETED"
    assert minutes <= MOST_MINUTES


def test_a_server_that_is_cancelled_answers_what_it_was_asked(whole: tuple[Chain, str, float]) -> None:
    chain, _, _ = whole
    chain.submit("serve")
    server = chain.jobs("serve")[-1]
    endpoint = until(lambda: chain.run.endpoints().get("0"), "the server is ready", 300, 0.2)
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": MANY, "maxItems": MANY}
    asked = {"type": "object", "properties": {"n": numbers}, "required": ["n"], "additionalProperties": False}
    body = {
        "messages": [{"role": "user", "content": "count"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": asked}},
        "stream": True,
        "max_tokens": 20 * MANY,
    }
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", f"{endpoint.url}/v1/chat/completions", json=body, timeout=120) as reply,
    ):
        lines = (line.removeprefix("data: ") for line in reply.iter_lines() if line)
        next(lines)
        cancelled = pool.submit(chain.call, "slurm.status", "cancel", STAGE="serve")
        *chunks, last = lines
        assert "ended: serve" in cancelled.result()
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert last == "[DONE]" and choices[-1]["finish_reason"] == "stop" and len(json.loads(text)["n"]) == MANY
    assert job_state(server) == "COMPLETED"


@pytest.mark.short
def test_a_short_chain_leaves_what_docs_say(undisturbed: Scene) -> None:
    for chain in (undisturbed.prepared, undisturbed.pair):
        for stage in ("stage1", "stage2"):
            assert [step for step, _ in chain.steps(stage)] == list(range(1, STEPS + 1))
            assert (chain.run.stage(stage).path / "export" / "model.safetensors").is_file()
    one, two = (dict(chain.steps("stage1")) for chain in (undisturbed.prepared, undisturbed.pair))
    assert one[STEPS] == pytest.approx(two[STEPS], abs=1e-4), "one rank and two learn the same"
    assert one[STEPS] < one[1]


def test_two_servers_share_what_is_asked_and_both_end(undisturbed: Scene) -> None:
    chain = replace(undisturbed, name="replicas").chain(trained=True)
    chain.submit("bfcl", SET="serve.replicas=2")
    chain.done("score")
    assert chain.state("score").outputs["entries"] == 60 and chain.state("score").outputs["errors"] == 0
    chain.at_rest()
    (server,) = chain.jobs("serve")
    logs = [chain.run.stage("serve").log / f"rank{task}.out" for task in (0, 1)]
    asked = [log.read_text().count("chat/completions") for log in logs]
    assert sum(asked) >= 60 and min(asked) >= 25, asked
    for task in (0, 1):
        until(lambda one=f"{server}_{task}": job_state(one) not in ("RUNNING", "COMPLETING"), "the server ends")
        assert job_state(f"{server}_{task}") == "COMPLETED"


def test_one_server_answers_while_the_other_waits_for_a_place(undisturbed: Scene) -> None:
    undisturbed.checkout.cluster("narrow", "stages: {serve: {array_parallel: 1}}\n", exclude=OTHERS)
    chain = replace(undisturbed, name="narrow").chain("narrow", trained=True)
    chain.submit("bfcl", SET="serve.replicas=2 bfcl.categories.simple_python=10")
    chain.done("score")
    assert chain.state("score").outputs["entries"] == 10 and chain.state("score").outputs["errors"] == 0
    chain.at_rest()
    (server,) = chain.jobs("serve")
    assert {job_state(f"{server}_{task}") for task in (0, 1)} <= {"COMPLETED", "CANCELLED", ""}


@pytest.mark.short
def test_the_same_command_again_submits_nothing(undisturbed: Scene) -> None:
    chain = undisturbed.prepared
    before = Path(chain.run.path / "jobs.jsonl").read_text()
    assert "done before with the same inputs" in chain.submit("stage1", "stage2")
    assert Path(chain.run.path / "jobs.jsonl").read_text() == before
