"""The gate: steer a request only where the model's own activations say that it is harmful. Beyond the paper.

At one layer g a linear score ``s = w·h_g + b`` of the last prompt token tells harmful from safe requests. It is taken
once, in prefill, and decides for the whole answer, in every layer above g; layers up to g are not steered.

What is unlike the calibration is steered all the same: beyond a limit of the Mahalanobis distance the score means
nothing, and the gate fails closed, which is open. So does a score that is no number.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.steering.gate.distance import MahalanobisDistance

MODES = ("hard", "logistic")
_NUMBERS = ("layer", "bias", "threshold", "temperature", "mode", "limit")


@dataclass(frozen=True)
class Decision:
    """What the gate decided of one request.

    Attributes:
        score: s, higher is more harmful.
        opening: 0 to 1, the share of the steering strength that is used.
        strength: α times the opening.
        distance: from the calibration's activations, about 1 for what is like them; None where none is measured.
        out_of_distribution: whether the distance is beyond the limit; the request is steered then, whatever its score.

    """

    score: float
    opening: float
    strength: float
    distance: float | None
    out_of_distribution: bool


@dataclass(frozen=True, eq=False)
class Gate:
    """A linear detector of harmful requests at one decoder layer.

    Attributes:
        layer: g, 0-based; layers above it are steered.
        weight: ``[D]`` float32, w.
        bias: b. Scores are scaled so that the means of the safe and harmful calibration clips are at −1 and 1.
        threshold: scores above it open the gate.
        temperature: of the logistic mode, in units of the score.
        mode: ``"hard"``: 0 or 1; ``"logistic"``: ``σ((s − threshold) / temperature)``, 1/2 at the threshold.
        distance: to the calibration's activations; None where none is measured.
        limit: the distance beyond which the gate is open whatever the score; None for never.
        metadata: how it was fitted; JSON values only.

    """

    layer: int
    weight: torch.Tensor = field(repr=False)
    bias: float
    threshold: float
    temperature: float = 1.0
    mode: str = "hard"
    distance: MahalanobisDistance | None = field(default=None, repr=False)
    limit: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise ArtifactError(f"the gate's layer must be a whole number from 0, not {self.layer}; calibrate anew")
        if self.weight.ndim != 1 or not torch.isfinite(self.weight).all() or not self.weight.any():
            raise ArtifactError("the gate's weight is no vector of finite numbers; calibrate anew")
        if not math.isfinite(self.bias):
            raise ArtifactError(f"the gate's bias is {self.bias}; calibrate anew")
        if not math.isfinite(self.threshold):
            raise SteeringError(f"the gate's threshold must be a finite number, not {self.threshold}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SteeringError(f"the gate's temperature must be above 0, not {self.temperature}")
        if self.mode not in MODES:
            raise SteeringError(f"the gate's mode {self.mode!r} is unknown; use {' or '.join(MODES)}")
        if self.limit is not None and not (math.isfinite(self.limit) and self.limit > 0):
            raise SteeringError(f"the gate's distance limit must be above 0, not {self.limit}; None for no limit")
        if self.limit is not None and self.distance is None:
            raise SteeringError("this gate measures no distance, so that it can have no limit; calibrate anew")
        if self.distance is not None and self.distance.means.shape[1] != len(self.weight):
            raise ArtifactError("the gate's weight and distance are of different widths; calibrate anew")

    def score(self, h: torch.Tensor) -> torch.Tensor:
        """``s = w·h + b`` in float32: ``[...]`` of activations ``[..., D]`` of layer ``layer``, last prompt token."""
        return h.float() @ self.weight.to(h.device) + self.bias

    def opening(self, s: torch.Tensor) -> torch.Tensor:
        """0 to 1 for scores ``[...]``; 1 where a score is NaN."""
        return opening(s, self.threshold, self.temperature, self.mode == "hard")

    def out_of_distribution(self, h: torch.Tensor) -> torch.Tensor:
        """Whether activations ``[..., D]`` are beyond the limit: ``[...]``, bool."""
        if self.distance is None or self.limit is None:
            return torch.zeros(h.shape[:-1], dtype=torch.bool, device=h.device)
        return ~(self.distance(h) <= self.limit)  # NaN is beyond it

    def strength(self, h: torch.Tensor) -> torch.Tensor:
        """The share of α with which requests of activations ``[..., D]`` are steered: ``[...]``, 0 to 1."""
        opened = self.opening(self.score(h))
        return torch.where(self.out_of_distribution(h), torch.ones_like(opened), opened)

    # ---- other settings ------------------------------------------------------------------------------------------

    def with_threshold(self, threshold: float) -> Gate:
        """The same gate, opening above another score.

        Raises:
            SteeringError: no held-out harmful clip of the calibration scored as high: the gate would never open.

        """
        metadata = {key: value for key, value in self.metadata.items() if key != "target_fpr"}  # no longer aimed at
        return replace(self, threshold=float(threshold), metadata=metadata)._opening()

    def _opening(self) -> Gate:
        """Itself, if it opens for any harmful clip of its calibration."""
        highest = max(self.metadata.get("held_out", {}).get("harmful", [math.inf]))
        if self.threshold >= highest:
            raise SteeringError(
                f"the gate's threshold {self.threshold:.3g} is not below {highest:.3g}, the highest score of a "
                "held-out harmful clip: it would steer none of them"
            )
        return self

    def with_mode(self, mode: str, temperature: float | None = None) -> Gate:
        """The same gate in ``"hard"`` or ``"logistic"`` mode."""
        return replace(self, mode=mode, temperature=self.temperature if temperature is None else float(temperature))

    def with_limit(self, limit: float | None) -> Gate:
        """The same gate with another limit of distance; None trusts the score everywhere: it fails closed no more."""
        return replace(self, limit=None if limit is None else float(limit))

    def bare(self) -> Gate:
        """The same detector in hard mode, with no limit and no held-out scores: a proof may give it any threshold."""
        return replace(self, mode="hard", limit=None, metadata={})

    def with_target_fpr(self, target_fpr: float) -> Gate:
        """The same gate, opened by at most this share of the calibration's safe clips.

        Each was scored by a detector that was not fitted on it.

        Raises:
            SteeringError: the share is not between 0 and 1, the gate was not made by calibration, or no held-out
                harmful clip scores above so many safe ones.

        """
        if isinstance(target_fpr, bool) or not 0 < target_fpr < 1:
            raise SteeringError(f"the target false-positive rate must be between 0 and 1, not {target_fpr}")
        scores = self.metadata.get("held_out", {}).get("safe")
        if not scores:
            raise SteeringError("this gate keeps no held-out scores to choose a threshold by; give a threshold")
        metadata = {**self.metadata, "target_fpr": float(target_fpr)}
        return replace(self, threshold=threshold_for(scores, target_fpr), metadata=metadata)._opening()

    # ---- files ---------------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides, and of how it was fitted."""
        digest = hashlib.sha256(json.dumps(self.header, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What a steering file keeps as tensors, by name."""
        found = {"gate.weight": self.weight}
        if self.distance is not None:
            found |= {f"gate.{name}": getattr(self.distance, name) for name in ("means", "basis", "precision")}
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}

    @property
    def header(self) -> dict[str, Any]:
        """What a steering file keeps in its JSON."""
        found = {name: getattr(self, name) for name in _NUMBERS}
        if self.distance is not None:
            found["residual_precision"] = self.distance.residual_precision
        return {**found, "metadata": self.metadata}

    @classmethod
    def from_parts(cls, header: Any, tensors: dict[str, torch.Tensor]) -> Gate:
        """Back from ``header`` and ``tensors``.

        Raises:
            ArtifactError: a part is missing or damaged.

        """
        try:
            distance = None
            if "residual_precision" in header:
                means, basis, precision = (tensors[f"gate.{name}"] for name in ("means", "basis", "precision"))
                distance = MahalanobisDistance(means, basis, precision, float(header["residual_precision"]))
            numbers = {name: header[name] for name in _NUMBERS}
            return cls(weight=tensors["gate.weight"], distance=distance, metadata=dict(header["metadata"]), **numbers)
        except (KeyError, TypeError, ValueError, SteeringError) as error:
            raise ArtifactError(f"its gate is damaged ({error}); calibrate anew") from None


def opening(s: torch.Tensor, threshold: Any, temperature: Any, hard: Any) -> torch.Tensor:
    """``Gate.opening`` with numbers or 0-dimensional tensors, as the hooks compute it."""
    lifted = s - threshold
    # a score that is NaN fails every comparison, and must come out open
    hard_, soft = (~(lifted <= 0)).to(s.dtype), torch.sigmoid(lifted / temperature).nan_to_num(nan=1.0)
    return torch.where(torch.as_tensor(hard, device=s.device), hard_, soft)


def threshold_for(safe_scores: list[float], target_fpr: float) -> float:
    """The lowest threshold that at most ``target_fpr`` of these safe scores are above."""
    ordered = sorted(safe_scores, reverse=True)
    return float(ordered[min(int(target_fpr * len(ordered) + 1e-9), len(ordered) - 1)])
