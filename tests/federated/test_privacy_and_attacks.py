"""Noise and its accounting; dishonest sites, with and without a defense."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sarsteer.federated import privacy
from sarsteer.federated.errors import FederationError
from sarsteer.federated.privacy import Privacy
from sarsteer.federated.simulate import keys_for, simulate
from sarsteer.federated.site import Tamper
from sarsteer.steering.gate.nested import auroc
from sarsteer.steering.pooled.rounds import Query, layout_of
from sarsteer.steering.pooled.setting import Rows
from sarsteer.steering.pooled.sums import Sums
from tests.federated.sites import plan_of, rows_of, setting_of

KEYS = keys_for(6)
NAMES = list(KEYS)
ROWS = {name: rows_of(40, 10, index) for index, name in enumerate(NAMES)}


def area(gate: object, seed: int = 77) -> float:
    new = rows_of(200, seed=seed)
    scores = torch.cat([gate.score(new.harmful), gate.score(new.safe)])  # type: ignore[attr-defined]
    return auroc(np.repeat([1, 0], 200), scores.numpy())


def test_the_accountant_s_epsilon_is_between_the_exact_one_and_its_bound() -> None:
    """One Gaussian mechanism with σ = 2, and five with σ = 2√5, spend the same; the exact ε is known."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def delta_of(epsilon: float) -> float:
        return float(norm.cdf(0.25 - 2 * epsilon) - math.exp(epsilon) * norm.cdf(-0.25 - 2 * epsilon))

    exact = brentq(lambda epsilon: delta_of(epsilon) - 1e-5, 0.01, 20)
    one, five = Privacy(2.0, 1e-5, 1).epsilon(), Privacy(2 * math.sqrt(5), 1e-5, 5).epsilon()
    assert one == pytest.approx(five, rel=1e-6)
    assert exact < one < 1.2 * exact  # Rényi accounting gives up about a tenth
    assert Privacy(2.0, 1e-5, 5).epsilon(2) < Privacy(2.0, 1e-5, 5).epsilon()


def test_the_noise_for_an_epsilon() -> None:
    for epsilon in (0.5, 8.0):
        found = Privacy.for_epsilon(epsilon, 1e-5, 5)
        assert 0.99 * epsilon < found.epsilon() <= epsilon
    for epsilon, delta in ((0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(FederationError, match="must be"):
            Privacy.for_epsilon(epsilon, delta, 5)


def test_the_noise_of_all_sites_is_what_the_accountant_counts() -> None:
    """A round has P parts; in units of each part's length the noise is σ√P, so that the round is one mechanism."""
    layout = layout_of(setting_of(0), Query("statistics"))
    expected = privacy.deviations(layout, 3.0)
    total = sum(privacy.noise(layout, 3.0, 4) for _ in range(4))
    z = total / expected  # a standard normal for each of n elements
    assert abs(z.mean()) < 5 / len(z) ** 0.5
    assert abs(z.std() - 1) < 5 / (2 * len(z)) ** 0.5
    lengths = [part.length for part in layout.values()]
    assert expected.min() == pytest.approx(3.0 * len(layout) ** 0.5 * min(lengths))
    assert not np.array_equal(privacy.noise(layout, 3.0, 4), privacy.noise(layout, 3.0, 4))


def test_privacy_is_recorded_and_costs_accuracy() -> None:
    tight = setting_of(0).radius / 12  # activations are at most about 8 from the center
    errors = {}
    exact, _ = simulate(plan_of(KEYS), KEYS, ROWS)
    for epsilon in (1e4, 8.0):
        setting = setting_of(0).__class__(**{**vars(setting_of(0)), "radius": tight})
        plan = plan_of(KEYS, setting, privacy=Privacy.for_epsilon(epsilon, 1e-5, 5))
        steering, _ = simulate(plan, KEYS, ROWS)
        spent = steering.metadata["federated"]["privacy"]
        assert spent["epsilon"] <= epsilon
        assert spent["delta"] == 1e-5
        errors[epsilon] = float((steering.refusal - exact.refusal).norm() / exact.refusal.norm())
        assert steering.max_k == 0  # no second moments were sent
    assert errors[1e4] < 0.1 < errors[8.0]


def flipped(rows: Rows) -> Rows:
    """A site that calls harmful requests safe, and safe ones harmful."""
    return Rows(rows.safe, rows.prompted, rows.harmful, rows.benign, rows.pair_items, rows.benign_items)


def scaled(factor: float) -> Tamper:
    """A site that sends its differences times ``factor``."""

    def tamper(query: Query, sums: Sums) -> Sums:
        return Sums({n: factor * t if n == "difference" else t for n, t in sums.items()})

    return tamper


def false_scores(safe: float | None = None, other_rounds: bool = False) -> Tamper:
    """A site whose safe clips all score highest, so that the gate opens never: its own clips, or ``safe`` more.

    With ``other_rounds`` it has them in the first round, too.
    """

    def tamper(query: Query, sums: Sums) -> Sums:
        changed = dict(sums)
        if query.name == "threshold":
            for name in sums:  # with the distance limit, and without
                scores = sums[name].clone()
                scores[2:] = 0
                scores[2:, -2] = sums[name][2:].sum(-1)
                scores[-1, -2] += safe or 0.0
                changed[name] = scores
        elif other_rounds and query.name == "statistics":
            changed["benign"] = sums["benign"] + (safe or 0.0)
        return Sums(changed)

    return tamper


def test_a_site_that_flips_labels_is_found_without_masks_and_not_with_them() -> None:
    rows = {**ROWS, NAMES[0]: flipped(ROWS[NAMES[0]])}
    honest = area(simulate(plan_of(KEYS), KEYS, ROWS)[0].gate)
    masked, _ = simulate(plan_of(KEYS), KEYS, rows)
    robust, _ = simulate(plan_of(KEYS, masked=False, min_sites=3, robust=True), KEYS, rows)
    first = robust.metadata["federated"]["rounds"][0]
    assert first["left_out"] == {NAMES[0]: "its sums are far from those of the others"}
    assert area(robust.gate) > honest - 0.02
    assert masked.metadata["federated"]["rounds"][0]["left_out"] == {}


def test_scaled_sums_break_masked_vectors_up_to_the_bound_and_no_robust_ones() -> None:
    exact = simulate(plan_of(KEYS, gate=False), KEYS, ROWS)[0].refusal
    tamper = {NAMES[0]: scaled(-20.0)}
    masked, _ = simulate(plan_of(KEYS, gate=False), KEYS, ROWS, tamper=tamper)
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(masked.refusal, exact, dim=1).max()) < 0  # the vectors point away from refusal
    plain, _ = simulate(plan_of(KEYS, masked=False, min_sites=3, robust=True, gate=False), KEYS, ROWS, tamper=tamper)
    assert float(cosine(plain.refusal, exact, dim=1).min()) > 0.99
    # beyond what its clips allow, a site is found without a robust rule, too
    huge = {NAMES[0]: scaled(-2000.0)}
    bounded, _ = simulate(plan_of(KEYS, masked=False, min_sites=3, gate=False), KEYS, ROWS, tamper=huge)
    assert "longer than" in bounded.metadata["federated"]["rounds"][0]["left_out"][NAMES[0]]
    with pytest.raises(FederationError, match="longer than"):  # of a masked sum, only that somebody lied is known
        simulate(plan_of(KEYS, gate=False), KEYS, ROWS, tamper={NAMES[0]: scaled(-20000.0)})


def test_cohorts_find_the_cohort_of_a_dishonest_site() -> None:
    keys = keys_for(12)
    rows = {name: rows_of(30, 0, index) for index, name in enumerate(keys)}
    plan = plan_of(keys, cohorts=4, robust=True, min_sites=9, gate=False)
    bad = next(iter(keys))
    steering, _ = simulate(plan, keys, rows, tamper={bad: scaled(-20.0)})
    left = steering.metadata["federated"]["rounds"][0]["left_out"]
    assert bad in left
    assert set(left) == set(next(cohort for cohort in plan.cohorts_of(list(keys)) if bad in cohort))


def test_false_scores_close_the_gate_unless_sites_are_compared() -> None:
    tamper = {NAMES[0]: false_scores()}
    masked, _ = simulate(plan_of(KEYS), KEYS, ROWS, tamper=tamper)
    robust, _ = simulate(plan_of(KEYS, masked=False, min_sites=3, robust=True), KEYS, ROWS, tamper=tamper)
    new = rows_of(200, seed=78)
    assert robust.gate is not None
    assert float((robust.gate.strength(new.harmful) > 0).float().mean()) > 0.5
    assert NAMES[0] in robust.metadata["federated"]["rounds"][4]["left_out"]
    assert masked.gate is None or float((masked.gate.strength(new.harmful) > 0).float().mean()) < 0.3


def test_more_scores_than_clips_are_found_under_one_mask() -> None:
    """Later rounds must count the clips of the first one, and a server that was killed remembers how many they were."""
    tamper = {NAMES[0]: false_scores(1000.0)}
    with pytest.raises(FederationError, match=r"count 10\d\d other safe clips, and the first one 60"):
        simulate(plan_of(KEYS), KEYS, ROWS, tamper=tamper)
    single, _ = simulate(plan_of(KEYS, masked=False, min_sites=3), KEYS, ROWS, tamper=tamper)
    assert list(single.metadata["federated"]["rounds"][4]["left_out"]) == [NAMES[0]]
    one = {NAMES[0]: false_scores(1.0)}
    with pytest.raises(FederationError, match="and the first one 60"):
        simulate(plan_of(KEYS), KEYS, ROWS, tamper=one)
    # noise of this size hides one clip, and not a thousand; honest sites are never refused for it
    private = plan_of(KEYS, setting_of(0), privacy=Privacy(0.02, 1e-5, 5))
    simulate(private, KEYS, ROWS)
    with pytest.raises(FederationError, match="other safe clips"):
        simulate(private, KEYS, ROWS, tamper={NAMES[0]: false_scores(1000.0)})


def test_counts_that_agree_in_all_rounds_are_believed() -> None:
    """What cannot be found under one mask: a site that claims the clips in the first round already."""
    tamper = {NAMES[0]: false_scores(1000.0, other_rounds=True)}
    masked, _ = simulate(plan_of(KEYS), KEYS, ROWS, tamper=tamper)
    assert masked.gate is None


@pytest.mark.parametrize(
    ("round_", "change"),
    [
        ("statistics", lambda sums: {"fit_count": sums["fit_count"] + torch.eye(5)[0]}),
        ("statistics", lambda sums: {"fit_count": sums["fit_count"] + 100 * torch.eye(5)[4]}),
        ("spread", lambda sums: {"norms": 2 * sums["norms"]}),
        ("choose", lambda sums: {"scores": 2 * sums["scores"]}),
        ("choose", lambda sums: {"scores": torch.cat([2 * sums["scores"][:1], sums["scores"][1:]])}),
        ("combine", lambda sums: {"scores": torch.zeros_like(sums["scores"])}),
        ("combine", lambda sums: {"distances": 2 * sums["distances"]}),
        ("threshold", lambda sums: {"scores": torch.zeros_like(sums["scores"])}),
        ("threshold", lambda sums: {"unlimited": 2 * sums["unlimited"]}),
    ],
)
def test_counts_that_contradict_the_first_round_s(round_: str, change: Any) -> None:
    def tamper(query: Query, sums: Sums) -> Sums:
        return Sums({**sums, **change(sums)}) if query.name == round_ else sums

    found, _ = simulate(plan_of(KEYS, masked=False, min_sites=3), KEYS, ROWS, tamper={NAMES[0]: tamper})
    left = [name for one in found.metadata["federated"]["rounds"] for name in one["left_out"]]
    assert left == [NAMES[0]]
    assert found.gate is not None
