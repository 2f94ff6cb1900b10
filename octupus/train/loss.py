"""Cross entropy of the supervised tokens only, without ever holding the logits of a whole batch.

A 152k-wide head makes 600 kB of logits for ONE token in fp32; a packed micro-batch of 16k tokens would need 10 GB, and
as much again for their gradient. Here the head runs over a few hundred supervised positions at a time, and because the
gradient of a SUM of losses does not depend on the other chunks, it is made in the same pass and the logits dropped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Logits held at a time: 4 MB in fp32 stay near a CPU's cache, 1 GB keeps a GPU's matrix products large."""


class _SummedCrossEntropy(torch.autograd.Function):
    """``sum(-log softmax(hidden @ weight.T)[target])``; both gradients are made in ``forward``, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(targets), chunk):
            rows, wanted = hidden[begin : begin + chunk], targets[begin : begin + chunk, None]
            logits = (rows @ weight.T).float()
            normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
            total += (normaliser - logits.gather(1, wanted)).sum()
            slope = logits.sub_(normaliser).exp_()  # softmax, in the logits' own memory
            slope.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=slope.dtype))
            slope = slope.to(hidden.dtype)
            torch.mm(slope, weight, out=grad_hidden[begin : begin + chunk])
            grad_weight.addmm_(slope.T, rows)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """The summed loss of ``targets`` under a linear head.

    Args:
        hidden: [n, width], the last hidden states at the supervised positions only.
        weight: [vocabulary, width] of the head (which may be the input embedding's: tied models need nothing special).
        targets: [n] ids to predict.
        chunk: positions whose logits exist at the same time; None chooses by the device.

    Returns:
        The sum in nats, a scalar in fp32; its gradient with respect to all other positions is exactly zero because they
        never enter.
    """
    loss: Tensor = _SummedCrossEntropy.apply(hidden, weight, targets, chunk or _chunk(hidden, weight))
    return loss


@torch.no_grad()
def judged(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each target and whether it is the most likely token: [n] in fp32 nats, [n] bool."""
    losses, right = [], []
    size = _chunk(hidden, weight)
    for rows, wanted in zip(hidden.split(size), targets.split(size), strict=True):
        logits = (rows @ weight.T).float()
        losses.append(nn.functional.cross_entropy(logits, wanted, reduction="none"))
        right.append(logits.argmax(-1) == wanted)
    return torch.cat(losses), torch.cat(right)


def _chunk(hidden: Tensor, weight: Tensor) -> int:
    return max(64, CHUNK_ELEMENTS.get(hidden.device.type, 1 << 26) // weight.shape[0])
