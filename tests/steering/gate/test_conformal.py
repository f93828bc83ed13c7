"""Thresholds with a stated error rate: the guarantee itself, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sarsteer import AudioLanguageModel, Steering
from sarsteer.errors import ArtifactError, SteeringError
from sarsteer.steering.gate.conformal import conformal_threshold, lowest_rate, needed, stated_rates
from sarsteer.steering.gate.distance import fit_distance
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.reference import MOST_STORED, reference_of, with_traffic
from sarsteer.steering.gate.report import stated
from sarsteer.steering.strength import ResolvedStrength
from tests.steering.test_artifact import rewrite, small_steering

RATES = st.floats(0.01, 0.5)
SCORES = st.lists(st.floats(-5, 5), min_size=1, max_size=150)


@given(scores=SCORES, rate=RATES)
def test_the_rate_holds_for_whichever_request_comes_last(scores: list[float], rate: float) -> None:
    """Any of the n + 1 requests may be the new one, so what counts is the share of them that would be refused."""
    if len(scores) - 1 < needed(rate):
        return
    refused = [score > conformal_threshold([*scores[:i], *scores[i + 1 :]], rate) for i, score in enumerate(scores)]
    assert sum(refused) / len(scores) <= rate + 1e-9


@given(scores=SCORES, rate=RATES)
def test_the_threshold_is_the_lowest_that_holds(scores: list[float], rate: float) -> None:
    if len(scores) < needed(rate):
        with pytest.raises(SteeringError, match=f"takes at least {needed(rate)}"):
            conformal_threshold(scores, rate)
        return
    threshold = conformal_threshold(scores, rate)
    assert threshold in scores
    rank = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)  # the formula of the literature
    assert threshold == sorted(scores)[rank - 1]


def test_the_n_that_a_rate_needs() -> None:
    assert [needed(rate) for rate in (0.5, 0.1, 0.05, 0.01, 0.001)] == [1, 9, 19, 99, 999]
    assert lowest_rate(99) == pytest.approx(0.01)
    assert conformal_threshold(range(99), 0.01) == 98
    with pytest.raises(SteeringError, match=r"98 safe requests are too few to state a rate of 0.01: .* rate of 0.01$"):
        conformal_threshold(range(98), 0.01)


def test_coverage_over_resamplings() -> None:
    """The rate on new requests averages to at most the stated one, and to at least k/(n + 1) of it without ties."""
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(400):
        scores = rng.standard_t(3, 60)
        refused.append((rng.standard_t(3, 200) > conformal_threshold(scores, 0.1)).mean())
    # the mean of 400 rates with a standard deviation of 0.04 is exact to 0.002, here taken three times
    assert np.mean(refused) == pytest.approx(6 / 61, abs=0.006)


def test_groups_each_keep_their_rate() -> None:
    scores, groups = [*range(100), *range(50, 80)], ["everyday"] * 100 + ["borderline"] * 30
    rates = {
        rate.group: rate for rate in stated_rates(scores, groups, {"everyday": 0.02, "borderline": 0.1, "all": 0.2})
    }
    assert {group: rate.n for group, rate in rates.items()} == {"everyday": 100, "borderline": 30, "all": 130}
    assert (rates["everyday"].threshold, rates["borderline"].threshold) == (98, 77)
    for limits, match in (
        ({"music": 0.1}, "no safe request is in the group 'music'; the groups are borderline, everyday"),
        ({}, "no rate was given"),
        ({"borderline": 0.01}, "30 safe borderline requests are too few"),
    ):
        with pytest.raises(SteeringError, match=match):
            stated_rates(scores, groups, limits)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, math.nan, True])
def test_bad_rates(rate: float) -> None:
    with pytest.raises(SteeringError, match="must be between 0 and 1"):
        conformal_threshold([0.0] * 50, rate)


@given(
    requests=st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=5), min_size=2, max_size=40),
    rate=RATES,
)
def test_the_rate_holds_for_a_clip_of_whichever_request_comes_last(requests: list[list[float]], rate: float) -> None:
    """Requests in several voices: the share over the new request, and over its clips, that would be refused."""
    if len(requests) - 1 < needed(rate):
        return
    refused = []
    for new, clips in enumerate(requests):
        others = [(score, i) for i, scores in enumerate(requests) if i != new for score in scores]
        threshold = conformal_threshold([s for s, _ in others], rate, requests=[i for _, i in others])
        refused.append(np.mean([score > threshold for score in clips]))
    assert np.mean(refused) <= rate + 1e-9


def test_clips_of_one_request_count_once() -> None:
    twice = [float(score) for score in range(50) for _ in range(2)]
    requests = [row // 2 for row in range(100)]
    assert conformal_threshold(twice, 0.1, requests=requests) == conformal_threshold(range(50), 0.1)
    with pytest.raises(SteeringError, match=r"50 safe requests are too few to state a rate of 0.01"):
        conformal_threshold(twice, 0.01, requests=requests)
    (everyday,) = stated_rates(twice, ["everyday"] * 100, {"everyday": 0.1}, requests)
    assert everyday.n == 50
    gate = calibrated(requests={"harmful": list(range(40)), "safe": [row // 2 for row in range(40)]})
    with pytest.raises(SteeringError, match="20 safe requests are too few"):
        gate.with_target_fpr(0.04)
    assert gate.with_target_fpr(0.05).stated[0].n == 20
    with pytest.raises(SteeringError, match="50 safe requests are too few"):
        with_traffic(calibrated(), twice, requests=requests)


def test_requests_beyond_the_limit_count_as_refused() -> None:
    scores = [0.0] * 97 + [math.inf, math.nan]
    assert conformal_threshold(scores, 0.03) == 0.0
    with pytest.raises(SteeringError, match=r"2 of 99 safe requests are beyond .* a rate of 0.02 allows 1"):
        conformal_threshold(scores, 0.02)


# ---- in a gate -------------------------------------------------------------------------------------------------------


def calibrated(**more: object) -> Gate:
    """A gate with held-out scores of 40 harmful and 40 safe clips, half of them everyday requests."""
    rng = np.random.default_rng(0)
    held_out = {
        "harmful": (1 + rng.standard_normal(40)).tolist(),
        "safe": (-1 + rng.standard_normal(40)).tolist(),
        "groups": {"harmful": ["twins"] * 40, "safe": ["twins"] * 20 + ["everyday"] * 20},
        **more,
    }
    return Gate(1, torch.ones(4), 0.0, 0.5, metadata={"held_out": held_out})


def test_a_gate_states_what_its_threshold_was_set_for() -> None:
    gate = calibrated().with_target_fpr({"everyday": 0.1, "all": 0.2})
    assert [(rate.group, rate.n, rate.max_refused) for rate in gate.stated] == [("everyday", 20, 0.1), ("all", 40, 0.2)]
    assert gate.threshold == max(rate.threshold for rate in gate.stated)
    assert "held-out safe clips of calibration, approximately" in stated(gate)[0]
    assert gate.with_threshold(0.1).stated == [], "set by hand"
    assert Gate.from_parts(gate.header, gate.tensors).stated == gate.stated


def test_traffic_sets_an_exact_rate_and_is_the_reference() -> None:
    traffic = np.random.default_rng(1).normal(-1, 0.5, 500).tolist()
    gate = with_traffic(calibrated(), traffic, max_refused=0.01, source="mine.jsonl")
    assert sum(score > gate.threshold for score in traffic) == 4
    reference = reference_of(gate)
    assert (sorted(traffic), 0.01, 0.0) == (list(reference.scores), reference.max_refused, reference.beyond)
    assert "500 requests of mine.jsonl" in stated(gate)[0]
    many = with_traffic(calibrated(), np.linspace(-3, 1, 9999).tolist(), max_refused=0.01)
    assert len(many.metadata["traffic"]["scores"]) == MOST_STORED
    assert (reference_of(many).scores[0], reference_of(many).scores[-1]) == (-3, 1)
    again = gate.with_target_fpr(0.1)
    assert "traffic" not in again.metadata
    assert reference_of(again, "everyday").source == "40 held-out safe clips of calibration, group everyday"
    with pytest.raises(SteeringError, match="would steer none of them"):
        with_traffic(calibrated(), [9.0] * 200)


def test_a_threshold_by_hand_has_no_reference() -> None:
    with pytest.raises(SteeringError, match="stores no scores"):
        reference_of(Gate(1, torch.ones(4), 0.0, 0.0))
    with pytest.raises(SteeringError, match="no scores of the group 'music'"):
        reference_of(calibrated(), "music")


def test_clips_beyond_the_limit_count_in_calibration() -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    distance = fit_distance(rows, torch.arange(30) % 2)
    far = calibrated(distances={"harmful": [1.0] * 40, "safe": [9.0] * 3 + [1.0] * 37})
    gate = replace(far, distance=distance, limit=2.0)
    assert sorted(gate.safe_scores()[0])[-3:] == [math.inf] * 3
    with pytest.raises(SteeringError, match="3 of 40 safe requests are beyond"):
        gate.with_target_fpr(0.05)
    assert gate.with_limit(None).with_target_fpr(0.05).stated[0].max_refused == 0.05


# ---- shadow mode -----------------------------------------------------------------------------------------------------


def test_shadow_mode_adds_nothing_and_says_so() -> None:
    vectors = torch.ones(4, 4)
    shadow = ResolvedStrength(vectors, 0.5, calibrated().with_mode("shadow"))
    assert shadow.shadow
    assert not shadow.deltas.any()
    assert shadow.weakness == "shadow mode: the gate decides, and no request is steered"
    assert shadow.digest != ResolvedStrength(vectors, 0.5, calibrated()).digest
    assert shadow.settings["gate"]["mode"] == "shadow"
    assert not ResolvedStrength(vectors, 0.5, calibrated()).shadow


def test_several_layers_survive_the_file(tmp_path: Path, tiny: AudioLanguageModel) -> None:
    plain = small_steering(tiny)
    weights = torch.randn(3, plain.refusal.shape[1])
    gate = Gate(2, weights[0], 0.1, 0.0, earlier={1: weights[1], 0: weights[2]})
    assert gate.layers == (0, 1, 2)
    path = plain.with_gate(gate).save(tmp_path / "s.safetensors")
    again = Steering.load(path)
    assert again.metadata["format_version"] == 3, "earlier versions would read one layer's part of the score"
    assert again.gate is not None
    assert {layer: w.tolist() for layer, w in again.gate.weights.items()} == {
        layer: w.tolist() for layer, w in gate.weights.items()
    }
    assert again.digest == plain.with_gate(gate).digest
    with pytest.raises(ArtifactError, match="gate is damaged"):
        Steering.load(rewrite(path, {}, **{"gate.earlier_weights": None}))
    for bad in ({"earlier": {2: weights[1]}}, {"earlier": {-1: weights[1]}}, {"earlier": {0: weights[1, :3]}}):
        with pytest.raises(ArtifactError):
            replace(gate, **bad)  # type: ignore[arg-type]
