"""Qwen2-Audio: encode only the sound that is there, not the silence that fills its 30 s window.

The processor pads every clip to 3,000 mel frames and the encoder masks the padding in attention. The masked
positions influence nothing, so that running the encoder's own layers on the frames that hold sound gives the same
embeddings to within float rounding, for a 5 s clip at a sixth of the cost. No spectrogram is made of the rest, either.
``tests/models/families/test_qwen2_audio.py`` holds both against each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_STRIDE = 4  # mel frames an audio token: the second convolution and the pooling halve each
_MARGIN = 4  # frames kept beyond the sound: the convolutions look one frame ahead


def audio_token_id(model: Any) -> int:
    """The placeholder's id."""
    return int(model.config.audio_token_id)


def audio_options(processor: Any, samples: int) -> dict[str, Any]:
    """The processor's options for spectrograms that end soon after the longest clip, instead of after 30 s.

    Args:
        processor: a ``Qwen2AudioProcessor``.
        samples: of the longest clip, at the processor's rate.

    """
    extractor = processor.feature_extractor
    frames = -(-samples // extractor.hop_length)
    # one stride more than the encoder looks at: a spectrogram's last frames mirror its end, where the 30 s have silence
    kept = (-(-(frames + _MARGIN) // _STRIDE) + 1) * _STRIDE
    return {"max_length": min(extractor.n_samples, kept * extractor.hop_length)}


@torch.no_grad()
def encode_audio(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Audio embeddings of each clip, ``[tokens, D]``, as the language model takes them.

    Args:
        model: a ``Qwen2AudioForConditionalGeneration``.
        inputs: ``input_features`` ``[N, mels, T]`` and ``feature_attention_mask`` ``[N, T]``, T = 3000 or less.

    """
    frames = inputs["feature_attention_mask"].sum(-1)
    states, tokens = encoder_states(model.model.audio_tower, inputs["input_features"], frames)
    embeddings = model.model.multi_modal_projector(states)
    return [row[: int(count)] for row, count in zip(embeddings, tokens, strict=True)]


def encoder_states(tower: Any, features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's output ``[N, tokens, d]`` on the frames that hold sound, and each clip's number of tokens.

    Differentiable. Rows beyond a clip's own number of tokens are padding.

    Args:
        tower: the model's ``Qwen2AudioEncoder``.
        features: ``[N, mels, T]`` log-mel spectrograms, padded at the end.
        frames: ``[N]`` mel frames that hold sound.

    """
    weight = tower.conv1.weight
    frames = frames.to(weight.device)
    window = min(features.shape[-1], -(-(int(frames.max()) + _MARGIN) // _STRIDE) * _STRIDE)
    features = features[..., :window].to(weight.device, weight.dtype)
    after_convolution, tokens = tower._get_feat_extract_output_lengths(frames)

    states = nn.functional.gelu(tower.conv1(features))
    states = nn.functional.gelu(tower.conv2(states)).permute(0, 2, 1)
    positions = states.shape[1]
    states = states + tower.embed_positions.weight[:positions]
    heard = torch.arange(positions, device=states.device)[None, :] < after_convolution[:, None]
    attention = _attention_mask(tower, heard, states)
    for layer in tower.layers:
        states = layer(states, attention)
    states = tower.avg_pooler(states.permute(0, 2, 1)).permute(0, 2, 1)
    return tower.layer_norm(states), tokens


def _attention_mask(tower: Any, heard: torch.Tensor, states: torch.Tensor) -> torch.Tensor | None:
    """The mask in the form that the encoder's attention implementation takes."""
    from transformers.masking_utils import create_bidirectional_mask

    mask: torch.Tensor | None = create_bidirectional_mask(
        config=tower.config, inputs_embeds=states, attention_mask=heard.long()
    )
    return mask
