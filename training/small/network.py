"""The trained parts: encoder with projector (the hearing), and LoRA in the language model (the reading)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sarsteer.small.design import AUDIO, LORA_RANK, LORA_SCALE, LORA_TARGETS, model_config


class Hearing(nn.Module):
    """Encoder and projector, on spectrograms of any length."""

    def __init__(self, text_config: dict[str, Any], encoder: dict[str, int] | None = None) -> None:
        super().__init__()
        from transformers.models.qwen2_audio.modeling_qwen2_audio import (
            Qwen2AudioEncoder,
            Qwen2AudioMultiModalProjector,
        )

        config = model_config(text_config, 0, encoder)
        config.audio_config._attn_implementation = "sdpa"
        self.audio_tower = Qwen2AudioEncoder(config.audio_config)
        self.multi_modal_projector = Qwen2AudioMultiModalProjector(config)

    def forward(self, mels: list[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
        """Frames for the language model ``[N, T, D]`` of N spectrograms ``[80, 4 T_n]``, and each T_n."""
        tower, gelu = self.audio_tower, nn.functional.gelu
        lengths = [mel.shape[1] // 4 for mel in mels]
        x = torch.zeros(len(mels), mels[0].shape[0], 4 * max(lengths))
        for row, mel in zip(x, mels, strict=True):
            row[:, : mel.shape[1]] = mel
        h = gelu(tower.conv2(gelu(tower.conv1(x)))).permute(0, 2, 1)
        h = h + tower.embed_positions.weight[: h.shape[1]]
        mask = torch.zeros(len(mels), 1, 1, h.shape[1])
        for row, length in zip(mask, lengths, strict=True):
            row[..., 2 * length :] = torch.finfo(h.dtype).min
        for layer in tower.layers:
            out = layer(h, mask.expand(-1, 1, h.shape[1], -1))
            h = out[0] if isinstance(out, tuple) else out
        h = tower.layer_norm(tower.avg_pooler(h.permute(0, 2, 1)).permute(0, 2, 1))
        return self.multi_modal_projector(h), lengths


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank term."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(LORA_RANK, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, LORA_RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, -2)
        low = nn.functional.linear(flat, self.down.to(x.dtype))
        out: torch.Tensor = self.base(x)
        return torch.addmm(out.flatten(0, -2), low, self.up.to(x.dtype).T, alpha=LORA_SCALE).view(out.shape)


def add_lora(language_model: nn.Module) -> dict[str, nn.Parameter]:
    """Put a ``LoraLinear`` in the place of each target layer; their parameters, by the names they are saved under."""
    torch.manual_seed(0)
    found: dict[str, nn.Parameter] = {}
    for name, module in list(language_model.named_modules()):
        if isinstance(module, nn.Linear) and name.rsplit(".")[-1] in LORA_TARGETS:
            parent, _, leaf = name.rpartition(".")
            lora = LoraLinear(module)
            setattr(language_model.get_submodule(parent), leaf, lora)
            short = name.removeprefix("model.")
            found[f"{short}.down"], found[f"{short}.up"] = lora.down, lora.up
    return found


def save(state: dict[str, Any], file: Path) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = file.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(file)


def audio_token(tok: Any) -> int:
    """The id of the placeholder of an audio frame."""
    return int(tok.convert_tokens_to_ids(AUDIO))
