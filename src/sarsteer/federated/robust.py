"""Sums that no clips can have, and sums that are far from the others'.

Both need sums of single sites, or of cohorts. One masked sum over all sites shows neither who sent what nor how much:
``problem_of`` then finds only what is impossible for all sites together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

from sarsteer.steering.pooled.rounds import DEVIATIONS, RANGE, Query
from sarsteer.steering.pooled.setting import Setting
from sarsteer.steering.pooled.sums import Layout, Sums

T = TypeVar("T")
FAR = 3.0
"""Sums farther from the geometric median than this multiple of the median distance are left out."""
CHANCE = 0.6
"""Shares of counts may also differ by this much times √(1/n) by chance: four times what scores of one label vary by."""
_STEPS = 100


def problem_of(query: Query, layout: Layout, sums: Sums, records: int, slack: float) -> str | None:
    """Why no ``records`` clips can have these sums, in words; None if they can.

    Args:
        query: what was asked.
        layout: the parts of the answer.
        sums: over one site, a cohort, or all sites.
        records: the most records that they can be of.
        slack: what rounding or noise adds to an element, in units.

    """
    if query.name == "statistics":
        count = max(float(sums["pairs"]), 0.0) + max(float(sums["benign"]), 0.0)
        if min(float(sums["pairs"]), float(sums["benign"]), float(sums["fit_count"].min())) < -slack - 1e-6:
            return "it has a negative number of clips"
        if float(sums["fit_count"].sum()) > 2 * count + slack + 1e-6:
            return "more clips fit the gate than there are"
        records = min(records, round(count))
    for name, part in layout.items():
        values = sums[name] / part.unit
        room = slack * values.numel() ** 0.5 + 1e-6
        if name in ("scores", "unlimited", "norms", "distances") and float(values.min()) < -slack - 1e-6:
            return f"its {name} have negative counts"
        if float(values.norm()) > records * part.length * (1 + 1e-9) + room:
            return f"its {name} are longer than {records} records allow"
    return None


def outliers(setting: Setting, query: Query, sums: Mapping[T, Sums]) -> list[T]:
    """Whose means are far from the geometric median of all (Pillutla, Kakade and Harchaoui, 2022); none of two.

    The means are those of the answer to ``query``: per pair and per clip, in units of the radius, so that large sites
    do not differ from small ones.
    """
    found = {name: _features(setting, query, one) for name, one in sums.items()}
    far: set[T] = set()
    chance = 0.0 if query.name == "statistics" else CHANCE
    for kind in {kind for features in found.values() for kind in features}:
        points = {name: features[kind] for name, features in found.items() if kind in features}
        if len(points) >= 3:
            far |= _far(points, chance)
    return [name for name in sums if name in far]


def _far(points: Mapping[T, tuple[float, torch.Tensor]], chance: float) -> set[T]:
    """Those that are ``FAR`` times as far from the geometric median as most, given how many clips they have."""
    x = torch.stack([point for _, point in points.values()])
    counts = torch.tensor([count for count, _ in points.values()], dtype=torch.float64)
    median = x.median(0).values
    for _ in range(_STEPS):  # Weiszfeld
        weights = 1 / (x - median).norm(dim=1).clamp(min=1e-9)
        median = (weights[:, None] * x).sum(0) / weights.sum()
    # the mean of n clips varies by 1/√n, and the median by about as much as a typical site's mean
    distances = (x - median).norm(dim=1) / (1 / counts + 1 / counts.median()).sqrt()
    limit = max(FAR * float(distances.median()), chance * x.shape[1] ** 0.5, 1e-9)
    return {name for name, distance in zip(points, distances.tolist(), strict=True) if distance > limit}


def _features(setting: Setting, query: Query, sums: Sums) -> dict[str, tuple[float, torch.Tensor]]:
    """What is compared, by kind, with the number of clips; a site with only safe clips has only some kinds."""
    if query.name == "statistics":
        pairs, radius = float(sums["pairs"]), setting.radius.double()[:, None]
        if pairs < 0.5:
            return {}
        means = (sums["difference"], sums["harmful"] - sums["safe"])
        return {"pairs": (pairs, torch.cat([(one / pairs / radius).flatten() for one in means]))}
    if query.name == "spread":
        norms = sums["norms"]
        count = float(norms[0].sum())
        return {} if count < 0.5 else {"norms": (count, _below(norms, DEVIATIONS).flatten())}
    labels = {"harmful": setting.harmful, "safe": ~setting.harmful}
    counts = {
        f"{label} {name}": sums[name][..., chosen, :].sum(-2)
        for name in ("scores", "unlimited")
        if name in sums
        for label, chosen in labels.items()
    }
    found = {
        label: (float(one.flatten(0, -2)[0].sum()) if one.ndim > 1 else float(one.sum()), _below(one, RANGE).flatten())
        for label, one in counts.items()
    }
    return {label: pair for label, pair in found.items() if pair[0] >= 0.5}


def _below(counts: torch.Tensor, reach: float) -> torch.Tensor:
    """The mean over scores of the share of clips below them: few clips give a noisy share, not a small one.

    In units of a histogram from −4 to 4, whatever its ``reach``.
    """
    return (counts / counts.sum(-1, keepdim=True).clamp(min=1)).cumsum(-1).mean(-1) * reach / 4
