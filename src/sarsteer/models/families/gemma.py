"""Gemma 3n and Gemma 4."""

from __future__ import annotations

from sarsteer.models.family import Family

GEMMA_3N = Family(
    "Gemma 3n",
    architectures=("Gemma3nForConditionalGeneration",),
    checkpoints=("google/gemma-3n-E4B-it", "google/gemma-3n-E2B-it"),
    window_seconds=30.0,
    engines=("transformers", "vllm"),
    limits="the active one of its four residual streams is steered; its vision tower needs timm and torchvision",
    tested="real classes and processor, tiny random weights, without its vision tower",
)

GEMMA_4 = Family(
    "Gemma 4",
    architectures=("Gemma4ForConditionalGeneration",),
    checkpoints=("google/gemma-4-E4B-it", "google/gemma-4-E2B-it"),
    window_seconds=30.0,
    engines=("transformers", "vllm"),
)

GEMMA_4_UNIFIED = Family(
    "Gemma 4 Unified",
    architectures=("Gemma4UnifiedForConditionalGeneration",),
)
