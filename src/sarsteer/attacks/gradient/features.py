"""Log-mel features in torch, differentiable, equal to those of the model's own processor.

Whisper's recipe: ``log10(max(M |STFT(x)|², 1e-10))``, at most 8 below its maximum over the clip, then ``(x + 4) / 4``.
Qwen2-Audio, Voxtral, Qwen2.5-Omni and Audio Flamingo 3 use it. For other recipes there is an error, never a guess.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sarsteer.errors import AttackError
from sarsteer.models.audio_language_model import AudioLanguageModel

_FLOOR = 1e-10
_RANGE = 8.0  # of log10 energies


class LogMel(nn.Module):
    """The log-mel spectrogram of a ``WhisperFeatureExtractor``, differentiable with respect to the samples.

    Args:
        extractor: the feature extractor.
        dtype: of the computation; samples are converted to it.

    Raises:
        AttackError: the extractor adds random noise (``dither``).

    """

    def __init__(self, extractor: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if getattr(extractor, "dither", 0.0):
            raise AttackError(
                f"the feature extractor adds random noise (dither {extractor.dither:g}), so its features have no exact "
                "gradient; load the processor with dither=0"
            )
        self.n_fft, self.hop = int(extractor.n_fft), int(extractor.hop_length)
        self.window: torch.Tensor
        self.register_buffer("window", torch.hann_window(self.n_fft, dtype=dtype), persistent=False)
        self.filters: torch.Tensor  # [mels, n_fft // 2 + 1]
        self.register_buffer("filters", torch.from_numpy(extractor.mel_filters).T.to(dtype), persistent=False)

    def forward(self, samples: torch.Tensor, length: int) -> torch.Tensor:
        """``[mels, length // hop]`` for ``samples`` ``[T]``, followed by silence up to ``length`` samples."""
        samples = samples.to(self.window)
        if len(samples) > length:
            raise AttackError(f"the clip has {len(samples)} samples and its features {length}; use a shorter clip")
        padded = nn.functional.pad(samples, (0, length - len(samples)))
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=self.window, return_complex=True)[..., :-1]
        energy = self.filters @ (spectrum.real.square() + spectrum.imag.square())
        logs = energy.clamp(min=_FLOOR).log10()
        return (torch.maximum(logs, logs.max() - _RANGE) + 4.0) / 4.0


def log_mel_of(model: AudioLanguageModel) -> LogMel:
    """The differentiable features of ``model``, in its dtype, on its device.

    Raises:
        AttackError: its processor does not compute Whisper's features.

    """
    from transformers import WhisperFeatureExtractor

    extractor = getattr(model.processor, "feature_extractor", None)
    if not isinstance(extractor, WhisperFeatureExtractor):
        found = "no feature extractor" if extractor is None else type(extractor).__name__
        raise AttackError(
            f"{model.family.name} has no differentiable features here ({found}); gradient attacks need a model with "
            "Whisper's features, such as Qwen2-Audio or Voxtral: use an attack without gradients"
        )
    return LogMel(extractor, torch.float64 if model.dtype == torch.float64 else torch.float32).to(model.device)
