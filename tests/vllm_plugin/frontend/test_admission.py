"""Options of vLLM that are refused for a steered server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sarsteer.errors import SteeringError
from sarsteer.vllm.frontend.admission import admit


def vllm_config(**changes: Any) -> SimpleNamespace:
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(
            use_ubatching=False, prefill_context_parallel_size=1, decode_context_parallel_size=1
        ),
        model_config=SimpleNamespace(runner_type="generate", is_encoder_decoder=False, enable_sleep_mode=False),
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=False)),
        speculative_config=None,
        kv_transfer_config=None,
    )
    for path, value in changes.items():
        part, _, name = path.partition("__")
        setattr(getattr(config, part), name, value) if name else setattr(config, part, value)
    return config


def test_a_plain_configuration_is_admitted() -> None:
    admit(vllm_config())
    admit(vllm_config(speculative_config=SimpleNamespace(method="ngram")))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"parallel_config__use_ubatching": True}, "--enable-dbo"),
        ({"parallel_config__prefill_context_parallel_size": 2}, "--prefill-context-parallel-size"),
        ({"parallel_config__decode_context_parallel_size": 2}, "--decode-context-parallel-size"),
        ({"cache_config__kv_sharing_fast_prefill": True}, "--kv-sharing-fast-prefill"),
        ({"kv_transfer_config": object()}, "--kv-transfer-config"),
        ({"model_config__enable_sleep_mode": True}, "--enable-sleep-mode"),
        ({"model_config__runner_type": "pooling"}, "--runner pooling"),
        ({"model_config__is_encoder_decoder": True}, "encoder-decoder"),
        ({"parallel_config__enable_fault_tolerance": True}, "--enable-fault-tolerance"),
        ({"lora_config": object()}, "--enable-lora"),
        ({"model_config__enable_prompt_embeds": True}, "--enable-prompt-embeds"),
        ({"model_config__multimodal_config": SimpleNamespace(enable_mm_embeds=True)}, "--enable-mm-embeds"),
        ({"compilation_config__pass_config": SimpleNamespace(enable_sp=True)}, "sequence parallelism"),
        ({"speculative_config": SimpleNamespace(method="eagle3")}, "speculative decoding by eagle3"),
    ],
)
def test_an_option_that_breaks_exactness_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SteeringError, match=named):
        admit(vllm_config(**change))


def test_an_adapter_is_another_model() -> None:
    admit(vllm_config(lora_config=object()), allow_other_model=True)
