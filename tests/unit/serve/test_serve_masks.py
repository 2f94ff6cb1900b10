"""Masks on logits: what is forbidden is minus infinity, what is allowed is as it was, whatever the share of either."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

if find_spec("xgrammar") is None:
    pytest.skip("xgrammar comes with vLLM, which is not installed (make setup)", allow_module_level=True)

from octupus.serve.masks import apply_masks

VOCABULARY = 5000


def allowed(mask: np.ndarray) -> torch.Tensor:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCABULARY]
    return torch.from_numpy(bits.astype(bool))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [[0], [5, 1, 3], list(range(8)), []])
def test_masks_of_any_density(dtype: torch.dtype, rows: list[int]) -> None:
    rng = np.random.default_rng(len(rows))
    before = torch.from_numpy(rng.normal(size=(8, VOCABULARY)).astype(np.float32)).to(dtype)
    words = (VOCABULARY + 31) // 32
    for _ in range(20):
        shares = rng.choice([0.0002, 0.001, 0.01, 0.5, 0.99, 1.0], size=len(rows))
        bits = rng.random((len(rows), words * 32)) < shares[:, None]
        bits[:, VOCABULARY:] = False
        masks = np.packbits(bits, axis=1, bitorder="little").view(np.int32).reshape(len(rows), words)
        after = before.clone()
        apply_masks(after, masks, rows)
        for row in range(8):
            if row in rows:
                legal = allowed(masks[rows.index(row)])
                assert torch.equal(after[row][legal], before[row][legal])
                assert bool((after[row][~legal] == -torch.inf).all())
            else:
                assert torch.equal(after[row], before[row])


def test_one_token_is_the_only_choice() -> None:
    masks = np.zeros((1, (VOCABULARY + 31) // 32), np.int32)
    masks[0, 77 >> 5] = 1 << (77 & 31)
    logits = torch.zeros(2, VOCABULARY)
    apply_masks(logits, masks, [1])
    assert torch.softmax(logits[1], 0)[77] == 1.0 and bool((logits[0] == 0).all())
