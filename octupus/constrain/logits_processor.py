"""The constraint for ``transformers.generate``, without any server::

processor = ConstraintLogitsProcessor(constraint, grammar, prompt_length=input_ids.shape[1])
model.generate(input_ids, logits_processor=[processor], eos_token_id=grammar.frame.end)
"""

from __future__ import annotations

import numpy as np
import torch

from octupus.constrain.call import CallState
from octupus.constrain.constraint import Constraint
from octupus.errors import ConstraintError
from octupus.wire.grammar import CallGrammar


class ConstraintLogitsProcessor:
    """Forbids every token that the grammar does not allow; greedy, sampled and with beams.

    Args:
        prompt_length: tokens of the prompt, padding included: what follows is the answer.
        beams: as ``num_beams``. A search keeps dead beams, which hold tokens that were not allowed, where fewer are
            alive: with more than one beam such a row is forbidden everything; with one it is an error.
    """

    def __init__(self, constraint: Constraint, grammar: CallGrammar, prompt_length: int, beams: int = 1) -> None:
        self._constraint, self._grammar = constraint, grammar
        self._prompt_length, self._beams = prompt_length, beams
        self._rows: list[tuple[list[int], CallState]] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """``input_ids`` [rows, tokens], ``scores`` [rows, vocabulary] -> scores with -inf where a token is not allowed.

        Raises:
            ConstraintError: an answer holds a token that was not allowed (another processor, or a wrong prompt length).
        """
        size = scores.shape[-1]
        masks = np.zeros((len(input_ids), max(-(-size // 32), self._constraint.vocabulary.words)), np.int32)
        answers = input_ids[:, self._prompt_length :].tolist()
        while len(self._rows) < len(answers):
            self._rows.append(([], self._constraint.start(self._grammar)))
        for row, answer in enumerate(answers):
            known, state = self._follow(row, answer)
            if state.terminated:
                masks[row] = -1  # what stands behind the end is padding
            elif len(known) == len(answer):
                state.fill(masks[row])
            elif self._beams == 1:
                token = answer[len(known)]
                raise ConstraintError(f"token {token} stands in an answer in which it was not allowed")
        allowed = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")[:, :size].astype(bool)
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -float("inf"))

    def _follow(self, row: int, answer: list[int]) -> tuple[list[int], CallState]:
        """The row's tokens as far as they are legal, and the state behind them; beams put other rows' tokens here."""
        known, state = self._rows[row]
        same = 0
        while same < min(len(known), len(answer)) and known[same] == answer[same]:
            same += 1
        state.rollback(len(known) - same)
        del known[same:]
        for token in answer[same:]:
            if state.terminated or not state.advance(token):
                break
            known.append(token)
        return known, state
