"""A model as a differentiable function of one clip: features, encoder, decoder, and the defense's steering.

What an attacker follows must be what the defended model computes. ``DifferentiableClip`` therefore takes the prompt
from the model's own processor and compares its features with that processor's before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sarsteer.attacks.gradient.features import LogMel, log_mel_of
from sarsteer.attacks.gradient.steering import DifferentiableSteering, Reading
from sarsteer.errors import AttackError
from sarsteer.messages import Conversation, Message
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.families.qwen2_audio import encoder_states
from sarsteer.models.layers import language_root, unwrap
from sarsteer.steering.strength import ResolvedStrength

FEATURE_TOLERANCE = 1e-5
"""Largest difference of a feature from the processor's: float32 sums over a window of 400 samples."""


@dataclass(frozen=True)
class Output:
    """One forward, with its graph.

    Attributes:
        logits: ``[M, V]``, those from which each of the M given answer tokens is predicted.
        reading: the activations that the defense reads and changes.

    """

    logits: torch.Tensor
    reading: Reading = field(repr=False)


class DifferentiableClip:
    """One conversation with one clip, as a differentiable function of the clip's samples.

    Args:
        model: the model; no steering may act on it while ``forward`` runs.
        messages: the conversation, with the defense's own words.
        length: number of samples of the clip that ``forward`` takes.

    Raises:
        AttackError: the conversation does not have exactly one clip, or the features are not Whisper's.

    """

    def __init__(self, model: AudioLanguageModel, messages: Conversation, length: int) -> None:
        self.model = model
        self._length = length
        self._log_mel: LogMel = log_mel_of(model)
        self._encodes_once = model.family.encode_audio is not None
        if self._encodes_once and model.family.name != "Qwen2-Audio":
            raise AttackError(
                f"{model.family.name} encodes its clips by code without gradients; use an attack without gradients"
            )
        place = _place(messages)
        rng = np.random.default_rng(0)
        template = (0.05 * rng.standard_normal(length)).astype(np.float32)  # the prompt depends on its length only
        loaded, _ = model.read(with_clip(messages, template, model.sampling_rate, place), 0)
        inputs = model.process([loaded], self._options(length))
        self.input_ids: torch.Tensor = inputs["input_ids"][0].to(model.device)
        self._inputs = {
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
            if torch.is_tensor(tensor) and name not in getattr(model.processor, "unused_input_names", ())
        }
        features = inputs["input_features"]
        self._shape = tuple(features.shape)
        if len(self._shape) != 3 or self._shape[1] != self._log_mel.filters.shape[0]:
            raise AttackError(
                f"{model.family.name}'s features have shape {self._shape}; gradient attacks know [N, mels, T]"
            )
        self._check(template, features)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt, audio included."""
        return len(self.input_ids)

    @property
    def samples_per_token(self) -> int:
        """Samples of the clip that one audio token covers."""
        inner: Any = language_root(self.model.module)
        names = ("audio_token_id", "audio_token_index")
        placeholder = next((getattr(inner.config, name) for name in names if hasattr(inner.config, name)), None)
        tokens = 0 if placeholder is None else int((self.input_ids == placeholder).sum())
        if not tokens:
            raise AttackError(f"{self.model.family.name}: its prompt has no audio tokens; use a longer clip")
        windows, _, frames = self._shape
        covered = self._length if self._encodes_once else windows * frames * self._log_mel.hop
        hop = self._log_mel.hop  # the last token of a clip may cover less than the others
        return max(1, round(covered / tokens / hop)) * hop

    def features(self, samples: torch.Tensor) -> torch.Tensor:
        """The processor's ``input_features`` for ``samples`` ``[T]``: ``[windows, mels, frames]``."""
        windows, mels, frames = self._shape
        spectrum: torch.Tensor = self._log_mel(samples, windows * frames * self._log_mel.hop)
        return spectrum.reshape(mels, windows, frames).transpose(0, 1)

    def forward(
        self, samples: torch.Tensor, answer: torch.Tensor, strength: ResolvedStrength | None, temperature: float | None
    ) -> Output:
        """Run the prompt and the given answer, steered from the last prompt token on.

        Args:
            samples: ``[T]``.
            answer: ``[M]`` token ids.
            strength: what the defense adds; None for the undefended model.
            temperature: of the gate's soft opening, in units of its score; None for the true, hard decision.

        """
        answer = answer.to(self.input_ids)
        given = answer[:-1]
        layers = self.model.decoder_layers
        with DifferentiableSteering(layers, strength, self.prompt_length - 1, temperature) as steering:
            hidden = self._hidden(samples, given)
        kept = hidden[self.prompt_length - 1 :]
        logits = language_root(self.model.module).get_output_embeddings()(kept)
        return Output(logits, steering.reading())

    def _hidden(self, samples: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        ids = torch.cat([self.input_ids, given])[None]
        features = self.features(samples)
        mask = torch.ones_like(ids)
        if not self._encodes_once:
            inputs = {name: t for name, t in self._inputs.items() if name not in ("input_ids", "attention_mask")}
            inputs |= {"input_ids": ids, "attention_mask": mask, "input_features": features.to(self.model.dtype)}
            return self._run(inputs)
        inner: Any = unwrap(self.model.module)
        frames = self._inputs["feature_attention_mask"].sum(-1)
        states, tokens = encoder_states(inner.model.audio_tower, features, frames)
        clip = inner.model.multi_modal_projector(states)[0, : int(tokens[0])]
        embeds = inner.get_input_embeddings()(ids)
        assert self.model.family.audio_token_id is not None
        where = ids == self.model.family.audio_token_id(inner)
        embeds = embeds.masked_scatter(where[..., None], clip.to(embeds.dtype))
        inputs = {"input_ids": ids, "attention_mask": mask, "inputs_embeds": embeds}
        return self._run(inputs)

    def _run(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden: torch.Tensor = self.model.forward_base(inputs).last_hidden_state[0]
        return hidden

    def _options(self, length: int) -> dict[str, Any]:
        """The processor options with which the model reads a clip of this length; as in ``prepare``."""
        options = self.model.family.audio_options
        return {} if options is None else dict(options(self.model.processor, length))

    def _check(self, samples: Any, features: torch.Tensor) -> None:
        with torch.no_grad():
            ours = self.features(torch.from_numpy(samples).to(self.model.device)).float().cpu()
        gap = float((ours - features.float().cpu()).abs().max())
        if not gap <= FEATURE_TOLERANCE:
            raise AttackError(
                f"{self.model.family.name}'s processor changes the features in a way that gradient attacks do not know "
                f"(difference {gap:.2g}); use an attack without gradients"
            )


@contextmanager
def frozen(model: AudioLanguageModel) -> Iterator[None]:
    """Without gradients of the weights, which an attack on the clip does not need."""
    needed = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
    for parameter in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)


def with_clip(messages: Conversation, samples: Any, rate: int, place: tuple[int, int] | None = None) -> list[Message]:
    """The conversation with its one clip replaced by ``samples`` ``[T]``."""
    message, part = _place(messages) if place is None else place
    copy = [dict(one) for one in messages]
    content = list(copy[message]["content"])
    content[part] = {"type": "audio", "audio": np.asarray(samples, dtype=np.float32), "sampling_rate": rate}
    copy[message]["content"] = content
    return copy


def _place(messages: Sequence[Message]) -> tuple[int, int]:
    """Where the conversation's one clip is: the message, and the part in it."""
    found = [
        (i, j)
        for i, message in enumerate(messages)
        if not isinstance(message["content"], str)
        for j, part in enumerate(message["content"])
        if part.get("type") == "audio"
    ]
    if len(found) != 1:
        raise AttackError(f"the conversation has {len(found)} clips; gradient attacks change exactly one")
    return found[0]
