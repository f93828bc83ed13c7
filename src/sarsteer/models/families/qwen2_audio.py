"""Qwen2-Audio: encodes only the frames with sound, not the silence that fills its 30 s window.

The processor pads every clip to 3,000 mel frames, and the encoder masks the padding in its attention. Masked positions
change nothing: running the encoder's own layers on the frames with sound gives the same embeddings to within float
rounding, at a sixth of the cost for a 5 s clip. Spectrograms are cut the same way.
``tests/models/families/test_qwen2_audio.py`` compares both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sarsteer.models.family import Family

_STRIDE = 4  # mel frames per audio token: the second convolution and the pooling each halve them
_MARGIN = 4  # frames kept after the sound: the convolutions look one frame ahead


def audio_token_id(model: Any) -> int:
    """The id of the audio placeholder."""
    return int(model.config.audio_token_id)


def audio_options(processor: Any, samples: int) -> dict[str, Any]:
    """Processor options for spectrograms that end soon after the longest clip instead of after 30 s.

    Args:
        processor: a ``Qwen2AudioProcessor``.
        samples: length of the longest clip, at the processor's rate.

    """
    extractor = processor.feature_extractor
    frames = -(-samples // extractor.hop_length)
    # one stride more than the encoder reads: a spectrogram's last frames mirror its end, where the full 30 s are silent
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
    """The encoder's output ``[N, tokens, d]`` on the frames with sound, and the number of tokens of each clip.

    Differentiable. Rows after a clip's own number of tokens are padding.

    Args:
        tower: the model's ``Qwen2AudioEncoder``.
        features: ``[N, mels, T]`` log-mel spectrograms, padded at the end.
        frames: ``[N]``, the number of mel frames with sound.

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
    is_sound = torch.arange(positions, device=states.device)[None, :] < after_convolution[:, None]
    attention = _attention_mask(tower, is_sound, states)
    for layer in tower.layers:
        states = layer(states, attention)
    states = tower.avg_pooler(states.permute(0, 2, 1)).permute(0, 2, 1)
    return tower.layer_norm(states), tokens


def _attention_mask(tower: Any, is_sound: torch.Tensor, states: torch.Tensor) -> torch.Tensor | None:
    """The mask in the form that the encoder's attention implementation takes."""
    from transformers.masking_utils import create_bidirectional_mask

    mask: torch.Tensor | None = create_bidirectional_mask(
        config=tower.config, inputs_embeds=states, attention_mask=is_sound.long()
    )
    return mask


QWEN2_AUDIO = Family(
    "Qwen2-Audio",
    architectures=("Qwen2AudioForConditionalGeneration",),
    checkpoints=("Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2-Audio-7B", "sarsteer-small", "sarsteer-tiny"),
    window_seconds=30.0,
    padding_leaks=False,
    encode_audio=encode_audio,
    audio_options=audio_options,
    audio_token_id=audio_token_id,
    prefix_reuse=True,
    engines=("transformers", "vllm"),
    tested="a trained tiny model on real speech; real classes and processor, tiny random weights",
)
