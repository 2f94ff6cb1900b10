"""vLLM's worker on a CPU, but that it applies masks with :mod:`octupus.serve.masks`. Named in ``worker_cls``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from octupus.serve.masks import apply_masks

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import GrammarOutput


class MaskingWorker(CPUWorker):
    """vLLM's runner then finds no mask to apply. For one token a step and request: drafts are refused by the server.

    Only with the runner that vLLM 0.32 takes here by itself; the one that it calls V2 applies its masks elsewhere.
    """

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: GrammarOutput | None) -> Any:
        state = self.model_runner.execute_model_state
        if grammar_output is not None and state is not None and not self.use_v2_model_runner:
            places = {request: place for place, request in enumerate(self.model_runner.input_batch.req_ids)}
            masked = enumerate(grammar_output.structured_output_request_ids)
            rows = {places[request]: index for index, request in masked if request in places}
            apply_masks(state.logits, grammar_output.grammar_bitmask[list(rows.values())], list(rows))
            grammar_output = None
        return super().sample_tokens(grammar_output)
