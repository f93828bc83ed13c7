"""The parts of a search, each by itself: splits, spaces, fronts, refusal tokens, and the study that outlives a kill."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("optuna")

import optuna

import sarsteer
from sarsteer.data.manifest import Item
from sarsteer.data.overlap import shared_items
from sarsteer.data.pairs import Pair, Pairs
from sarsteer.errors import SarsteerError, SteeringError, TuningError
from sarsteer.stats.intervals import upper_bound
from sarsteer.stats.rates import rate
from sarsteer.steering.artifact import Steering
from sarsteer.steering.file_format import FORMAT_VERSION, GATED_VERSION
from sarsteer.tuning.front import Limits, Point, _bound, choose, keeps, next_on_front, pareto_front, unproven
from sarsteer.tuning.gates import fit_gates, gate_layers, refit
from sarsteer.tuning.measure import Measured
from sarsteer.tuning.refusal_tokens import refusal_tokens
from sarsteer.tuning.setting import Setting, above_gate, describe_layers, own_gate
from sarsteer.tuning.space import PUSH, Space
from sarsteer.tuning.split import MIN_PAIRS, request_groups, split_pairs
from sarsteer.tuning.study import SURROGATE, Memory

# ---- weights of layers, and the closed form --------------------------------------------------------------------------


def test_weights_scale_each_layer_and_travel_with_the_file(steering: Steering, tmp_path: Path) -> None:
    depth = len(steering.refusal)
    weights = [0.0, 0.5, *[1.0] * (depth - 2)]
    plain, weighted = steering.vectors(3, 0.7), steering.vectors(3, 0.7, weights)
    assert torch.equal(weighted, plain * torch.tensor(weights)[:, None])
    assert torch.equal(steering.vectors(3, 0.7, [1.0] * depth), plain)  # to the bit: the paper's setting is untouched
    chosen = steering.with_defaults(alpha=0.2, k=3, lambda_=0.7, layer_weights=weights)
    loaded = Steering.load(chosen.save(tmp_path / "weighted.safetensors"))
    assert loaded.default_layer_weights == tuple(weights)
    assert torch.equal(loaded.vectors(), weighted)
    assert loaded.digest == chosen.digest
    assert loaded.with_defaults(alpha=0.1).default_layer_weights == tuple(weights)
    # a reader that knows no weights would steer every layer: it must refuse the file
    ungated = steering.with_gate(None)
    assert ungated.metadata["format_version"] == FORMAT_VERSION
    alone = ungated.with_defaults(layer_weights=weights)
    assert alone.metadata["format_version"] == GATED_VERSION
    assert Steering.load(alone.save(tmp_path / "alone.safetensors")).gate is None


def test_attaching_steers_by_the_default_weights(embedded: sarsteer.AudioLanguageModel, steering: Steering) -> None:
    weights = [0.0] * 5 + [0.5] * (len(steering.refusal) - 5)
    with steering.with_defaults(layer_weights=weights).on(embedded, alpha=0.3, k=0) as handle:
        assert torch.equal(handle.vectors, steering.refusal * torch.tensor(weights)[:, None])


@pytest.mark.parametrize("weights", [[1.0], [float("nan")] * 8, [float("inf")] * 8])
def test_weights_that_do_not_fit_are_refused(steering: Steering, weights: list[float]) -> None:
    with pytest.raises(SteeringError, match="one per decoder layer"):
        steering.vectors(0, 1.0, weights)
    with pytest.raises(SteeringError, match="one per decoder layer"):
        steering.with_defaults(layer_weights=weights)


def test_a_layer_that_is_not_steered_is_no_finding(steering: Steering) -> None:
    rows = steering.with_defaults(layer_weights=[0.0] * 7 + [1.0]).report(0.1, 2)
    assert [row.relative_strength == 0 for row in rows] == [True] * 7 + [False]
    assert [row.kept for row in rows] == [row.kept for row in steering.report(0.1, 2)]


def test_the_closed_form_is_what_it_says(steering: Steering) -> None:
    found = steering.suggest()
    rows = steering.report(found.alpha, found.k, 1.0)
    strengths = torch.tensor([row.relative_strength for row in rows], dtype=torch.float64)
    assert float(strengths.quantile(0.5)) == pytest.approx(found.relative_strength, rel=0.01)  # α has three digits
    explained = torch.tensor([row.explained for row in rows], dtype=torch.float64).quantile(0.5)
    assert float(explained) == pytest.approx(found.explained)
    assert found.kept >= 0.5
    assert found.k == 0 or found.explained >= 0.5 or found.k < steering.max_k
    silent = replace(steering, refusal=torch.zeros_like(steering.refusal))
    assert silent.suggest().alpha == 0


# ---- the split -------------------------------------------------------------------------------------------------------


def _pairs(n: int, same: dict[int, int] | None = None) -> Pairs:
    """Written pairs; ``same`` gives pair i the safe request of pair j."""
    rows = []
    for i in range(n):
        harmful = Item(f"h{i}", f"harmful number {i}", "harmful", modality="text", pair=str(i))
        text = f"safe number {(same or {}).get(i, i)}"
        rows.append(Pair(str(i), harmful, Item(f"s{i}", text, "safe", modality="text", pair=str(i))))
    return Pairs(rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.3, 0.5, 0.6]))
def test_a_split_shares_nothing_and_loses_nothing(seed: int, share: float) -> None:
    pairs = _pairs(40, {1: 0, 2: 1, 7: 30, 8: 31})
    calibrating, tuning = split_pairs(pairs, share, seed)
    assert sorted(p.id for p in (*calibrating, *tuning)) == sorted(p.id for p in pairs)
    assert not shared_items([*calibrating.harmful, *calibrating.safe], [*tuning.harmful, *tuning.safe])
    assert len(tuning) <= round(40 * share)
    again = split_pairs(pairs, share, seed)
    assert [p.id for p in again[1]] == [p.id for p in tuning]


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(TuningError, match="each needs 10 at least"):
        split_pairs(_pairs(2 * MIN_PAIRS - 1), 0.5, 0)
    with pytest.raises(TuningError, match="each needs 10 at least"):
        split_pairs(_pairs(40, dict.fromkeys(range(1, 40), 0)), 0.5, 0)  # one request in all of them: one group


# ---- refusal tokens --------------------------------------------------------------------------------------------------


def test_refusal_tokens_are_those_that_gain() -> None:
    plain = torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.1, 0.0, 0.9, 0.0]])
    prompted = torch.tensor([[0.6, 0.3, 0.1, 0.0], [0.5, 0.1, 0.4, 0.0]])
    found = refusal_tokens(prompted, plain)
    assert found.ids == (0, 1)  # the largest gain first; what loses is not among them
    assert found.gains == pytest.approx((0.45, 0.15))
    assert found.change == pytest.approx(0.6)  # the total variation between the two means
    assert found.usable
    assert not refusal_tokens(plain, plain).usable


# ---- fronts ----------------------------------------------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points, lambda p: (float(p[0]), float(p[1])))
    beaten = {p for p in points for q in points if q[0] <= p[0] and q[1] <= p[1] and q != p}
    assert set(front) == set(points) - beaten
    assert len(front) == len(set(front))
    assert front == sorted(front, key=lambda p: p[1])


@given(st.integers(1, 40), st.data())
def test_bisection_finds_where_the_limits_end(n: int, data: st.DataObject) -> None:
    last, guess = data.draw(st.integers(-1, n - 1)), data.draw(st.integers(0, n - 1))
    costs = [i / n for i in range(n)]
    within: dict[int, bool] = {}
    while (index := next_on_front(costs, within, guess, n - len(within))) is not None:
        assert index not in within
        within[index] = index <= last
        if len(within) == 11:  # a guess, log2(40) doublings, and as many halvings of the last one's half
            assert last < 0 or within.get(last), "the last point that keeps the limits is found"
    assert len(within) == n
    assert next_on_front(costs, {}, guess, 0) is None


@given(st.integers(1, 40), st.data())
def test_while_nothing_fails_steps_double(n: int, data: st.DataObject) -> None:
    """What breaks everything lies at the end of a front: it is not measured before what lies near the guess."""
    guess = data.draw(st.integers(0, n - 1))
    costs, within, order = [i / n for i in range(n)], dict[int, bool](), list[int]()
    while (index := next_on_front(costs, within, guess, 1)) is not None and len(within) < n:
        order.append(index)
        within[index] = True
    rising = [guess]
    while rising[-1] < n - 1:
        rising.append(min(guess + 2 * (rising[-1] - guess) + 1, n - 1))
    assert order[: len(rising)] == rising


def test_a_starting_point_on_the_front_does_not_replace_the_guess() -> None:
    assert next_on_front([0.1, 0.2, 0.3, 0.4, 0.5], {0: True}, 2, 1) == 2
    assert next_on_front([0.1, 0.2, 0.3, 0.4, 0.5], {0: True, 1: False}, 2, 1) != 2


def _measured(asr: int, over: int, broken: int) -> Measured:
    """Of twenty harmful and twenty safe requests."""
    harmful = ["complied"] * asr + ["broken"] * broken + ["refused"] * (20 - asr - broken)
    return Measured(tuple(harmful), tuple(["refused"] * over + ["complied"] * (20 - over)))


def _point(alpha: float, asr: int, over: int, broken: int) -> Point:
    return Point(Setting(alpha, 0, 1.0, (1.0,) * 4), _measured(asr, over, broken))


def test_the_choice_keeps_the_limits() -> None:
    undefended = _measured(18, 1, 0)
    points = [
        _point(0.1, 15, 1, 0),
        _point(0.2, 9, 2, 0),
        _point(0.25, 9, 2, 0),
        _point(0.3, 4, 3, 0),
        _point(0.4, 0, 2, 4),
    ]
    limits = Limits(0.05, 0.01, 0.5)
    chosen = choose(points, undefended, limits)
    assert chosen.setting.alpha == 0.2  # one request more than undefended is 5 points; of equals the weaker
    assert keeps(chosen.measured, undefended, limits)
    assert choose(points, undefended, Limits(0.10, 0.01, 0.5)).setting.alpha == 0.3
    assert choose(points, undefended, Limits(0.05, 0.10, 0.5)).setting.alpha == 0.4


def test_what_cannot_be_kept_is_said_with_the_nearest() -> None:
    undefended = _measured(18, 0, 0)
    with pytest.raises(
        TuningError, match=r"no setting of 2 measured keeps .*nearest is α 0.3.*over-refusal \+15.0 points"
    ):
        choose([_point(0.3, 9, 3, 0), _point(0.5, 0, 12, 4)], undefended, Limits(0.05, 0.01, 0.5))
    with pytest.raises(
        TuningError,
        match=r"over-refusal \+5\.0 points \(at most \+10\.9 points with 80 % confidence\), broken 0\.0 %; allow",
    ):
        choose([_point(0.3, 9, 1, 0)], undefended, Limits(0.05, 0.01, 0.8))
    with pytest.raises(TuningError, match=r"lowers the ASR .*nearest is α 0.5"):
        choose([_point(0.0, 18, 0, 0), _point(0.5, 2, 3, 0)], undefended, Limits(0.05, 0.01, 0.5))
    with pytest.raises(TuningError, match="between 0 and 100"):
        Limits(-0.01, 0.01)
    for confidence in (0.4, 1.0, float("nan")):
        with pytest.raises(TuningError, match=r"confidence must be from 0\.5"):
            Limits(0.05, 0.01, confidence)


def test_limits_are_kept_with_a_confidence() -> None:
    """Of twenty safe requests one refused may be 11 % of all, by Wilson's bound at 80 %; none is kept by any limit."""
    undefended = _measured(18, 0, 0)
    one_more, as_before = _measured(4, 1, 0), _measured(9, 0, 0)
    assert keeps(one_more, undefended, Limits(0.05, 0.01, 0.5))
    assert not keeps(one_more, undefended, Limits(0.05, 0.01, 0.8))
    assert keeps(one_more, undefended, Limits(0.12, 0.01, 0.8))
    assert keeps(as_before, undefended, Limits(0.0, 0.0, 0.99))
    # what the undefended model breaks, steering need not mend
    assert keeps(_measured(4, 0, 2), _measured(18, 0, 2), Limits(0.05, 0.05, 0.99))
    assert str(Limits(confidence=0.8)).endswith("(confidence 80 %)")


def test_variants_of_one_request_count_once_against_the_limits() -> None:
    """Five voices of four requests say no more than four requests do."""
    groups = tuple(i // 5 for i in range(20))
    alone, together = _measured(4, 5, 0), replace(_measured(4, 5, 0), groups=groups)
    assert (alone.over_refusal.n, alone.over_refusal.clusters) == (20, None)
    assert (together.over_refusal.n, together.over_refusal.clusters) == (20, 4)
    assert together.over_refusal.value == alone.over_refusal.value
    assert together.broken.clusters == 8, "a harmful request and its safe twin are two"
    assert together.over_refusal.high > alone.over_refusal.high
    limits, undefended = Limits(0.35, 0.1, 0.8), _measured(18, 0, 0)
    assert keeps(alone, undefended, limits)
    assert not keeps(together, undefended, limits)
    assert Measured.from_json(together.to_json()) == together
    # what could not be read is left out of n, and of its group
    unread = replace(together, safe=(None, *together.safe[1:]))
    assert (unread.over_refusal.n, unread.over_refusal.clusters) == (19, 4)


def test_the_groups_of_pairs_are_told_apart() -> None:
    found = request_groups(_pairs(12, {1: 0, 2: 0, 7: 3}))
    assert len(found) == 12
    assert len({*found}) == 12 - 3
    assert found[0] == found[1] == found[2]
    assert found[3] == found[7] != found[0]


def test_what_so_few_requests_cannot_show_is_noted() -> None:
    """Of twenty safe requests none refused may be 3.4 % by Wilson's bound at 80 %, of forty none broken 1.7 %."""
    undefended = measured = _measured(18, 0, 0)
    assert keeps(measured, undefended, Limits(0.03, 0.01, 0.8))
    over, broken = unproven(measured, undefended, Limits(0.03, 0.01, 0.8))
    assert over.startswith("over-refusal: 0.0 %")
    assert "up to +3.4 points (confidence 80 %), beyond the 3 allowed" in over
    assert broken.startswith("broken answers: 0.0 %")
    assert "up to 1.7 % (confidence 80 %), beyond the 1 allowed" in broken
    assert unproven(measured, undefended, Limits(0.05, 0.02, 0.8)) == []
    assert unproven(measured, undefended, Limits(0.0, 0.0, 0.5)) == []
    # a bound that adds to an undefended rate says what may be added
    (again,) = unproven(_measured(18, 4, 0), _measured(18, 4, 0), Limits(0.05, 0.5, 0.8))
    assert "up to +8.5 points" in again


@given(st.integers(0, 50), st.floats(0.5, 0.999))
def test_the_upper_bound_is_wilsons(hits: int, confidence: float) -> None:
    from scipy.stats import binomtest

    bound = upper_bound(hits / 50, 50, confidence)
    # a two-sided interval of 2c − 1 has its upper end at the one-sided confidence c
    wanted = binomtest(hits, 50).proportion_ci(max(2 * confidence - 1, 1e-12), method="wilson").high
    assert bound == pytest.approx(wanted, abs=1e-6)
    assert hits / 50 - 1e-12 <= bound <= 1
    estimate = rate([True] * hits + [False] * (50 - hits))
    assert _bound(estimate, confidence) == pytest.approx(bound, abs=1e-9), "n is what the interval was made of"


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_the_picture_marks_what_does_not_keep_the_limits() -> None:
    """One more of twenty is on the limit of five points, and beyond it with a confidence."""
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    from sarsteer.tuning.plots import draw_front
    from sarsteer.tuning.run import Tuned

    chosen, beyond = _point(0.1, 9, 0, 0), _point(0.2, 5, 1, 0)
    tuned = Tuned(None, chosen, (chosen, beyond), _measured(18, 0, 0), ())  # type: ignore[arg-type]
    for confidence, kept in ((0.5, 2), (0.8, 1)):
        left, right, _ = (figure := draw_front(tuned, Limits(0.05, 0.01, confidence), "")).axes
        shown = [text.get_text() for text in left.get_legend().get_texts()]
        assert shown[:2] == [f"{kept} measured, within the limits", f"{2 - kept} measured, beyond them"]
        crosses, dots = right.collections[:2]
        assert (len(crosses.get_offsets()), len(dots.get_offsets())) == (2 - kept, kept)
        pyplot.close(figure)


def test_a_layer_with_no_other_is_not_drawn_at_nothing() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    from sarsteer.tuning.layer_study import LayerRow, LayerStudy
    from sarsteer.tuning.plots import draw_layer_study
    from sarsteer.tuning.surrogate import Scores

    scores = Scores(0.4, 0.1, 0.0)
    study = LayerStudy(_point(0.1, 1, 0, 0).setting, (LayerRow(6, scores, 0.1, None),), scores, scores)
    figure = draw_layer_study(study, "")
    alone, without = ([line for line in axis.lines if line.get_marker() == "o"] for axis in figure.axes)
    assert [list(line.get_ydata()) for line in alone] == [[60.0], [10.0], [0.0]]
    assert all(math.isnan(line.get_ydata()[0]) for line in without)
    assert [text.get_text() for text in figure.axes[1].texts] == ["no other layer is steered"]
    pyplot.close(figure)


# ---- the space -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["all", "range", "weights"])
def test_starting_points_are_drawn_as_given(steering: Steering, layers: Any) -> None:
    space = Space(steering, layers, own_gate(steering))
    for setting in (
        Setting.of(steering, 0.12, 5),
        Setting.of(steering, 0.08, 0),
        Setting.of(steering, 0.3, 3, 0.5, 0.05),
    ):
        drawn = space.draw(optuna.trial.FixedTrial(space.params(setting)))  # type: ignore[arg-type]
        assert drawn == setting


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["all", "range", "weights"]))
def test_what_is_drawn_can_be_steered_with(steering: Steering, seed: int, layers: Any) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    space = Space(steering, layers, own_gate(steering))
    setting = space.draw(study.ask())
    vectors = setting.vectors(steering)
    assert torch.isfinite(vectors).all()
    assert vectors.abs().sum() > 0
    push = setting.alpha * space.push_at_one(setting.k, setting.lambda_, setting.layer_weights)
    assert PUSH[0] * 0.99 <= push <= PUSH[1] * 1.01  # α has three digits
    gate = setting.gate(space.gates)
    assert (gate is None) == (setting.gate_fpr is None)
    if gate is not None:
        assert all(weight == 0 for weight in setting.layer_weights[: gate.layer + 1])
    assert Setting.from_json(setting.to_json()) == setting
    tuned = setting.defaults_of(steering)
    assert tuned.defaults == (setting.alpha, setting.k, setting.lambda_)
    assert tuned.gate_by_default == (gate is not None)
    assert torch.equal(tuned.vectors(), vectors)


def test_layers_are_described() -> None:
    assert describe_layers((1.0,) * 4) == "all layers"
    assert describe_layers((0.0, 1.0, 1.0, 0.0)) == "layers 1-2"
    assert describe_layers((0.0, 0.0, 1.0, 0.0)) == "layer 2"
    assert describe_layers((0.5, 1.0)) == "layers × 0.5 1"


def test_a_range_below_the_gate_becomes_what_is_above(steering: Steering) -> None:
    assert steering.gate is not None
    gate = replace(steering.gate, layer=3)
    assert above_gate((1.0, 1.0, 0, 0, 0, 0, 0, 0), gate) == (0, 0, 0, 0, 1.0, 1.0, 1.0, 1.0)


def test_gates_are_tried_at_layers_that_leave_some_to_steer() -> None:
    assert gate_layers(8) == list(range(7))
    assert gate_layers(2) == [0]
    assert gate_layers(1) == []
    many = gate_layers(32)
    assert (len(many), many[0], many[-1]) == (8, 0, 30)


def test_a_gate_that_is_not_the_measured_one_is_noted() -> None:
    """Real fits: activations that a direction tells apart, and some that nothing does."""
    rng = torch.Generator().manual_seed(0)
    harmful, safe = torch.randn(30, 3, 12, generator=rng), torch.randn(30, 3, 12, generator=rng)
    apart = (harmful[:15] + 3, safe[:15])
    measured = fit_gates(apart, [1])[1]
    gate, notes = refit(measured, (harmful + 3, safe))
    assert (gate.layer, gate.metadata["pairs"]) == (1, 30)
    assert notes == []
    gate, (note,) = refit(measured, (harmful, safe))
    assert gate is measured
    assert "the file keeps the one that was measured, fitted on 15 of them" in note
    other = replace(measured, metadata={**measured.metadata, "method": "logistic"})
    gate, (note,) = refit(other, (harmful + 3, safe))
    assert gate.metadata["method"] != "logistic"
    assert "became another detector" in note
    assert "where logistic was measured" in note


def test_an_unknown_search_of_layers_is_refused(steering: Steering) -> None:
    with pytest.raises(TuningError, match="use one of all, range, weights"):
        Space(steering, "some")  # type: ignore[arg-type]


# ---- the study -------------------------------------------------------------------------------------------------------

SETTINGS = {"model": "m", "pairs": "p", "seed": 0}


def _objective(setting: Setting) -> tuple[tuple[float, float], dict[str, Any]]:
    return (1 / (1 + setting.alpha), setting.alpha * (1 + setting.k)), {}


def _search(folder: Path, space: Space, trials: int, stop_at: int | None = None) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    memory = Memory(folder, SETTINGS)
    calls = 0

    def objective(setting: Setting) -> tuple[tuple[float, float], dict[str, Any]]:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt  # leaves the trial running, as a kill does
        return _objective(setting)

    memory.search(SURROGATE, space, objective, trials, 3, [Setting.of(space.steering, 0.1, 5)], lambda _: None)
    return [record["setting"] for record in memory.records(SURROGATE)]


def test_a_search_that_was_cut_off_draws_what_it_would_have_drawn(steering: Steering, tmp_path: Path) -> None:
    space = Space(steering, gates=own_gate(steering))
    whole = _search(tmp_path / "whole", space, 24)
    for stop in (1, 22):  # at a starting point, and where the sampler has learned
        with pytest.raises(KeyboardInterrupt):
            _search(tmp_path / "cut", space, 24, stop_at=stop)
    assert _search(tmp_path / "cut", space, 24) == whole
    assert whole[0]["alpha"] == 0.1
    assert len({str(one) for one in whole}) > 20


def test_a_study_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    Memory(tmp_path, SETTINGS)
    Memory(tmp_path, SETTINGS)
    with pytest.raises(TuningError, match="another pairs, seed; delete"):
        Memory(tmp_path, {**SETTINGS, "pairs": "q", "seed": 1})


def test_a_folder_of_other_search_rules_is_refused_by_name(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path
) -> None:
    from sarsteer.judges import make_judge
    from sarsteer.tuning.run import Options, _settings

    now = _settings(embedded, calibration_pairs, make_judge("embedded"), Options())
    before = {name: value for name, value in now.items() if name != "search_version"}  # as files of old have it
    Memory(tmp_path, before)
    with pytest.raises(TuningError, match="another search_version; delete"):
        Memory(tmp_path, now)


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(SarsteerError, match="is no study that can be used"):
        Memory(tmp_path, SETTINGS)


def test_what_is_left_of_a_study_that_is_gone_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text("{}")
    with pytest.raises(TuningError, match=r"holds answers.json of a run whose study is gone"):
        Memory(tmp_path, SETTINGS)
