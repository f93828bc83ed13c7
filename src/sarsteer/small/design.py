"""The numbers that define ``sarsteer-small``; training and loading share them.

A spectrogram frame spans 20 ms instead of Whisper's 10 ms. The encoder's two strides make 12.5 audio tokens a second
of it, half of Qwen2-Audio's 25: about four for each word, and a window of 60 s instead of 30 s.
"""

from __future__ import annotations

from typing import Any

RATE = 16_000  # samples a second
HOP = 320  # samples a spectrogram frame
WINDOW = 400  # samples of each Fourier transform
MELS = 80
STRIDE = 4  # spectrogram frames an audio token
FRAMES = 3_000  # spectrogram frames a window
CHUNK_SECONDS = FRAMES * HOP // RATE
LORA_RANK = 16
LORA_SCALE = 2.0
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

AUDIO_BEGIN, AUDIO, AUDIO_END = "<jupyter_start>", "<jupyter_text>", "<jupyter_code>"
"""Tokens of SmolLM2's vocabulary that its instruction tuning does not use; nothing has to be resized."""

ENCODER = {
    "num_mel_bins": MELS,
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "max_source_positions": FRAMES // 2,
}


def model_config(text: dict[str, Any], audio_token: int) -> Any:
    """The configuration of the whole model, from the language model's and the audio token's id."""
    from transformers import Qwen2AudioConfig

    return Qwen2AudioConfig(
        audio_config=dict(ENCODER),
        text_config={**text, "tie_word_embeddings": True},
        audio_token_index=audio_token,
        tie_word_embeddings=True,
    )
