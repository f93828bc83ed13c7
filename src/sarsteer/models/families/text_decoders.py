"""Decoders that read text only."""

from __future__ import annotations

from sarsteer.models.family import Family

TEXT_DECODERS = Family(
    "text decoders",
    architectures=("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM"),
    checkpoints=("Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    padding_leaks=False,
    prefix_reuse=True,
    engines=("transformers", "vllm"),
    limits="no audio: written requests only",
)
