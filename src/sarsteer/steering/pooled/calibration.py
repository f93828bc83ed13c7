"""From the sums of each round to the next query, and in the end to refusal vectors, safe subspace and gate.

``advance`` is a function of the sums of all rounds so far and nothing else: a server that was killed continues from the
sums that it stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from sarsteer.errors import CalibrationError, SteeringError
from sarsteer.steering.gate.chance import MAX_P
from sarsteer.steering.gate.conformal import needed
from sarsteer.steering.gate.fit import MIN_AUROC, MIN_PAIRS, OOD_FPR
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.nested import MOST_LAYERS
from sarsteer.steering.pooled.counts import auroc, limit, moments, p_value, quantile, values_of
from sarsteer.steering.pooled.detectors import DIFFERENCE, LDA, class_means, detectors, distance, label_sums
from sarsteer.steering.pooled.rounds import BINS, DEVIATIONS, FARTHEST, RANGE, Query, edges
from sarsteer.steering.pooled.setting import Setting
from sarsteer.steering.pooled.sketch import centered, reconstruct
from sarsteer.steering.pooled.sums import Sums
from sarsteer.steering.subspace import MAX_COMPONENTS

_HELD_OUT = 10  # clips of each label below which an AUROC says nothing
_METHODS = (DIFFERENCE, LDA)  # the simplest first


@dataclass(frozen=True, eq=False)
class Pooled:
    """What the sums give; the tensors are those of ``Steering``.

    Attributes:
        counts: pairs, and safe requests without a twin.
        no_gate: why there is no gate; None if there is one.

    """

    tensors: dict[str, torch.Tensor] = field(repr=False)
    counts: dict[str, int]
    gate: Gate | None
    no_gate: str | None


class _NoGate(Exception):
    """The sums allow no gate; the message says why."""


def advance(setting: Setting, past: Sequence[Sums], noise: float = 0.0, *, gate: bool = True) -> Query | Pooled:
    """The next query, or the result once no more are needed.

    Args:
        setting: what the sites agreed on.
        past: the sums of every round so far, in order.
        noise: the standard deviation of errors in the sums, in units of their parts: rounding, or noise for privacy.
        gate: whether a gate is wanted.

    Raises:
        CalibrationError: there are fewer than two pairs, or the sums are not those of real clips.

    """
    if not past:
        return Query("statistics")
    _check(past[0], noise)
    if len(past) == 1:
        return _spread(setting, past[0])
    reason = "none was requested"
    found: Query | Gate | None = None
    if gate:
        try:
            found = _gate(setting, past, noise)
        except _NoGate as error:
            reason = str(error)
    if isinstance(found, Query):
        return found
    return _result(setting, past, noise, found, None if found is not None else reason)


def _check(sums: Sums, noise: float) -> None:
    """Refuse sums that no clips can have: a site lied, or sites disagree on something."""
    if not sums.finite:
        raise CalibrationError("the sums contain NaN or infinite values")
    pairs = float(sums["pairs"])
    if pairs < 2:
        raise CalibrationError(f"too few pairs ({pairs:.0f}) on all sites together; at least 2 are needed")
    lowest = min(float(sums["benign"]), float(sums["fit_count"].min()))
    if lowest < -0.5 - 8 * noise:
        raise CalibrationError(f"the sums have a negative number of clips ({lowest:.0f}): a site sent wrong counts")


def _spread(setting: Setting, sums: Sums) -> Query:
    pairs = float(sums["pairs"])
    mean = sums["harmful_norm"] / pairs
    deviation = (sums["harmful_norm_square"] / pairs - mean.square()).clamp(min=0).sqrt()
    deviation = torch.maximum(deviation, 1e-6 * mean.abs().clamp(min=1e-12))
    tensors = {"norm_mean": mean, "norm_deviation": deviation}
    if setting.rank:
        counts, totals = label_sums(setting, sums)
        tensors["label_means"] = totals / counts.clamp(min=1)[:, None, None]
        tensors["class_means"] = class_means(setting, sums)
    return Query("spread", tensors)


def _result(setting: Setting, past: Sequence[Sums], noise: float, gate: Gate | None, reason: str | None) -> Pooled:
    sums, spread = past[:2]
    pairs, center = float(sums["pairs"]), setting.center.double()
    bases, values = [], []
    limit_rank = max(0, min(MAX_COMPONENTS, round(pairs) - 1, setting.width))
    omega = setting.omega if setting.rank else None
    for layer in range(setting.layers):
        basis, squares = torch.zeros(0, setting.width, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        if omega is not None:
            total = sums["safe"][layer]
            unit = float(setting.radius[layer]) ** 2 * float(omega.norm(dim=0).max())
            trace = float(sums["safe_square"][layer]) - float(total.square().sum()) / pairs
            basis, squares = reconstruct(
                centered(sums["safe_sketch"][layer], total, pairs, omega), omega, noise * unit, trace
            )
        bases.append(basis[:limit_rank])
        values.append(squares[:limit_rank].sqrt())
    keep = max(len(basis) for basis in bases)
    norms = [
        float(spread_mean + spread_deviation * quantile(histogram, 0.5, -DEVIATIONS, DEVIATIONS))
        for histogram, spread_mean, spread_deviation in zip(
            spread["norms"],
            *(_spread(setting, sums).tensors[name] for name in ("norm_mean", "norm_deviation")),
            strict=True,
        )
    ]
    tensors = {
        "refusal": sums["difference"] / pairs,
        "safe_basis": torch.stack([nn.functional.pad(basis, (0, 0, 0, keep - len(basis))) for basis in bases]),
        "singular_values": torch.stack([nn.functional.pad(value, (0, keep - len(value))) for value in values]),
        "safe_mean": center + sums["safe"] / pairs,
        "harmful_mean": center + sums["harmful"] / pairs,
        "activation_norms": torch.tensor(norms),
    }
    counts = {"pairs": round(pairs), "benign": max(0, round(float(sums["benign"])))}
    return Pooled({name: tensor.float() for name, tensor in tensors.items()}, counts, gate, reason)


# ---- the gate ----------------------------------------------------------------------------------------------------


def _gate(setting: Setting, past: Sequence[Sums], noise: float) -> Query | Gate:
    counts, _ = label_sums(setting, past[0])
    if not setting.gate_layers:
        raise _NoGate("a model with one layer has no layer above a gate to steer")
    if float(counts.min()) < MIN_PAIRS:
        raise _NoGate(
            f"{counts[0]:.0f} harmful and {counts[1]:.0f} safe clips are too few to fit a detector; give at least "
            f"{MIN_PAIRS} of each"
        )
    found = detectors(setting, past[0], past[1], _sketch_noise(setting, noise))
    if not found:
        raise _NoGate("no layer separates harmful from safe clips: check the labels, or give more pairs")
    names = list(found)
    if len(past) == 2:
        return Query(
            "choose",
            {
                # a served gate has float32 weights: these are measured
                "weights": torch.stack([found[name][0] for name in names]).float(),
                "bias": torch.tensor([found[name][1] for name in names], dtype=torch.float64),
                "at": torch.tensor([at for _, at in names]),
            },
        )
    harmful = setting.harmful
    by_label = {
        name: (histogram[harmful].sum(0), histogram[~harmful].sum(0))
        for name, histogram in zip(names, past[2]["scores"], strict=True)
    }
    combinations = _combinations(setting, found, by_label)
    parts = [_detector(setting, past, noise, found, by_label, at) for at in combinations]
    if len(past) == 3:
        return _combine(setting, parts)
    # the mean of the layers' scores that separates best, on as few layers as possible
    areas = [auroc(histogram[harmful].sum(0), histogram[~harmful].sum(0))[0] for histogram in past[3]["scores"]]
    best = max(range(len(areas)), key=lambda index: (areas[index], -index))
    gate = parts[best]
    if gate.distance is not None:
        share = min(OOD_FPR, setting.target_fpr / 5)
        gate = replace(gate, limit=max(limit(past[3]["distances"][best], share, 0.0, FARTHEST), 1e-6))
    if len(past) == 4:
        query = _combine(setting, [gate])
        tensors = dict(query.tensors)
        if gate.limit is not None:
            tensors["limit"] = torch.tensor(gate.limit, dtype=torch.float64)
        return Query("threshold", tensors)
    try:
        return _with_threshold(setting, past[4]["scores"], gate)
    except _NoGate as error:
        if gate.limit is None:
            raise
        metadata = {**gate.metadata, "no_distance_limit": str(error)}
        return _with_threshold(
            setting, past[4]["unlimited"], replace(gate, distance=None, limit=None, metadata=metadata)
        )


def _sketch_noise(setting: Setting, noise: float) -> float:
    """The same noise in units of activations; the layers' units are alike, and the largest serves all."""
    if not setting.rank:
        return 0.0
    return noise * float(2 * setting.radius[setting.gate_layers].max() ** 2 * setting.omega.norm(dim=0).max())


def _combinations(setting: Setting, found: Any, by_label: Any) -> list[tuple[str, tuple[int, ...]]]:
    """The best method, with its best layer, its two best layers, and so on: the simplest within one standard error."""
    areas = {name: auroc(*pair) for name, pair in by_label.items()}
    harmful, safe = next(iter(by_label.values()))
    if min(float(harmful.sum()), float(safe.sum())) < _HELD_OUT:
        raise _NoGate(
            f"{harmful.sum():.0f} harmful and {safe.sum():.0f} safe clips are too few to choose a layer on; give at "
            f"least {_HELD_OUT} of each, which takes about {round(_HELD_OUT / setting.shares[1])} pairs in all"
        )
    best_area, best_error = max(areas.values())
    if best_area - best_error < MIN_AUROC:
        raise _NoGate(
            f"no layer separates harmful from safe clips (best AUROC {best_area:.2f} ± {best_error:.2f} on clips that "
            f"fitted no detector, required {MIN_AUROC}): check the labels, or give more pairs"
        )
    method = next(
        name
        for name in _METHODS
        if max((a for (m, _), (a, _) in areas.items() if m == name), default=0) >= best_area - best_error
    )
    ranked = sorted((at for m, at in found if m == method), key=lambda at: (-areas[method, at][0], at))
    return [(method, tuple(sorted(ranked[: count + 1]))) for count in range(min(MOST_LAYERS, len(ranked)))]


def _detector(
    setting: Setting, past: Sequence[Sums], noise: float, found: Any, by_label: Any, chosen: tuple[str, tuple[int, ...]]
) -> Gate:
    """The mean of the layers' standardized scores, with the classes' means at −1 and 1; no threshold yet."""
    method, layers = chosen
    spreads, means = {}, {}
    for at in layers:
        harmful, safe = by_label[method, at]
        spreads[at] = moments(harmful + safe)[1] or 1.0
        means[at] = torch.tensor([moments(harmful)[0], moments(safe)[0]])
    mean = torch.stack([means[at] / spreads[at] for at in layers]).mean(0)
    half = float(mean[0] - mean[1]) / 2
    half = half if half > 0 else 1.0
    weights, bias = {}, -float(mean.sum()) / 2 / half
    for at in layers:
        factor = 1 / (spreads[at] * len(layers) * half)
        w, b = found[method, at]
        layer = setting.gate_layers[at]
        weights[layer] = (factor * w).float()
        bias += factor * b - float(weights[layer].double() @ setting.center[layer].double())
    *earlier, layer = weights
    far = None
    if setting.rank:
        far = distance(setting, past[0], past[1], layers[-1], _sketch_noise(setting, noise))
    if far is not None:
        far = replace(far, means=(far.means.double() + setting.center[layer].double()).float())
    areas = {name: auroc(*pair) for name, pair in by_label.items()}
    return Gate(
        layer=layer,
        weight=weights[layer],
        bias=bias,
        threshold=0.0,
        distance=far,
        metadata={
            "method": method,
            "pairs": round(float(past[0]["pairs"])),
            "benign": max(0, round(float(past[0]["benign"]))),
            "candidates": [
                {"method": m, "layer": setting.gate_layers[at], "auroc": area, "error": error}
                for (m, at), (area, error) in areas.items()
            ],
        },
        earlier={other: weights[other] for other in earlier},
    )


def _combine(setting: Setting, gates: Sequence[Gate]) -> Query:
    """A query for the scores and distances of gates."""
    weights = torch.zeros(len(gates), len(setting.gate_layers), setting.width)
    bias = []
    for index, gate in enumerate(gates):
        total = gate.bias
        for layer, weight in gate.weights.items():
            weights[index, setting.gate_layers.index(layer)] = weight
            total += float(weight.double() @ setting.center[layer].double())  # sites subtract the center
        bias.append(total)
    at = torch.tensor([setting.gate_layers.index(gate.layer) for gate in gates])
    tensors = {"weights": weights, "bias": torch.tensor(bias, dtype=torch.float64), "at": at}
    found = [gate.distance for gate in gates]
    distances = [one for one in found if one is not None]
    if len(distances) == len(gates):
        classes, rank = max(len(d.means) for d in distances), max(len(d.basis) for d in distances)
        centers = [setting.center[gate.layer] for gate in gates]
        means = [(d.means.double() - c).float() for d, c in zip(distances, centers, strict=True)]
        tensors["means"] = torch.stack([torch.cat([m, m[:1].expand(classes - len(m), -1)]) for m in means])
        tensors["basis"] = torch.stack([nn.functional.pad(d.basis, (0, 0, 0, rank - len(d.basis))) for d in distances])
        tensors["precision"] = torch.stack(
            [nn.functional.pad(d.precision, (0, rank - len(d.basis))) for d in distances]
        )
        tensors["residual"] = torch.tensor([d.residual_precision for d in distances], dtype=torch.float64)
    return Query("combine", tensors)


def _with_threshold(setting: Setting, scores: torch.Tensor, gate: Gate) -> Gate:
    """The gate with the threshold that the counts state a rate for."""
    harmful, safe = scores[setting.harmful].sum(0), scores[~setting.harmful].sum(0)
    area, error = auroc(harmful, safe)
    chance = p_value(harmful, safe)
    if area < MIN_AUROC or chance > MAX_P:
        raise _NoGate(
            f"no layer separates harmful from safe clips better than chance (AUROC {area:.2f} ± {error:.2f} on clips "
            f"that neither fitted nor chose the detector, p = {chance:.2g}): check the labels, or give more pairs"
        )
    if float(safe.sum()) < needed(setting.target_fpr):
        raise _NoGate(
            f"{safe.sum():.0f} safe clips are too few to state a rate of {setting.target_fpr:.3g}: it takes "
            f"{needed(setting.target_fpr)}; give more requests, or allow a higher rate"
        )
    held_out: dict[str, Any] = {"harmful": [], "safe": [], "distances": {"harmful": [], "safe": []}, "groups": {}}
    for (label, group), histogram in zip(setting.classes, scores, strict=True):
        values = values_of(histogram, upper=label == "safe")
        held_out[label] += values
        held_out["groups"].setdefault(label, []).extend([group] * len(values))
        # a clip beyond the distance limit is in the last bin, whatever its score
        top = edges(BINS, -RANGE, RANGE)[-1] if gate.limit is not None else torch.inf
        far = 2 * gate.limit if gate.limit is not None else 0.0
        held_out["distances"][label] += [far if value > top else 0.0 for value in values]
    metadata = {**gate.metadata, "auroc": area, "auroc_error": error, "p_value": chance, "held_out": held_out}
    fitted = replace(gate, temperature=_temperature(held_out), metadata=metadata)
    try:
        return fitted.with_target_fpr(setting.target_fpr)
    except (SteeringError, CalibrationError) as error_:
        raise _NoGate(f"{error_}, allow a higher false-positive rate, or give more pairs") from None


def _temperature(held_out: dict[str, Any]) -> float:
    """As calibration's: the width of the logistic function that fits held-out scores best.

    Clips beyond the distance limit have no score.
    """
    from sklearn.linear_model import LogisticRegression

    known = {label: [value for value in held_out[label] if value <= RANGE] for label in ("harmful", "safe")}
    if not all(known.values()):
        return 1.0
    scores = torch.tensor(known["harmful"] + known["safe"], dtype=torch.float64)
    labels = torch.tensor([1] * len(known["harmful"]) + [0] * len(known["safe"]))
    slope = float(LogisticRegression(C=1e6).fit(scores[:, None].numpy(), labels.numpy()).coef_[0, 0])
    return 1 / max(slope, 1e-3)
