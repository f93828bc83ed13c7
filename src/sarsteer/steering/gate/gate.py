"""The gate: steer only the requests whose activations look harmful. Not part of the paper.

A linear score ``s = Σ w_l·h_l + b`` of the last prompt token, over one or several layers l, separates harmful from safe
requests. It is computed once, in prefill. The deepest of these layers, g, decides for the whole answer, in every layer
above g; layers up to g are not steered, so steering never changes the score.

The gate fails closed: a request unlike the calibration (beyond a limit of the Mahalanobis distance, where the score is
meaningless) is steered, and so is one whose score is NaN.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.steering.gate.conformal import ALL, StatedRate, stated_rates
from sarsteer.steering.gate.distance import MahalanobisDistance

HARD, LOGISTIC, SHADOW = "hard", "logistic", "shadow"
MODES = (HARD, LOGISTIC, SHADOW)
_NUMBERS = ("layer", "bias", "threshold", "temperature", "mode", "limit")


@dataclass(frozen=True)
class Decision:
    """What the gate decided about one request.

    Attributes:
        score: s, higher is more harmful.
        opening: 0 to 1, the share of α that is used; in shadow mode, the share that would be used.
        strength: α times the opening; 0 in shadow mode.
        distance: from the calibration's activations, about 1 for similar requests; None if the gate measures none.
        out_of_distribution: whether the distance is beyond the limit; the request is then steered at any score.

    """

    score: float
    opening: float
    strength: float
    distance: float | None
    out_of_distribution: bool

    @property
    def harmful(self) -> bool:
        """Whether the request counts as harmful: at least half of α is used. True if the opening is NaN."""
        return not self.opening < 0.5


@dataclass(frozen=True, eq=False)
class Gate:
    """A linear detector of harmful requests, on one decoder layer or several.

    Attributes:
        layer: g, 0-based, the deepest layer that is read; layers above it are steered.
        weight: ``[D]`` float32, w of layer g.
        bias: b. Scores are scaled so that the means of the safe and harmful calibration clips are at −1 and 1.
        threshold: scores above it open the gate.
        temperature: of the logistic mode, in units of the score.
        mode: ``"hard"``: 0 or 1; ``"logistic"``: ``σ((s − threshold) / temperature)``, 1/2 at the threshold;
            ``"shadow"``: decides as ``"hard"``, and steers nothing: the model is not defended.
        distance: distance of layer g's activations to the calibration's; None to measure none.
        limit: the distance beyond which the gate is open at any score; None for no limit.
        metadata: how it was fitted; JSON values only.
        earlier: w of each layer below g that is read, too.

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
    earlier: Mapping[int, torch.Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for layer in (self.layer, *self.earlier):
            if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
                raise ArtifactError(f"the gate's layer must be a whole number from 0, not {layer}; run calibrate again")
        for weight in (self.weight, *self.earlier.values()):
            if weight.ndim != 1 or not torch.isfinite(weight).all() or not weight.any():
                raise ArtifactError("the gate's weight is not a vector of finite numbers; run calibrate again")
            if len(weight) != len(self.weight):
                raise ArtifactError("the gate's weights have different widths; run calibrate again")
        if any(layer >= self.layer for layer in self.earlier):
            raise ArtifactError(
                f"the gate decides at layer {self.layer} and cannot read layer {max(self.earlier)}; run calibrate again"
            )
        object.__setattr__(self, "earlier", dict(sorted(self.earlier.items())))
        if not math.isfinite(self.bias):
            raise ArtifactError(f"the gate's bias must be a finite number, not {self.bias}; run calibrate again")
        if not math.isfinite(self.threshold):
            raise SteeringError(f"the gate's threshold must be a finite number, not {self.threshold}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SteeringError(f"the gate's temperature must be above 0, not {self.temperature}")
        if self.mode not in MODES:
            raise SteeringError(f"the gate's mode {self.mode!r} is unknown; use {' or '.join(MODES)}")
        if self.limit is not None and not (math.isfinite(self.limit) and self.limit > 0):
            raise SteeringError(f"the gate's distance limit must be above 0, not {self.limit}; None for no limit")
        if self.limit is not None and self.distance is None:
            raise SteeringError("this gate measures no distance and can have no limit; run calibrate again")
        if self.distance is not None and self.distance.means.shape[1] != len(self.weight):
            raise ArtifactError("the gate's weight and distance have different widths; run calibrate again")

    @property
    def weights(self) -> dict[int, torch.Tensor]:
        """W of every layer that is read, in order; the last one decides."""
        return {**self.earlier, self.layer: self.weight}

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are read, in order."""
        return tuple(self.weights)

    @property
    def defends(self) -> bool:
        """False in shadow mode, which steers nothing."""
        return self.mode != SHADOW

    def keep_steered(self, vectors: torch.Tensor) -> torch.Tensor:
        """``vectors`` ``[..., L, D]`` with zeros in the layers that are not steered: up to g; all in shadow mode."""
        kept = vectors.clone()
        kept[..., : self.layer + 1 if self.defends else None, :] = 0.0
        return kept

    def score(self, h: torch.Tensor) -> torch.Tensor:
        """``s = Σ w_l·h_l + b`` in float32: ``[...]`` for the activations ``[..., L, D]`` of all decoder layers.

        ``AudioLanguageModel.last_token_activations`` returns them.
        """
        scores = sum(h[..., layer, :].float() @ w.to(h.device) for layer, w in self.weights.items())
        return torch.as_tensor(scores + self.bias)

    def opening(self, s: torch.Tensor) -> torch.Tensor:
        """0 to 1 for scores ``[...]``; 1 for NaN."""
        return opening(s, self.threshold, self.temperature, self.mode != LOGISTIC)

    def out_of_distribution(self, h: torch.Tensor) -> torch.Tensor:
        """Whether activations ``[..., L, D]`` of all decoder layers are beyond the limit: ``[...]``, bool."""
        if self.distance is None or self.limit is None:
            return torch.zeros(h.shape[:-2], dtype=torch.bool, device=h.device)
        return ~(self.distance(h[..., self.layer, :]) <= self.limit)  # NaN is beyond it

    def strength(self, h: torch.Tensor) -> torch.Tensor:
        """The share of α for activations ``[..., L, D]`` of all decoder layers: ``[...]``, 0 to 1."""
        opened = self.opening(self.score(h))
        return torch.where(self.out_of_distribution(h), torch.ones_like(opened), opened)

    # ---- other settings ------------------------------------------------------------------------------------------

    def with_threshold(self, threshold: float) -> Gate:
        """The same gate with another threshold.

        Raises:
            SteeringError: no held-out harmful clip of the calibration scored as high: the gate would never open.

        """
        metadata = {key: value for key, value in self.metadata.items() if key not in ("target_fpr", "stated")}
        moved = replace(self, threshold=float(threshold), metadata=metadata)
        highest = max(self.metadata.get("held_out", {}).get("harmful", [math.inf]))
        if moved.threshold >= highest:
            raise SteeringError(
                f"the gate's threshold {moved.threshold:.3g} is not below {highest:.3g}, the highest score of a "
                "held-out harmful clip: it would steer none of them; use a lower threshold"
            )
        return moved

    def with_mode(self, mode: str, temperature: float | None = None) -> Gate:
        """The same gate in another of ``MODES``."""
        return replace(self, mode=mode, temperature=self.temperature if temperature is None else float(temperature))

    def with_limit(self, limit: float | None) -> Gate:
        """The same gate with another distance limit; None removes it: the gate no longer fails closed."""
        return replace(self, limit=None if limit is None else float(limit))

    def bare(self) -> Gate:
        """The same detector in hard mode, without limit and held-out scores: a proof can set any threshold."""
        return replace(self, mode=HARD, limit=None, metadata={})

    def with_target_fpr(self, target_fpr: float | Mapping[str, float]) -> Gate:
        """The same gate, with the threshold that ``conformal`` finds on the calibration's held-out safe clips.

        Each clip was scored by a detector that was not fitted on it, on layers that were not chosen on it. Those
        detectors are not the gate's own, which is fitted on all clips, so the rate is approximate (cross-conformal
        prediction); ``with_traffic`` states one that is exact.

        Args:
            target_fpr: the largest share of safe requests that may open the gate, of all together or of each group.

        Raises:
            SteeringError: a share is not between 0 and 1, the clips are too few for it, the gate does not come from
                calibration, or no held-out harmful clip scores above the threshold.

        """
        rates = stated_rates(*self.safe_scores(), target_fpr, self.safe_requests)
        metadata = {key: value for key, value in self.metadata.items() if key != "traffic"}
        moved = replace(self, metadata=metadata).with_rates(rates)
        if isinstance(target_fpr, Mapping):
            return moved
        return replace(moved, metadata={**moved.metadata, "target_fpr": float(target_fpr)})

    def with_rates(self, rates: Sequence[StatedRate]) -> Gate:
        """The same gate with the highest threshold of ``rates``, which keeps and records all of them.

        Raises:
            SteeringError: no held-out harmful clip scores above the threshold.

        """
        moved = self.with_threshold(max(rate.threshold for rate in rates))
        return replace(moved, metadata={**moved.metadata, "stated": [asdict(rate) for rate in rates]})

    def safe_scores(self) -> tuple[list[float], list[str]]:
        """Scores and groups of the calibration's held-out safe clips; a clip beyond the limit scores infinity.

        Raises:
            SteeringError: the gate does not come from calibration.

        """
        held_out = self.metadata.get("held_out") or {}
        scores = held_out.get("safe")
        if not scores:
            raise SteeringError("this gate stores no held-out scores to choose a threshold from; use with_threshold")
        distances = held_out.get("distances", {}).get("safe")  # files of earlier versions have none
        if self.limit is not None and distances:
            scores = [score if far <= self.limit else math.inf for score, far in zip(scores, distances, strict=True)]
        return list(scores), list(held_out.get("groups", {}).get("safe") or [ALL] * len(scores))

    @property
    def safe_requests(self) -> list[int]:
        """The request of each of ``safe_scores``: clips of one request, as in several voices, have the same number."""
        held_out = self.metadata.get("held_out") or {}
        stored = held_out.get("requests", {}).get("safe")  # files of earlier versions have none
        return list(stored or range(len(held_out.get("safe", []))))

    @property
    def stated(self) -> list[StatedRate]:
        """The error rates that the threshold was set for; empty if it was set by hand."""
        return [StatedRate(**rate) for rate in self.metadata.get("stated", [])]

    # ---- files ---------------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 of all values and metadata."""
        digest = hashlib.sha256(json.dumps(self.header, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What a steering file stores as tensors, by name."""
        tensors = {"gate.weight": self.weight}
        if self.earlier:
            tensors["gate.earlier_weights"] = torch.stack(list(self.earlier.values()))
        if self.distance is not None:
            tensors |= {f"gate.{name}": getattr(self.distance, name) for name in ("means", "basis", "precision")}
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}

    @property
    def header(self) -> dict[str, Any]:
        """What a steering file stores as JSON."""
        header = {name: getattr(self, name) for name in _NUMBERS}
        if self.distance is not None:
            header["residual_precision"] = self.distance.residual_precision
        if self.earlier:
            header["earlier_layers"] = list(self.earlier)
        return {**header, "metadata": self.metadata}

    @classmethod
    def from_parts(cls, header: Any, tensors: dict[str, torch.Tensor]) -> Gate:
        """The gate with this ``header`` and these ``tensors``.

        Raises:
            ArtifactError: a part is missing or damaged.

        """
        try:
            distance = None
            if "residual_precision" in header:
                means, basis, precision = (tensors[f"gate.{name}"] for name in ("means", "basis", "precision"))
                distance = MahalanobisDistance(means, basis, precision, float(header["residual_precision"]))
            earlier = header.get("earlier_layers", [])
            return cls(
                weight=tensors["gate.weight"],
                distance=distance,
                metadata=dict(header["metadata"]),
                earlier=dict(zip(earlier, tensors["gate.earlier_weights"], strict=True)) if earlier else {},
                **{name: header[name] for name in _NUMBERS},
            )
        except (AttributeError, KeyError, TypeError, ValueError, SteeringError) as error:
            raise ArtifactError(f"its gate is damaged ({error}); run calibrate again") from None


def opening(s: torch.Tensor, threshold: Any, temperature: Any, hard: Any) -> torch.Tensor:
    """``Gate.opening`` with numbers or 0-dimensional tensors, as the hooks compute it."""
    margin = s - threshold
    # NaN fails every comparison, and must open the gate
    step, logistic = ~(margin <= 0), torch.sigmoid(margin / temperature).nan_to_num(nan=1.0)
    return torch.where(torch.as_tensor(hard, device=s.device), step, logistic)
