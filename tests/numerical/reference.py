"""Training as the textbook has it: plain PyTorch, a document at a time, full logits; no code of octupus.train."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from octupus.config import TrainSection
from octupus.data.batches import order
from octupus.data.shards import PackedRow, Shards


def step_rows(shards: Shards, section: TrainSection, step: int) -> Iterator[PackedRow]:
    """The rows of one optimizer step, whoever computes them."""
    for place in range(step * section.global_batch, (step + 1) * section.global_batch):
        epoch, at = divmod(place, len(shards))
        yield shards[int(order(section.seed, epoch, len(shards))[at])]


def train(
    start: Path, data: Path, section: TrainSection, total: int
) -> tuple[list[float], list[float], PreTrainedModel]:
    """Loss and gradient norm of every step, and the model after the last."""
    model = AutoModelForCausalLM.from_pretrained(start, attn_implementation="eager", dtype=torch.float32).train()
    shards = Shards(data)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": section.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, betas=(0.9, section.beta2), foreach=False)
    losses, norms = [], []
    for step in range(total):
        nats, count = torch.zeros(()), 0
        for row in step_rows(shards, section, step):
            for ids, mask in row.documents():
                tokens = torch.tensor(ids, dtype=torch.long)
                logits = model(tokens[None], use_cache=False).logits[0]
                each = functional.cross_entropy(logits[:-1], tokens[1:], reduction="none")
                supervised = torch.tensor(mask[1:])
                nats, count = nats + each[supervised].sum(), count + int(supervised.sum())
        loss = nats / count
        adam.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), section.clip).item())
        for group in adam.param_groups:
            group["lr"] = _rate(section, step, total)
        adam.step()
        losses.append(loss.item())
    return losses, norms, model


def _rate(section: TrainSection, step: int, total: int) -> float:
    done = step + 1
    if done <= section.warmup_steps:
        return section.lr * done / section.warmup_steps
    angle = math.pi * (done - section.warmup_steps) / (total - section.warmup_steps)
    return section.min_lr + (section.lr - section.min_lr) * (1 + math.cos(angle)) / 2
