"""Choose tokens row by row, so that requests with different settings and seeds share a batch.

transformers samples all rows of a batch alike, and from one generator. Here the batch runs greedily, and this processor
leaves each sampled row only the token that it chose: an answer depends on its own seed, not on its neighbors.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class Sampler:
    """Draws the tokens of one answer.

    Args:
        temperature: above 0.
        top_p: share of the probability that is kept; 1 keeps all.
        seed: with the same seed and number, the same random numbers are drawn; None for others each time.
        number: which of the request's answers this is.

    """

    def __init__(self, temperature: float, top_p: float = 1.0, seed: int | None = None, number: int = 0) -> None:
        self._temperature, self._top_p = temperature, top_p
        text = f"{secrets.token_hex(16) if seed is None else seed}/{number}"
        self._start = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        self.restart()

    def restart(self) -> None:
        """Draw the same numbers again."""
        self._generator = torch.Generator().manual_seed(self._start)

    def choose(self, logits: torch.Tensor) -> int:
        """A token for logits ``[V]``. The sum over the vocabulary is in float64, so that batches change no choice."""
        probabilities = torch.softmax(logits.double().cpu() / self._temperature, dim=-1)
        ordered, tokens = probabilities.sort(descending=True, stable=True)
        cumulated = ordered.cumsum(0)
        if self._top_p < 1:
            kept = int((cumulated - ordered < self._top_p).sum())
            cumulated = cumulated[:kept]
        drawn = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulated[-1]
        place = int(torch.searchsorted(cumulated, drawn, right=True))
        return int(tokens[min(place, len(cumulated) - 1)])


class ChosenTokens(LogitsProcessor):  # type: ignore[misc]
    """Replaces the logits of sampled rows: all but the chosen token become impossible.

    Args:
        samplers: one for each row; None for a row that is decoded greedily.

    """

    def __init__(self, samplers: Sequence[Sampler | None]) -> None:
        self._samplers = samplers

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits ``[B, V]`` that a greedy search then reads."""
        if not any(self._samplers):
            return scores
        scores = scores.clone()
        for row, sampler in enumerate(self._samplers):
            if sampler is not None:
                token = sampler.choose(scores[row])
                scores[row] = -torch.inf
                scores[row, token] = 0.0
        return scores
