"""Qwen2.5-VL: images and text, no audio."""

from __future__ import annotations

from sarsteer.models.family import Family

QWEN2_5_VL = Family(
    "Qwen2.5-VL",
    architectures=("Qwen2_5_VLForConditionalGeneration",),
    checkpoints=("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"),
    padding_leaks=False,
    engines=("transformers", "vllm"),
    limits="no audio: image and text requests; video needs torchvision",
)
