"""A decoding loop whose rows join and leave between two tokens: continuous batching.

transformers' ``generate`` decodes a batch from its first to its last token. Here a request joins as soon as a row is
free: its prompt runs in a forward of its own, as ``generate`` would run it, and its keys and values join those of the
rows that are being decoded. What the gate decided on each row is kept beside it, and written into the model before
each step. Each row is steered by its own tenant's strength.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.batching import token_positions
from sarsteer.models.layers import generating_part, text_config, unwrap
from sarsteer.models.prefix_cache import has_windows
from sarsteer.models.prompt import Prompt
from sarsteer.server.job import Row
from sarsteer.server.progress import begin
from sarsteer.server.slots import Slots, compact
from sarsteer.steering.handle import SteeringHandle
from sarsteer.steering.proof import generate_two_tokens, probe_prompts
from sarsteer.steering.rows import RowSteering

_HARMLESS = {
    "bos_token_id",
    "pad_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "use_cache",
    "max_length",
    "max_new_tokens",
    "repetition_penalty",
    "output_attentions",
    "output_hidden_states",
    "transformers_version",
    "_from_model_config",
    "chat_format",
    "max_window_size",
}
"""Settings of a generation configuration that this loop implements, or that change no greedy answer."""

_CLOSE = 0.02
"""How far logits may differ from those of ``generate``, relative to the largest; bfloat16 rounds to 1/256."""

_PREFILL_TOKENS = {"cpu": 512}
"""The most positions, padding included, of one prefill. A CPU gains nothing beyond, and decoding waits for it."""


class Decoding:
    """Rows that are being answered.

    Args:
        model: a model that ``can_join`` accepts.
        handle: its steering, which stays as it is until the last row has left.
        size: the most rows.
        ends: tokens that end an answer.
        steering: of each row; None for a probe, whose rows are steered by the proof.

    """

    def __init__(
        self,
        model: AudioLanguageModel,
        handle: SteeringHandle,
        size: int,
        ends: Collection[int],
        steering: RowSteering | None = None,
    ) -> None:
        self._model, self._handle, self._size, self._ends = model, handle, size, ends
        self._steering = steering
        self._slots = Slots(size, model.device)
        self._rows: list[Row] = []
        self._tokens: list[torch.Tensor] = []  # prompt and answer of each row; only with a penalty on repetition
        self._openings = torch.zeros(0, 1)  # of each row, with a gate
        self._newest = torch.zeros(0, dtype=torch.long, device=model.device)
        config = getattr(generating_part(model.module), "generation_config", None)
        penalty = getattr(config, "repetition_penalty", None)
        self._penalty = None if penalty in (None, 1, 1.0) else RepetitionPenaltyLogitsProcessor(penalty)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def free(self) -> int:
        """How many rows can join."""
        return self._size - len(self)

    @torch.no_grad()
    def join(self, rows: Sequence[Row], prompts: Sequence[Prompt]) -> None:
        """Run the prompts, and report each row's first token."""
        self._steer(rows)
        logits = self._prefill(prompts)
        begin(rows, self._handle, [len(prompt.input_ids) for prompt in prompts])
        self._rows += rows
        self._tokens += [prompt.input_ids.to(logits.device) for prompt in prompts] if self._penalty else []
        self._newest = torch.cat([self._newest, self._choose(range(len(self) - len(rows), len(self)), logits)])
        self._leave()

    @torch.no_grad()
    def step(self) -> None:
        """One more token of each row; rows that are done leave."""
        self._steer(self._rows)
        self._newest = self._choose(range(len(self)), self._decode())
        self._leave()

    @torch.no_grad()
    def probe(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """The logits of a prefill of prompts ``[B, T]`` and of a decode step, ``[B, V]`` each, for a proof."""
        first = self._prefill([Prompt([], row) for row in tokens])
        self._newest = first.argmax(dim=-1)
        return [first, self._decode()]

    def _steer(self, rows: Sequence[Row]) -> None:
        """Steer the rows of the next forward."""
        assert self._steering is not None
        self._steering.use([row.job.tenant.applied for row in rows])

    def _prefill(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        self._handle.forget()
        inputs = self._model.collate(prompts)
        positions = token_positions(inputs["attention_mask"])
        output = self._model.forward_base(inputs, position_ids=positions, use_cache=True)
        openings = self._handle.openings(len(prompts))
        if openings is not None:
            self._openings = torch.cat([self._openings.to(openings), openings])
        self._slots.add(output.past_key_values, inputs["attention_mask"])
        return self._logits(output)

    def _decode(self) -> torch.Tensor:
        cache, positions, seen = self._slots.next()
        if len(self._openings):
            self._handle.resume(self._openings)
        output = self._model.forward_base(
            {"input_ids": self._newest[:, None], "attention_mask": self._mask(seen)},
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        return self._logits(output)

    def _mask(self, seen: torch.Tensor) -> torch.Tensor:
        """``[B, 1, 1, T]``, added to the attention's scores."""
        dtype = self._model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None, None]

    def _logits(self, output: Any) -> torch.Tensor:
        part: Any = unwrap(generating_part(self._model.module))
        return torch.as_tensor(part.get_output_embeddings()(output.last_hidden_state[:, -1]).float())

    def _choose(self, places: range, logits: torch.Tensor) -> torch.Tensor:
        """The next token of the rows at ``places``, which it reports to them: ``[B]``."""
        if self._penalty:
            tokens = (self._tokens[place][None] for place in places)
            logits = torch.cat([self._penalty(t, one[None]) for t, one in zip(tokens, logits, strict=True)])
        chosen = logits.argmax(dim=-1).tolist()
        for number, place in enumerate(places):
            row = self._rows[place]
            if row.done:
                continue
            if row.sampler is not None:
                chosen[number] = row.sampler.choose(logits[number])
            row.take(chosen[number], ends=chosen[number] in self._ends)
        newest = torch.tensor(chosen, device=logits.device)
        if self._penalty:
            for number, place in enumerate(places):
                self._tokens[place] = torch.cat([self._tokens[place], newest[number : number + 1]])
        return newest

    def _leave(self) -> None:
        done = [row.done for row in self._rows]
        if any(done):
            kept = compact(done)
            self._slots.keep(kept)
            self._newest = self._newest[kept]
            self._rows = [self._rows[i] for i in kept]
            self._tokens = [self._tokens[i] for i in kept] if self._penalty else []
            self._openings = self._openings[kept] if len(self._openings) else self._openings


def groups(prompts: Sequence[Prompt], device: torch.device) -> list[list[int]]:
    """Indices of prompts that run in one prefill: of similar length, and not too many positions."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].input_ids), reverse=True)
    most = _PREFILL_TOKENS.get(device.type, 8192)
    found: list[list[int]] = []
    for index in order:
        if not found or len(prompts[found[-1][0]].input_ids) * (len(found[-1]) + 1) > most:
            found.append([])
        found[-1].append(index)
    return found


def can_join(model: AudioLanguageModel) -> bool:
    """Whether this loop decodes ``model`` as its own ``generate`` would.

    Its cache must allow it, and every prompt must count its positions token by token, which images do not.
    """
    plain = model.shares_prefixes() and not has_windows(model.module) and model.modalities <= {"audio"}
    if not plain or type(model).generate_tokens is not AudioLanguageModel.generate_tokens:
        return False
    config: GenerationConfig | None = getattr(generating_part(model.module), "generation_config", None)
    attention = getattr(text_config(unwrap(model.module)), "_attn_implementation", None)
    return attention in ("sdpa", "eager") and (config is None or set(config.to_diff_dict()) <= _HARMLESS)


def prove(model: AudioLanguageModel, handle: SteeringHandle) -> bool:
    """Prove that this loop is steered; returns whether it computes what ``generate`` does.

    Args:
        model: a model that ``can_join`` accepts.
        handle: its steering.

    Raises:
        SteeringError: a layer is not steered exactly, or a row.

    """
    tokens = probe_prompts(model.module, rows=2)

    def probe() -> list[torch.Tensor]:
        return Decoding(model, handle, len(tokens), ()).probe(tokens)

    handle.prove(probe)
    handle.prove_rows(probe)
    with handle.answering():
        ours = probe()
    theirs = generate_two_tokens(model.module, rows=len(tokens))
    return all(bool((a - b).abs().max() <= _CLOSE * b.abs().max()) for a, b in zip(ours, theirs, strict=True))
