"""Identify a model by a sample of its weights.

A refusal vector means nothing in another model's residual stream, even if the shapes agree. A few values of every
parameter of every decoder layer are sampled. Models of the same dtype are compared bit-exactly, others to within the
rounding of a change of dtype.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from sarsteer.models.layers import hidden_size, language_root, text_config

_PER_PARAMETER = 8  # elements sampled from each parameter
_TOLERANCE = 2.0**-6  # relative; bfloat16 rounds to 2^-9, int8 weights stay within about 2^-7 of a row's largest


@dataclass(frozen=True)
class Fingerprint:
    """Architecture, shape, and weights of a model.

    Attributes:
        architecture: the transformers class.
        layers, hidden_size, vocabulary: L, D and the size of the vocabulary.
        dtype: type of the sampled weights.
        digest: SHA-256 of the sample in float32.
        sample: one mean of absolute values per layer, to compare models of different dtypes.

    """

    architecture: str
    layers: int
    hidden_size: int
    vocabulary: int
    dtype: str
    digest: str
    sample: tuple[float, ...]

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """The inverse of ``to_json``."""
        fields: dict[str, Any] = json.loads(text)
        fields["sample"] = tuple(float(value) for value in fields["sample"])
        return cls(**fields)

    def difference(self, other: Fingerprint) -> str | None:
        """How ``other`` differs, in words; None if it is the same model."""
        for name, label in (
            ("architecture", "architecture"),
            ("layers", "number of decoder layers"),
            ("hidden_size", "hidden size"),
            ("vocabulary", "vocabulary size"),
        ):
            expected, actual = getattr(self, name), getattr(other, name)
            if expected != actual:
                return f"{label} {actual} instead of {expected}"
        if self.digest == other.digest:
            return None
        if self.dtype == other.dtype:
            return "other weights"
        close = all(abs(a - b) <= _TOLERANCE * abs(a) for a, b in zip(self.sample, other.sample, strict=True))
        return None if close else "other weights"


@torch.no_grad()
def fingerprint_of(module: nn.Module, layers: Sequence[nn.Module]) -> Fingerprint:
    """The fingerprint of a model whose decoder layers are ``layers``."""
    inner = language_root(module)  # a thinker is the same model with and without its omni wrapper
    return fingerprint_of_weights(
        (dict(layer.named_parameters()) for layer in layers),
        architecture=type(inner).__name__,
        hidden_size=hidden_size(module),
        vocabulary=int(getattr(text_config(inner), "vocab_size", 0)),
    )


@torch.no_grad()
def fingerprint_of_weights(
    layers: Iterable[Mapping[str, torch.Tensor]], *, architecture: str, hidden_size: int, vocabulary: int
) -> Fingerprint:
    """Like ``fingerprint_of``, from the parameters of each layer, in order, by their name within the layer."""
    digest = hashlib.sha256()
    means: list[float] = []
    dtype = "none"
    for parameters in layers:
        sampled: list[torch.Tensor] = []
        matrices: list[torch.Tensor] = []
        for name, parameter in sorted(parameters.items()):
            if "lora_" in name or not parameter.is_floating_point() or parameter.is_meta:
                continue  # adapters can be switched; quantized and offloaded weights have no plain values
            dtype = str(parameter.dtype).removeprefix("torch.")
            flat = parameter.detach().reshape(-1)
            step = max(1, flat.numel() // _PER_PARAMETER)
            sampled.append(flat[::step][:_PER_PARAMETER].float())
            if parameter.ndim > 1:  # norms are near one in every model and would hide the difference
                matrices.append(sampled[-1])
        digest.update(_joined(sampled).numpy().tobytes())
        means.append(float(_joined(matrices).double().abs().mean()))
    return Fingerprint(
        architecture=architecture,
        layers=len(means),
        hidden_size=hidden_size,
        vocabulary=vocabulary,
        dtype=dtype,
        digest=digest.hexdigest(),
        sample=tuple(means),
    )


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.cpu() for part in parts]) if parts else torch.zeros(1)
