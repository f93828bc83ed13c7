"""The prefix cache shares no block between requests that are steered differently."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sarsteer
from sarsteer.vllm import settings
from sarsteer.vllm.engine.block_keys import block_key
from tests.support.vllm_parts import server_settings, vector_set


def request(length: int, **extra: Any) -> SimpleNamespace:
    return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra), num_prompt_tokens=length)


def test_requests_with_other_steering_have_other_block_keys() -> None:
    free = server_settings(vector_set("a", 0.1), vector_set("b", 0.1), bounds=(0, 1))
    keys = [
        block_key(request(5), free),
        block_key(request(6), free),
        block_key(request(5, sarsteer_alpha=0.2), free),
        block_key(request(5, sarsteer_set="b"), free),
    ]
    assert len(set(keys)) == 4
    assert block_key(request(5, sarsteer_alpha=0), free) is None
    assert block_key(request(5, sarsteer_alpha=0.1), free) == keys[0]


def test_another_gate_has_other_block_keys(gated_file: Path, steering: sarsteer.Steering, tmp_path: Path) -> None:
    assert steering.gate is not None
    other = steering.with_gate(steering.gate.with_threshold(steering.gate.threshold - 1)).with_defaults(gate=True)
    files = [gated_file, other.save(tmp_path / "other.safetensors")]
    request = SimpleNamespace(sampling_params=SimpleNamespace(extra_args=None), num_prompt_tokens=9)
    keys = []
    for file in files:
        read = settings.from_environment({"SARSTEER_STEERING": str(file)})
        assert read is not None
        keys.append(block_key(request, read))
    assert None not in keys
    assert keys[0] != keys[1]
