"""Qwen-Audio; ``model`` describes it, ``tokens`` reads its vocabulary, ``compat`` adapts its code to transformers 5."""

from __future__ import annotations

from sarsteer.models.families.qwen_audio.loader import load
from sarsteer.models.families.qwen_audio.model import QwenAudio
from sarsteer.models.family import Family

QWEN_AUDIO = Family(
    "Qwen-Audio",
    architectures=("QWenLMHeadModel",),  # also the text-only Qwen's, which the loader refuses
    checkpoints=("Qwen/Qwen-Audio-Chat", "Qwen/Qwen-Audio"),
    window_seconds=30.0,
    layers="transformer.h",
    model_class=QwenAudio,
    load=load,
    limits="remote code; needs trust_remote_code=True, tiktoken and einops; no flash attention, no quantized cache",
    tested="a stand-in of its remote code",
)
