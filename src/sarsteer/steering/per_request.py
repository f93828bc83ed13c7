"""Add vectors whose factors depend on the request: what rival methods need, and ``ResolvedStrength`` cannot express.

``h_l[last] += α f_l v_l`` at the last prompt token and at every decoded token, as SARSteer steers. A subclass computes
the factor ``f_l`` of each row from the activations at the last prompt token, in the same prefill; it then holds for the
whole answer. The hooks live only while ``applied`` is open, and count what they did: an answer during which a layer was
not steered is an error.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.activations import residual_of

S = TypeVar("S", bound="PerRequestSteering")


class PerRequestSteering(ABC):
    """Vectors ``[L, D]`` with a factor per row and layer.

    Args:
        vectors: ``[L, D]``, α not included; stored in float32.
        alpha: steering strength α.

    """

    def __init__(self, vectors: torch.Tensor, alpha: float) -> None:
        self.vectors = vectors.detach().float().cpu()
        self.alpha = float(alpha)
        if not torch.isfinite(self.alpha * self.vectors).all():
            raise SteeringError("alpha times the vectors is not finite; use a smaller alpha, or run calibrate again")

    @abstractmethod
    def factors(self, layer: int, h: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The factor of each row at one layer.

        Args:
            layer: l, 0-based.
            h: ``[B, D]`` in float32: the layer's output at the last prompt tokens, steered in the layers before.
            before: ``[B]``: the factors of the layer before; zeros at the first.

        """

    @property
    @abstractmethod
    def state(self) -> tuple[torch.Tensor, ...]:
        """What the factors depend on."""

    @property
    def digest(self) -> str:
        """SHA-256 of the vectors, and of what the factors depend on."""
        digest = hashlib.sha256()
        for tensor in (self.vectors, *self.state):
            digest.update(tensor.detach().double().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def with_vectors(self: S, vectors: torch.Tensor) -> S:
        """The same factors with other vectors: a control."""
        other = copy.copy(self)
        other.vectors = vectors.detach().float().cpu()
        return other

    @contextmanager
    def applied(self, layers: Sequence[nn.Module]) -> Iterator[Run]:
        """Steer every forward of a model with these decoder layers.

        Call ``check`` of what it returns before an answer is used.

        Raises:
            SteeringError: the model has another number of layers.

        """
        if len(layers) != len(self.vectors):
            raise SteeringError(f"vectors of {len(self.vectors)} layers for a model of {len(layers)}; use its own")
        run = Run(self, len(layers))
        hooks = []
        try:
            for index, layer in enumerate(layers):
                hooks.append(layer.register_forward_hook(run.hook(index), prepend=True))
            yield run
        finally:
            for hook in hooks:
                hook.remove()


class Run:
    """The factors of the newest prefill, and how often each layer was steered."""

    def __init__(self, steering: PerRequestSteering, layers: int) -> None:
        self._steering = steering
        self._factors: list[torch.Tensor | None] = [None] * layers
        self._forwards = [0] * layers
        self._deltas: dict[int, torch.Tensor] = {}

    def hook(self, index: int) -> Any:
        """The hook of one layer."""

        def steer(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden = residual_of(output)
            row = hidden.select(-2, -1)
            if hidden.shape[-2] > 1:
                self._factors[index] = self._decide(index, row)
            factor = self._factors[index]
            if factor is None or len(factor) != len(row):
                raise SteeringError("a decode step has other rows than its prefill; use greedy decoding or sampling")
            if index not in self._deltas or self._deltas[index].device != row.device:
                delta = self._steering.alpha * self._steering.vectors[index]
                self._deltas[index] = delta.to(row.device)
            row.addcmul_(factor[:, None], self._deltas[index])
            self._forwards[index] += 1

        return steer

    def _decide(self, index: int, row: torch.Tensor) -> torch.Tensor:
        before = self._factors[index - 1] if index else None
        zeros = torch.zeros(len(row), device=row.device)
        factor = self._steering.factors(index, row.detach().float(), zeros if before is None else before.to(row.device))
        if not torch.isfinite(factor).all():
            raise SteeringError(f"the steering factors at layer {index} are not finite; load the model in float32")
        return factor.float()

    def check(self) -> None:
        """Raise ``SteeringError`` unless the model ran, and every layer was steered in every forward.

        A compiled model leaves out hooks that were added after it was traced.
        """
        if not min(self._forwards) or min(self._forwards) != max(self._forwards):
            raise SteeringError("a layer was not steered in some forward; the answers were discarded")
