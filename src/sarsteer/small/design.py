"""The numbers that define ``sarsteer-small``; training and loading share them.

A spectrogram frame spans 20 ms instead of Whisper's 10 ms. The encoder's two strides make 12.5 audio tokens a second
of it, half of Qwen2-Audio's 25: about four for each word, and a window of 60 s instead of 30 s.
"""

from __future__ import annotations

from typing import Any

NAME = "sarsteer-small"
RATE = 16_000  # samples a second
HOP = 320  # samples a spectrogram frame
WINDOW = 400  # samples of each Fourier transform
MELS = 80
STRIDE = 4  # spectrogram frames an audio token
FRAMES = 3_000  # spectrogram frames a window; vLLM accepts no other number
CHUNK_SECONDS = FRAMES * HOP // RATE
LORA_RANK = 16
LORA_SCALE = 2.0
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""SmolLM2's own system prompt."""
AUDIO_BEGIN, AUDIO, AUDIO_END = "<jupyter_start>", "<jupyter_text>", "<jupyter_code>"
"""Tokens of SmolLM2's vocabulary that its instruction tuning does not use; nothing has to be resized."""
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + SYSTEM + "<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ '" + AUDIO + "' }}"
    "{% elif part['type'] == 'text' and part['text'] %}"
    "{% if not loop.first %}{{ '\\n' }}{% endif %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""SmolLM2's own chat template, with clips: a clip stands where its words would."""

ENCODER = {
    "num_mel_bins": MELS,
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "max_source_positions": FRAMES // 2,
}
"""Whisper base's encoder."""


def model_config(text: dict[str, Any], audio_token: int, encoder: dict[str, int] | None = None) -> Any:
    """The configuration of the whole model.

    The language model is declared as Qwen2 with biases of zero, which computes what SmolLM2's Llama does: vLLM builds
    a Qwen2 inside every Qwen2-Audio.

    Args:
        text: sizes of the language model, by their names in a Llama configuration.
        audio_token: id of the placeholder.
        encoder: sizes of the speech encoder, Whisper base's by default.

    """
    from transformers import Qwen2AudioConfig

    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept = (*sizes, "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_parameters")
    return Qwen2AudioConfig(
        audio_config=dict(encoder or ENCODER),
        text_config={
            "model_type": "qwen2",
            **{key: text[key] for key in kept},
            "hidden_act": "silu",
            "bos_token_id": text["bos_token_id"],
            "eos_token_id": text["eos_token_id"],
            "pad_token_id": text["pad_token_id"],
            "tie_word_embeddings": True,
        },
        audio_token_index=audio_token,
        tie_word_embeddings=True,
    )
