"""Identify a model by a sample of its weights.

A refusal vector means nothing in another model's residual stream, even if the shapes agree. A few values of every
parameter are sampled, by part. Models of the same dtype are compared bit-exactly, others element by element to within
the rounding of their dtypes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sarsteer.errors import ModelError
from sarsteer.models.layers import hidden_size, language_root, text_config
from sarsteer.models.weights import (
    DECODER,
    PER_PARAMETER,
    Values,
    is_adapter,
    on_cpu,
    parts_outside_the_decoder,
    sampled,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OLD_TOLERANCE = 2.0**-6  # of artifacts that store one mean per layer


@dataclass(frozen=True)
class Part:
    """A sample of one part of a model.

    Attributes:
        name: ``"decoder layers"``, ``"encoder"``, ``"projector"``, ``"embeddings"``, ``"head"``, ``"adapters"`` or
            ``"other parts"``.
        dtype: the coarsest type of its weights.
        values: the sampled elements as little-endian float32, in base64.

    """

    name: str
    dtype: str
    values: str

    @classmethod
    def of(cls, name: str, dtypes: Sequence[torch.dtype], samples: Sequence[torch.Tensor]) -> Part:
        """The part whose parameters have these types, and samples of them on the CPU."""
        dtype = max(dtypes, key=lambda one: torch.finfo(one).eps)
        values = torch.cat(list(samples)).numpy().astype("<f4").tobytes()
        return cls(name, str(dtype).removeprefix("torch."), base64.b64encode(values).decode())

    @property
    def array(self) -> NDArray[np.float64]:
        """The sampled elements."""
        return np.frombuffer(base64.b64decode(self.values), dtype="<f4").astype(np.float64)

    def agrees_with(self, other: Part) -> bool:
        """Whether both may be samples of the same weights.

        Rounding to a type with precision ε changes a number by at most ε/2 of it, or half of its smallest subnormal.
        Both samples may be roundings of the same numbers.
        """
        if self.dtype == other.dtype:
            return self.values == other.values
        mine, theirs = self.array, other.array
        if mine.shape != theirs.shape:
            return False
        relative, absolute = (
            sum(values) / 2 for values in zip(_rounding(self.dtype), _rounding(other.dtype), strict=True)
        )
        bound = relative * np.maximum(abs(mine), abs(theirs)) + absolute
        return bool((abs(mine - theirs) <= bound).all())


@dataclass(frozen=True)
class Fingerprint:
    """Architecture, shape, and weights of a model.

    Attributes:
        architecture: the transformers class.
        layers, hidden_size, vocabulary: L, D and the size of the vocabulary.
        dtype: type of the sampled weights.
        digest: SHA-256 of the decoder layers' sample in float32.
        sample: one mean of absolute values per decoder layer, as earlier versions compare across dtypes.
        parts: samples by part; only the decoder layers if they were read from a checkpoint's files; empty in artifacts
            of earlier versions, which are compared by ``digest`` and ``sample``.

    """

    architecture: str
    layers: int
    hidden_size: int
    vocabulary: int
    dtype: str
    digest: str
    sample: tuple[float, ...]
    parts: tuple[Part, ...] = ()

    @property
    def identity(self) -> str:
        """SHA-256 of all parts: what results that depend on the whole model are stored under."""
        parts = [[part.name, part.values] for part in self.parts]
        return hashlib.sha256(json.dumps([self.digest, parts]).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What an artifact stores as JSON."""
        return {**asdict(self), "sample": list(self.sample), "parts": [asdict(part) for part in self.parts]}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """The inverse of ``to_json``."""
        fields: dict[str, Any] = json.loads(text)
        fields["sample"] = tuple(float(value) for value in fields["sample"])
        fields["parts"] = tuple(Part(**part) for part in fields.get("parts", ()))
        return cls(**fields)

    def difference(self, other: Fingerprint) -> str | None:
        """How ``other`` differs, in words; None if it is the same model.

        If one of them was read from a checkpoint's files, only the decoder layers are compared.
        """
        for name, label in (
            ("architecture", "architecture"),
            ("layers", "number of decoder layers"),
            ("hidden_size", "hidden size"),
            ("vocabulary", "vocabulary size"),
        ):
            expected, actual = getattr(self, name), getattr(other, name)
            if expected != actual:
                return f"{label} {actual} instead of {expected}"
        if not self.parts or not other.parts:
            return self._old_difference(other)
        mine, theirs = ({part.name: part for part in one.parts} for one in (self, other))
        names = [DECODER] if len(mine) == 1 or len(theirs) == 1 else sorted(mine | theirs)
        different = [
            name for name in names if name not in mine or name not in theirs or not mine[name].agrees_with(theirs[name])
        ]
        if DECODER not in different and mine[DECODER].dtype == theirs[DECODER].dtype and self.digest != other.digest:
            different.insert(0, DECODER)  # in an element that only the digest contains
        return f"other weights in the {' and the '.join(different)}" if different else None

    def _old_difference(self, other: Fingerprint) -> str | None:
        if self.digest == other.digest:
            return None
        if self.dtype == other.dtype:
            return "other weights"
        close = all(abs(a - b) <= _OLD_TOLERANCE * abs(a) for a, b in zip(self.sample, other.sample, strict=True))
        return None if close else "other weights"


@torch.no_grad()
def fingerprint_of(module: nn.Module, layers: Sequence[nn.Module]) -> Fingerprint:
    """The fingerprint of a model whose decoder layers are ``layers``.

    Raises:
        ModelError: a weight has no values, or a decoder layer's are all zero, so that any model would match.

    """
    inner = language_root(module)  # a thinker is the same model with and without its omni wrapper
    values = Values(inner)
    parts: list[tuple[str, list[torch.dtype]]] = []
    samples: list[torch.Tensor] = []
    outside = parts_outside_the_decoder(inner, layers)
    for name in sorted(outside):
        parameters = [values(*named) for named in outside[name] if named[1].is_floating_point()]
        if not parameters:
            continue
        parts.append((name, [parameter.dtype for parameter in parameters]))
        samples += [sampled(parameter, PER_PARAMETER) for parameter in parameters]
    moved = iter(on_cpu(samples))
    return fingerprint_of_weights(
        (
            {name: values(f"{index}.{name}", parameter) for name, parameter in layer.named_parameters()}
            for index, layer in enumerate(layers)
        ),
        architecture=type(inner).__name__,
        hidden_size=hidden_size(module),
        vocabulary=int(getattr(text_config(inner), "vocab_size", 0)),
        more=[Part.of(name, dtypes, [next(moved) for _ in dtypes]) for name, dtypes in parts],
    )


@torch.no_grad()
def fingerprint_of_weights(
    layers: Iterable[Mapping[str, torch.Tensor]],
    *,
    architecture: str,
    hidden_size: int,
    vocabulary: int,
    more: Sequence[Part] = (),
) -> Fingerprint:
    """Like ``fingerprint_of``, from the parameters of each layer, in order, by their name within the layer.

    Args:
        layers: parameters by name.
        architecture: the transformers class.
        hidden_size: D.
        vocabulary: size of the vocabulary.
        more: samples of other parts.

    """
    kinds: list[tuple[torch.dtype, bool]] = []  # type, and whether it is a matrix
    samples: list[torch.Tensor] = []
    sizes: list[int] = []
    for layer in layers:
        # PEFT renames the weights that it adapts, which must not change their order
        named = {name.replace(".base_layer", ""): value for name, value in layer.items() if not is_adapter(name)}
        # quantized weights have no plain values, and bitsandbytes lays them out differently after a first forward
        chosen = [value for _, value in sorted(named.items()) if value.is_floating_point()]
        kinds += [(value.dtype, value.ndim > 1) for value in chosen]
        samples += [sampled(value) for value in chosen]
        sizes.append(len(chosen))
    samples = on_cpu(samples)
    digest = hashlib.sha256()
    means: list[float] = []
    dtype, start = "none", 0
    for index, size in enumerate(sizes):
        of_layer = list(zip(kinds[start : start + size], samples[start : start + size], strict=True))
        start += size
        # norms are near one in every model and would hide a difference, or that there are no other values
        matrices = [sample for (_, matrix), sample in of_layer if matrix]
        if not of_layer or (matrices and not any(bool(sample.any()) for sample in matrices)):
            problem = "all zero" if of_layer else "missing"
            raise ModelError(
                f"the sampled weights of decoder layer {index} are {problem}, so the model cannot be identified; load "
                "its weights"
            )
        dtype = str(of_layer[-1][0][0]).removeprefix("torch.")
        digest.update(torch.cat([sample for _, sample in of_layer]).numpy().tobytes())
        means.append(float((torch.cat(matrices) if matrices else torch.zeros(1)).double().abs().mean()))
    # every other element: the digest compares all of them, and the artifact stays small
    decoder = Part.of(DECODER, [kind for kind, _ in kinds], [sample[::2] for sample in samples])
    return Fingerprint(
        architecture=architecture,
        layers=len(means),
        hidden_size=hidden_size,
        vocabulary=vocabulary,
        dtype=dtype,
        digest=digest.hexdigest(),
        sample=tuple(means),
        parts=(decoder, *more),
    )


def _rounding(name: str) -> tuple[float, float]:
    """Precision ε and the smallest subnormal number of a type."""
    about = torch.finfo(getattr(torch, name))
    return about.eps, about.smallest_normal * about.eps
