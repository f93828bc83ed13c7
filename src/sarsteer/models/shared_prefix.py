"""A batch of prompts that is answered many times: what its prompts share is computed once.

Steering changes the last prompt token and everything after it. So the key-value cache up to that token is the same
under every defense that changes no text, and one that changes the end of the text shares what is before the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sarsteer.errors import ModelError
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.continuation import continue_prefix, prefill
from sarsteer.models.observer import observer_of
from sarsteer.models.prompt import Prompt

PREFILL = 2
"""The fewest tokens of a continuation: steering takes a forward of more than one position for a prompt."""


class SharedPrefix:
    """The beginning of a batch of prompts, to be continued and answered any number of times.

    The model must be unsteered while the prefix is computed: create and extend it before steering is applied, or while
    it is suspended.

    Args:
        model: a model that ``shares_prefixes``.
        prompts: from ``model.prepare``.
        drop: how many tokens at the end of each prompt are left out, at least ``PREFILL``.

    Raises:
        ModelError: the model's key-value cache cannot be continued, or ``drop`` is too small.

    """

    def __init__(self, model: AudioLanguageModel, prompts: Sequence[Prompt], drop: int) -> None:
        if not model.shares_prefixes(prompts):
            reason = model.prefix_refusal or "the prompts have images or video"
            raise ModelError(f"{model.name}: {reason}, so the prefix cannot be continued; call generate")
        if drop < PREFILL:
            raise ModelError(f"a prefix must leave out at least {PREFILL} tokens, not {drop}; they are the next prompt")
        self._model = model
        self._prefix = prefill(model, model.collate(prompts), drop=drop)

    def __len__(self) -> int:
        return len(self._prefix.mask)

    @torch.no_grad()
    def extend(self, tokens: torch.Tensor) -> None:
        """Add tokens ``[N]`` to every row for good, such as the beginning of an ending that all answers share."""
        if len(tokens):
            rows = tokens.to(self._prefix.mask.device).expand(len(self), len(tokens))
            continue_prefix(self._model, self._prefix, rows, keep=True)

    @torch.no_grad()
    def answer(self, tokens: torch.Tensor, max_new_tokens: int, **generation: Any) -> list[str]:
        """Answer every row after ``tokens`` ``[N]``, N at least ``PREFILL``; the prefix stays as it is.

        Args:
            tokens: the rest of each prompt.
            max_new_tokens: the longest answer, in tokens.
            generation: options of transformers' ``generate``.

        """
        if len(tokens) < PREFILL:
            raise ModelError(f"a prompt must continue with at least {PREFILL} tokens, not {len(tokens)}")
        mask, model = self._prefix.mask, self._model
        added = tokens.to(mask.device).expand(len(self), len(tokens))
        # generate() takes the whole prompt, and reads of it only what the cache does not hold
        ids = torch.cat([torch.full_like(mask, model.tokenizer.pad_token_id), added], dim=1)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.cat([mask, mask.new_ones(added.shape)], dim=1),
            "past_key_values": self._prefix.cache,
        }
        options = model.generation_options(generation)
        observer = observer_of(model.module)
        with model.observed():
            if observer is not None:
                observer.batch_started()
            try:
                out = model.generate_tokens(inputs, max_new_tokens=max_new_tokens, **options)
            finally:
                self._prefix.cut()
            if observer is not None:
                records = observer.batch_finished(len(self), 1)
                observer.call_finished([record for row in records for record in row])
        return [text.strip() for text in model.decode(out)]
