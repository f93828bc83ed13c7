"""Which options of vLLM may be combined with steering. Options under which it would not be exact stop the server."""

from __future__ import annotations

from typing import Any

from sarsteer.errors import SteeringError

EXACT_DRAFTS = ("ngram",)
"""Speculative methods whose drafts come from no model, so that the steered model alone decides which tokens to keep."""


def refused_options(config: Any, *, allow_other_model: bool = False) -> list[tuple[str, str]]:
    """Options of a ``VllmConfig`` under which steering is not exact, each with the reason."""
    parallel, model, cache = config.parallel_config, config.model_config, config.cache_config
    passes = getattr(config.compilation_config, "pass_config", None)
    options = [
        ("--enable-dbo, --ubatch-size", _on(parallel, "use_ubatching"), "a step's rows run in parts, each from row 0"),
        (
            "--prefill-context-parallel-size",
            getattr(parallel, "prefill_context_parallel_size", 1) > 1,
            "a prompt's rows are spread over workers",
        ),
        (
            "--decode-context-parallel-size",
            getattr(parallel, "decode_context_parallel_size", 1) > 1,
            "it was not tested",
        ),
        ("--enable-elastic-ep", _on(parallel, "enable_elastic_ep"), "new workers would join unproven"),
        (
            "--enable-fault-tolerance",
            _on(parallel, "enable_fault_tolerance"),
            "workers would be replaced without a proof",
        ),
        ("--kv-sharing-fast-prefill", _on(cache, "kv_sharing_fast_prefill"), "later layers skip prompt rows"),
        (
            "--kv-transfer-config",
            getattr(config, "kv_transfer_config", None) is not None,
            "keys and values are shared under keys that ignore steering",
        ),
        (
            "--kv-events-config",
            _on(getattr(config, "kv_events_config", None), "enable_kv_cache_events"),
            "block keys would be published without the steering in them",
        ),
        ("--ec-transfer-config", getattr(config, "ec_transfer_config", None) is not None, "it was not tested"),
        ("--weight-transfer-config", getattr(config, "weight_transfer_config", None) is not None, "weights may change"),
        ("--enable-sleep-mode", _on(model, "enable_sleep_mode"), "weights may be replaced while the server sleeps"),
        (
            "--enable-lora",
            getattr(config, "lora_config", None) is not None and not allow_other_model,
            "an adapter makes another model; --allow-other-model allows it",
        ),
        ("--enable-prompt-embeds", _on(model, "enable_prompt_embeds"), "it was not tested"),
        (
            "--enable-mm-embeds",
            _on(getattr(model, "multimodal_config", None), "enable_mm_embeds"),
            "clients would replace the audio encoder",
        ),
        ("sequence parallelism (enable_sp)", _on(passes, "enable_sp"), "rows are spread over workers"),
        ("--runner pooling", getattr(model, "runner_type", "generate") != "generate", "it generates nothing"),
        ("an encoder-decoder model", _on(model, "is_encoder_decoder"), "its prompt is not in its decoder"),
        ("a diffusion model", _on(model, "is_diffusion"), "it does not answer token by token"),
    ]
    refused = [(name, reason) for name, used, reason in options if used]
    speculative = getattr(config, "speculative_config", None)
    if speculative is not None and speculative.method not in EXACT_DRAFTS:
        refused.append((f"speculative decoding by {speculative.method}", "its drafter reads or skips steered states"))
    return refused


def admit(config: Any, *, allow_other_model: bool = False) -> None:
    """Raise ``SteeringError`` for a configuration under which steering would not be exact."""
    refused = refused_options(config, allow_other_model=allow_other_model)
    if refused:
        names = "; ".join(f"{name} ({reason})" for name, reason in refused)
        raise SteeringError(f"steering in vLLM cannot be combined with {names}; start without")


def _on(config: Any, name: str) -> bool:
    return bool(getattr(config, name, False))
