"""Our own server as the teacher: started by the worker's job, speaks Qwen's dialect, and every call of it is legal."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from octupus.publish import publish_json
from octupus.runs import Run
from octupus.teacher.run import merge
from slurm.jobs import TeacherJob
from slurm.stage import Frozen
from tests.support.recipes import WEATHER, recipe, write_jsonl
from tests.support.teachers import answers
from tests.support.tiny_model import tiny_model

CITIES = ["Paris", "北京", 'Sankt "Pölten"']


def test_prompts_with_tools_are_answered_by_legal_calls(tmp_path: Path) -> None:
    tiny_model(model := tmp_path / "tiny-instruct", instruct="qwen2_5")
    city = {"enum": CITIES}
    schema = {"type": "object", "properties": {"city": city, "days": {"type": "integer"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "forecast", "description": "x", "parameters": schema}}
    asked = [{"role": "user", "content": f"How warm is it, {i}?"} for i in range(12)]
    rows = [{"messages": [said], "tools": [tool, WEATHER]} for said in asked] + [{"messages": [asked[0]]}]
    engine = {"engine": "tests.support.teachers:ScriptedCaller", "max_model_len": 4096}
    chosen = recipe(
        teacher={
            "engine": "server",
            "model": str(model),
            "prompts": [{"name": "openai_format", "path": str(write_jsonl(tmp_path / "p.jsonl", rows))}],
            "sampling": {"temperature": 1.0, "max_tokens": 256},
            "engine_args": {"serve": engine, "concurrency": 4},
            "gates": ["cut by length"],
        }
    )
    run = Run(tmp_path / "run")
    publish_json(run.path / "recipe.json", Frozen(recipe=chosen))
    TeacherJob(str(run.path), "teacher", task="worker0")()
    counts = merge(chosen, run)
    assert counts["prompts"] == 13 and counts["answers"] + sum(counts["rejects"].values()) == 13
    schemas = {"forecast": schema, "get_weather": WEATHER["function"]["parameters"]}
    calls = [call["function"] for row in answers(run).values() for call in row["messages"][-1].get("tool_calls") or ()]
    assert len(calls) >= 6
    for call in calls:
        jsonschema.validate(json.loads(call["arguments"]), schemas[call["name"]])
    assert not Run(run.path / "teacher/tasks/worker0").endpoints(), "its server has ended with it"
