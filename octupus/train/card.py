"""The model card of an export, written from what the run itself recorded; scores come with publishing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from octupus.config import Recipe, TrainSection
from octupus.data.shards import Shards
from octupus.runs import Run
from octupus.train.metrics import validated

SCORES = "<!-- scores -->"
"""Where the scores go once they are measured: training does not know them."""


def card(recipe: Recipe, run: Run, stage: str, outputs: Mapping[str, Any]) -> str:
    """``README.md`` of the model that ``stage`` ends with, as the hub reads it."""
    stages = ("stage1", "stage2")[: 2 if stage == "stage2" else 1]
    manifests = {name: Shards(run.stage("data").path / name).manifest for name in stages}
    base = recipe.model.base
    head: dict[str, Any] = {"language": ["en", "zh"], "library_name": "transformers", "pipeline_tag": "text-generation"}
    head |= {"tags": ["function-calling", "tool-use"]} | ({"base_model": base} if base else {})
    lines = ["---", yaml.safe_dump(head, allow_unicode=True).strip(), "---", f"# {recipe.name}: {stage}", ""]
    start = (
        f"{base} (revision {recipe.model.revision or 'not pinned'})" if base else "a small model from random weights"
    )
    lines += [
        f"Trained from {start} to call functions, in the chat format `{recipe.wire.dialect}` "
        f"(`{manifests[stage].fingerprint}`, `wire.json` beside the weights).",
        "",
        "## Data",
        "",
        "| stage | source | licence | epochs | conversations | tokens |",
        "|---|---|---|---:|---:|---:|",
    ]
    lines += [row for name, found in manifests.items() for row in _sources(name, found.details)]
    lines += ["", "## Training", ""]
    for name in stages:
        done = outputs if name == stage else (state.outputs if (state := run.stage(name).state()) else {})
        lines += list(_training(name, getattr(recipe, name), manifests[name].context, done))
    lines += ["", "## Scores", "", SCORES, ""]
    return "\n".join(lines)


def _sources(stage: str, details: Mapping[str, Any]) -> Iterator[str]:
    for part in details.get("sources", ()):
        name, licence = (str(part[key]).replace("|", "\\|") for key in ("source", "licence"))
        figures = f"{part['epochs']:g} | {part['documents']:,} | {part['tokens']:,}"
        yield f"| {stage} | {name} | {licence} | {figures} |"


def _training(stage: str, section: TrainSection, context: int, done: Mapping[str, Any]) -> Iterator[str]:
    zero = f"ZeRO-{section.deepspeed.zero}, {section.precision}, {section.world_size} ranks"
    yield (
        f"- **{stage}**: {done.get('steps', '?')} steps of {section.global_batch} packed rows of {context} tokens, "
        f"learning rate {section.lr:g} to {section.min_lr:g} (cosine, {section.warmup_steps} warm-up steps), "
        f"AdamW (0.9, {section.beta2:g}), weight decay {section.weight_decay:g}, clipping {section.clip:g}; {zero}."
    )
    if done:
        yield (
            f"  {done['tokens']:,} tokens, {done['supervised_tokens']:,} of them supervised; last loss "
            f"{json.dumps(done['loss'])}." + (f" On {validated(done)}." if "val_loss" in done else "")
        )
