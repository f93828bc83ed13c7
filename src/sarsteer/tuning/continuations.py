"""The effect of steering on the next tokens, without generating any.

Steering changes the last prompt token and everything after it: a prompt's key-value cache up to that token is the same
under every configuration and is computed once. The tokens that follow are given (the model's undefended answer, or its
refusal) and run in one forward, each of them steered, as it would be during generation. A trial then costs a few tokens
per request instead of a prompt and an answer; if the given tokens stay the most likely ones, they *are* what greedy
decoding would answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sarsteer.models.activations import residual_of
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.continuation import Prefix, continue_prefix, prefill
from sarsteer.models.layers import language_root, layer_device
from sarsteer.models.prompt import Prompt

CPU_CACHE_BYTES = 4 * 2**30
"""Memory for key-value caches on a CPU; on a GPU half of the free memory. Other prefixes are computed each time."""


@dataclass
class _Batch:
    rows: list[int]
    prefix: Prefix  # the prompts without their last tokens
    tokens: torch.Tensor  # [B, 1 + M]: the last prompt token, then the given answer, padded on the right


class Continuations:
    """Prompts, each with the tokens of an answer, to run under any steering.

    Args:
        model: a model that ``shares_prefixes``.
        prompts: from ``model.prepare``.
        answers: the tokens ``[M_i]`` that follow each prompt; they may be empty.
        batch_size: prompts per forward.

    """

    def __init__(
        self, model: AudioLanguageModel, prompts: Sequence[Prompt], answers: Sequence[torch.Tensor], batch_size: int
    ) -> None:
        self._model, self._prompts = model, list(prompts)
        self._answers = [answer.cpu() for answer in answers]
        self._rows = model.batches(self._prompts, batch_size)
        self._cached: list[_Batch | None] = [None] * len(self._rows)
        self._budget = _budget(model.device)

    @torch.no_grad()
    def run(
        self, deltas: torch.Tensor | None, factors: torch.Tensor | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Logits at the last prompt token and at each given token, batch by batch.

        Args:
            deltas: ``[L, D]`` added to the layers' outputs, α included; None for no steering.
            factors: ``[n]``, the factor of ``deltas`` for each prompt; 1 by default.

        Yields:
            the prompts' indices, and float32 logits ``[B, 1 + M, V]``: those after the last prompt token, then those
            after each token of the answer; positions after the end of an answer are meaningless.

        """
        for index in range(len(self._rows)):
            batch = self._prefix(index)
            rows = None if factors is None else factors[batch.rows]
            with _steered(self._model.decoder_layers, deltas, rows):
                out = continue_prefix(self._model, batch.prefix, batch.tokens)
            yield batch.rows, next_token_logits(self._model, out.last_hidden_state)

    def _prefix(self, index: int) -> _Batch:
        cached = self._cached[index]
        if cached is not None:
            return cached
        rows = self._rows[index]
        inputs = self._model.collate([self._prompts[i] for i in rows])
        prefix = prefill(self._model, inputs, drop=1)
        last = inputs["input_ids"][:, -1:]
        answers = nn.utils.rnn.pad_sequence([self._answers[i] for i in rows], batch_first=True).to(last)
        batch = _Batch(rows, prefix, torch.cat([last, answers], dim=1))
        if prefix.nbytes <= self._budget:
            self._budget -= prefix.nbytes
            self._cached[index] = batch
        return batch


def next_token_logits(model: AudioLanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    """``[..., V]`` in float32 from the decoder's final hidden states ``[..., D]``."""
    logits: torch.Tensor = language_root(model.module).get_output_embeddings()(hidden)
    return logits.float()


@contextmanager
def _steered(layers: Sequence[nn.Module], deltas: torch.Tensor | None, factors: torch.Tensor | None) -> Iterator[None]:
    """Steer every position of each forward: they are the last prompt token and those after it."""
    if deltas is None:
        yield
        return
    hooks = []
    try:
        for layer, delta in zip(layers, deltas, strict=True):
            added = delta.float().to(layer_device(layer))
            if factors is not None:
                added = factors.float().to(added.device)[:, None, None] * added
            hooks.append(layer.register_forward_hook(_adding(added)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding(delta: torch.Tensor) -> Any:
    def add(_module: nn.Module, _args: Any, output: Any) -> None:
        residual_of(output).add_(delta)

    return add


def _budget(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2
    return CPU_CACHE_BYTES
