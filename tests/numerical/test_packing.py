"""What enters the loss and what a token can see, on real models; and the loss against the one everybody knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from octupus.data.batches import Batch, collate
from octupus.data.shards import PackedRow
from octupus.train import model as training_model
from octupus.train.loss import summed_cross_entropy
from octupus.train.model import Inputs, Objective
from tests.numerical.world import documents

DEVICE = torch.device("cpu")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=request.param,
    )
    path = tmp_path_factory.mktemp("model")
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def objective(folder: Path) -> Objective:
    return training_model.load(folder, "fp32", gradient_checkpointing=True)


def row_of(found: list[tuple[np.ndarray, np.ndarray]]) -> PackedRow:
    ids, mask = (np.concatenate(parts) for parts in zip(*found, strict=True))
    starts = np.cumsum([0, *(len(d[0]) for d in found)])[:-1]
    return PackedRow(ids.astype(np.int32), mask, starts.astype(np.int32))


def hidden(objective: Objective, batch: Batch) -> torch.Tensor:
    inputs = Inputs.of(batch, DEVICE)
    states: torch.Tensor = objective.model.base_model(
        input_ids=inputs.input_ids, position_ids=inputs.position_ids, packing=inputs.packing, use_cache=False
    ).last_hidden_state
    return states[0]


def test_no_document_sees_another(objective: Objective) -> None:
    """Change every token of one document: the others' hidden states and gradients do not move by a single bit."""
    found = documents(3)
    changed = [found[0], ((found[1][0] + 7) % 60, found[1][1]), found[2]]
    before, after = (collate([row_of(found)]), collate([row_of(changed)]))
    first, last = before.bounds[1], before.bounds[2]
    one, other = hidden(objective, before), hidden(objective, after)
    assert torch.equal(one[:first], other[:first]) and torch.equal(one[last:], other[last:])
    assert not torch.allclose(one[first:last], other[first:last], atol=1e-3), "the test must be able to see a change"

    embedded: list[torch.Tensor] = []

    def watch(module: object, args: object, output: torch.Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    hook = objective.model.get_input_embeddings().register_forward_hook(watch)
    hidden(objective, before)[first:last].square().sum().backward()
    hook.remove()
    (seen,) = embedded
    assert seen.grad is not None
    assert seen.grad[0, :first].abs().max() == 0 and seen.grad[0, last:].abs().max() == 0
    assert seen.grad[0, first:last].abs().max() > 0


def test_packed_logits_are_those_of_each_document_alone(folder: Path, objective: Objective) -> None:
    alone = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    batch = collate([row_of(documents(4)), row_of(documents(3, seed=1))])
    states = hidden(objective, batch)
    logits = states @ objective.head.weight.T
    for begin, end in zip(batch.bounds[:-1], batch.bounds[1:], strict=True):
        ids = torch.from_numpy(batch.input_ids[:, begin:end])
        torch.testing.assert_close(logits[begin:end], alone(ids, use_cache=False).logits[0], rtol=0, atol=2e-6)


def test_tokens_outside_the_mask_contribute_exactly_nothing(objective: Objective) -> None:
    """The gradient with respect to the state that would make a masked token's logits is zero, not small."""
    found = documents(4)
    batch = collate([row_of(found)])
    kept: list[torch.Tensor] = []

    def watch(module: object, args: object, output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    hook = objective.model.base_model.norm.register_forward_hook(watch)
    objective(Inputs.of(batch, DEVICE)).backward()
    hook.remove()
    (states,) = kept
    supervised = torch.from_numpy(batch.labels[0] != -100)
    assert states.grad is not None
    assert states.grad[0][~supervised].abs().max() == 0
    assert (states.grad[0][supervised].abs().amax(1) > 0).all()
    assert batch.supervised == sum(int(mask[1:].sum()) for _, mask in found)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_chunked_loss_is_cross_entropy(chunk: int) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(50, 16, requires_grad=True), torch.randn(300, 16, requires_grad=True)
    targets = torch.randint(0, 300, (50,))
    plain = functional.cross_entropy(states @ weight.T, targets, reduction="sum") * 0.3
    plain.backward()
    expected = states.grad.clone(), weight.grad.clone()
    states.grad = weight.grad = None
    ours = summed_cross_entropy(states, weight, targets, chunk) * 0.3
    ours.backward()
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close((states.grad, weight.grad), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(summed_cross_entropy(states, weight, targets, chunk) * 0.3, plain)


def test_logits_of_a_wide_head_are_never_whole() -> None:
    """152k wide, 300 supervised tokens: 180 MB of logits whole, 39 MB in chunks."""
    states, weight = torch.randn(300, 8, requires_grad=True), torch.randn(151_936, 8, requires_grad=True)
    targets = torch.randint(0, 151_936, (300,))
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Largest():
        summed_cross_entropy(states, weight, targets).backward()
    assert largest <= 64 * 151_936, f"a tensor of {largest} elements"


def test_the_cost_in_operations_is_what_torch_counts(objective: Objective) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from octupus.estimate import Cost, Shape

    found = documents(3)
    inputs = Inputs.of(collate([row_of(found)]), DEVICE)
    plain = training_model.load(Path(objective.model.config._name_or_path), "fp32", gradient_checkpointing=False)
    with FlopCounterMode(display=False) as counter:
        plain(inputs).backward()
    cost = Cost.of(Shape.of_config(plain.model.config.to_dict()))
    attention = [k for k in counter.get_flop_counts()["Global"] if "attention" in str(k)]
    counted = counter.get_total_flops() - sum(counter.get_flop_counts()["Global"][k] for k in attention)
    in_place = 2 / 3  # torch leaves out addmm_, which adds up the head's gradient
    ours = cost.token * inputs.input_ids.numel() + in_place * cost.supervised * len(inputs.targets)
    assert counted == pytest.approx(ours, rel=1e-6)
