"""Kimi-Audio; ``model`` describes it, ``loader`` loads it, ``compat`` adapts its code to transformers 5."""

from __future__ import annotations

from sarsteer.models.families.kimi_audio.loader import load
from sarsteer.models.families.kimi_audio.model import KimiAudio
from sarsteer.models.family import Family

KIMI_AUDIO = Family(
    "Kimi-Audio",
    architectures=("MoonshotKimiaForCausalLM",),
    checkpoints=("moonshotai/Kimi-Audio-7B-Instruct",),
    cuts_at_window=False,
    layers="model.layers",  # the text path; model.mimo_layers, which produce speech, are not steered
    model_class=KimiAudio,
    load=load,
    engines=("transformers", "vllm"),
    limits=(
        "Remote code, and Moonshot's package kimia_infer on a CUDA device with flash-attn. One conversation at a time; "
        "prompt and answer share 7,500 tokens (12.5 per second of audio); no system messages. Text answers are "
        "steered; spoken ones start from the steered state at layer 21. Code under MIT and, where derived from "
        "Qwen2.5, Apache-2.0."
    ),
    tested="a stand-in of its remote code and of its package",
)
