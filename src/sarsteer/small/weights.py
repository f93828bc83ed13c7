"""The trained weights in one small file: matrices of the encoder in int8, everything else in float16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sarsteer.errors import ModelError
from sarsteer.files import atomic_path
from sarsteer.small.design import LORA_SCALE

_SCALE = ".scale"
_FORMAT = "sarsteer-small-1"


def quantized(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 values of ``[rows, ...]`` and a scale for each row."""
    flat = matrix.float().flatten(1)
    scale = (flat.abs().amax(1) / 127).clamp(min=1e-12)
    values = (flat / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return values.reshape(matrix.shape), scale


def write_weights(
    file: Path, hearing: dict[str, torch.Tensor], lora: dict[str, torch.Tensor], encoder: dict[str, int]
) -> None:
    """Write the trained parts.

    Args:
        file: safetensors file to write.
        hearing: ``audio_tower.*`` and ``multi_modal_projector.*``.
        lora: ``layers.*.down`` and ``layers.*.up``.
        encoder: the encoder's sizes.

    """
    from safetensors.torch import save_file

    kept: dict[str, torch.Tensor] = {}
    for name, value in hearing.items():
        if "embed_positions" in name or value.dim() < 2 or "projector" in name:
            kept[name] = value.detach().half().contiguous()
        else:
            kept[name], kept[name + _SCALE] = quantized(value.detach())
    for name, value in lora.items():
        kept["lora." + name] = value.detach().half().contiguous()
    with atomic_path(file) as temporary:
        save_file(kept, temporary, metadata={"format": _FORMAT, "encoder": json.dumps(encoder)})


def read_weights(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, int]]:
    """The hearing and the LoRA in float32, and the encoder's sizes.

    Raises:
        ModelError: the file is not there or not whole.

    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            values = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: cannot be read ({error}); reinstall sarsteer") from None
    if metadata.get("format") != _FORMAT:
        raise ModelError(f"{file}: has another format than this version of sarsteer; reinstall sarsteer")
    hearing: dict[str, torch.Tensor] = {}
    lora: dict[str, torch.Tensor] = {}
    for name, value in values.items():
        if name.startswith("lora."):
            lora[name.removeprefix("lora.")] = value.float()
        elif not name.endswith(_SCALE):
            scale = values.get(name + _SCALE)
            whole = value.float()
            hearing[name] = whole if scale is None else whole * scale.view(-1, *[1] * (value.dim() - 1))
    encoder: dict[str, int] = json.loads(metadata["encoder"])
    return hearing, lora, encoder


def merge_lora(weights: dict[str, torch.Tensor], lora: dict[str, torch.Tensor]) -> None:
    """Add each low-rank term ``scale * up @ down`` to its matrix in ``weights``, in place."""
    for name, down in lora.items():
        if name.endswith(".down"):
            layer = name.removesuffix(".down")
            weights[layer + ".weight"] += LORA_SCALE * (lora[layer + ".up"] @ down)


def state_dict(hearing: dict[str, Any], language_model: dict[str, Any], layers: int) -> dict[str, torch.Tensor]:
    """All weights by the names that a saved ``Qwen2AudioForConditionalGeneration`` has, in float16.

    The language model's query, key and value projections get biases of zero, which Qwen2 has and Llama has not.
    """
    state = {name: value.half().contiguous() for name, value in hearing.items()}
    for name, value in language_model.items():
        state[f"language_model.model.{name}"] = value.half().contiguous()
    # transformers 5 ties nothing in this class, and vLLM ties by the configuration: give both the same matrix
    state["language_model.lm_head.weight"] = state["language_model.model.embed_tokens.weight"].clone()
    for layer in range(layers):
        for part in ("q_proj", "k_proj", "v_proj"):
            name = f"language_model.model.layers.{layer}.self_attn.{part}"
            state[f"{name}.bias"] = torch.zeros(state[f"{name}.weight"].shape[0], dtype=torch.float16)
    return state
