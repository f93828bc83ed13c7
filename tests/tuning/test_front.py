"""Pareto fronts, limits with a confidence, and the choice within them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.errors import TuningError
from sarsteer.stats.intervals import upper_bound
from sarsteer.stats.rates import rate
from sarsteer.tuning.front import Limits, bound, choose, keeps, next_on_front, pareto_front, unproven
from sarsteer.tuning.measure import Measured
from tests.tuning.cases import measured, point

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


@given(POINTS)
def test_no_point_dominates_the_front(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points, lambda p: (float(p[0]), float(p[1])))
    dominated = {p for p in points for q in points if q[0] <= p[0] and q[1] <= p[1] and q != p}
    assert set(front) == set(points) - dominated
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
            assert last < 0 or within.get(last), "the last point that keeps the limits was measured"
    assert len(within) == n
    assert next_on_front(costs, {}, guess, 0) is None


@given(st.integers(1, 40), st.data())
def test_steps_double_while_nothing_fails(n: int, data: st.DataObject) -> None:
    """The points that break everything are at the end of a front, and points near the guess are measured first."""
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


def test_the_choice_is_within_the_limits() -> None:
    undefended = measured(18, 1, 0)
    points = [
        point(0.1, 15, 1, 0),
        point(0.2, 9, 2, 0),
        point(0.25, 9, 2, 0),
        point(0.3, 4, 3, 0),
        point(0.4, 0, 2, 4),
    ]
    limits = Limits(0.05, 0.01, 0.5)
    chosen = choose(points, undefended, limits)
    # one more request than undefended is 5 points; among equals the smaller α
    assert chosen.configuration.strength.alpha == 0.2
    assert keeps(chosen.measured, undefended, limits)
    assert choose(points, undefended, Limits(0.10, 0.01, 0.5)).configuration.strength.alpha == 0.3
    assert choose(points, undefended, Limits(0.05, 0.10, 0.5)).configuration.strength.alpha == 0.4


def test_limits_that_no_point_keeps_are_an_error_with_the_nearest() -> None:
    undefended = measured(18, 0, 0)
    with pytest.raises(
        TuningError, match=r"none of 2 measured configurations keeps .*nearest is α 0.3.*over-refusal \+15.0 points"
    ):
        choose([point(0.3, 9, 3, 0), point(0.5, 0, 12, 4)], undefended, Limits(0.05, 0.01, 0.5))
    with pytest.raises(
        TuningError,
        match=r"over-refusal \+5\.0 points \(at most \+10\.9 points with 80 % confidence\), broken 0\.0 %; allow",
    ):
        choose([point(0.3, 9, 1, 0)], undefended, Limits(0.05, 0.01, 0.8))
    with pytest.raises(TuningError, match=r"lowers the ASR .*nearest is α 0.5"):
        choose([point(0.0, 18, 0, 0), point(0.5, 2, 3, 0)], undefended, Limits(0.05, 0.01, 0.5))
    with pytest.raises(TuningError, match="between 0 and 100"):
        Limits(-0.01, 0.01)
    for confidence in (0.4, 1.0, float("nan")):
        with pytest.raises(TuningError, match=r"confidence must be from 0\.5"):
            Limits(0.05, 0.01, confidence)


def test_limits_are_kept_with_a_confidence() -> None:
    """One refusal of twenty safe requests may be 11 % by Wilson's bound at 80 %; an unchanged rate keeps any limit."""
    undefended = measured(18, 0, 0)
    one_more, unchanged = measured(4, 1, 0), measured(9, 0, 0)
    assert keeps(one_more, undefended, Limits(0.05, 0.01, 0.5))
    assert not keeps(one_more, undefended, Limits(0.05, 0.01, 0.8))
    assert keeps(one_more, undefended, Limits(0.12, 0.01, 0.8))
    assert keeps(unchanged, undefended, Limits(0.0, 0.0, 0.99))
    # steering need not repair what the undefended model breaks
    assert keeps(measured(4, 0, 2), measured(18, 0, 2), Limits(0.05, 0.05, 0.99))
    assert str(Limits(confidence=0.8)).endswith("(confidence 80 %)")


def test_variants_of_one_request_count_once() -> None:
    """Five voices of four requests have the information of four requests."""
    groups = tuple(i // 5 for i in range(20))
    alone, together = measured(4, 5, 0), replace(measured(4, 5, 0), groups=groups)
    assert (alone.over_refusal.n, alone.over_refusal.clusters) == (20, None)
    assert (together.over_refusal.n, together.over_refusal.clusters) == (20, 4)
    assert together.over_refusal.value == alone.over_refusal.value
    assert together.broken.clusters == 8, "a harmful request and its safe twin are two"
    assert together.over_refusal.high > alone.over_refusal.high
    limits, undefended = Limits(0.35, 0.1, 0.8), measured(18, 0, 0)
    assert keeps(alone, undefended, limits)
    assert not keeps(together, undefended, limits)
    assert Measured.from_json(together.to_json()) == together
    # outcomes that could not be read are left out of n and of their groups
    unread = replace(together, safe=(None, *together.safe[1:]))
    assert (unread.over_refusal.n, unread.over_refusal.clusters) == (19, 4)


def test_limits_that_too_few_requests_show_are_noted() -> None:
    """No refusal of twenty may be 3.4 % by Wilson's bound at 80 %, and no broken answer of forty 1.7 %."""
    undefended = same = measured(18, 0, 0)
    assert keeps(same, undefended, Limits(0.03, 0.01, 0.8))
    over, broken = unproven(same, undefended, Limits(0.03, 0.01, 0.8))
    assert over.startswith("over-refusal: 0.0 %")
    assert "may still be +3.4 points (confidence 80 %), above the 3 allowed" in over
    assert broken.startswith("broken answers: 0.0 %")
    assert "may still be 1.7 % (confidence 80 %), above the 1 allowed" in broken
    assert unproven(same, undefended, Limits(0.05, 0.02, 0.8)) == []
    assert unproven(same, undefended, Limits(0.0, 0.0, 0.5)) == []
    # with an undefended rate above zero the note has the increase
    (again,) = unproven(measured(18, 4, 0), measured(18, 4, 0), Limits(0.05, 0.5, 0.8))
    assert "still be +8.5 points" in again


@given(st.integers(0, 50), st.floats(0.5, 0.999))
def test_the_upper_bound_is_wilsons(hits: int, confidence: float) -> None:
    from scipy.stats import binomtest

    upper = upper_bound(hits / 50, 50, confidence)
    # a two-sided interval of 2c − 1 has its upper end at the one-sided confidence c
    wanted = binomtest(hits, 50).proportion_ci(max(2 * confidence - 1, 1e-12), method="wilson").high
    assert upper == pytest.approx(wanted, abs=1e-6)
    assert hits / 50 - 1e-12 <= upper <= 1
    estimate = rate([True] * hits + [False] * (50 - hits))
    assert bound(estimate, confidence) == pytest.approx(upper, abs=1e-9), "the same n as the interval"


# ---- charts ----


def test_the_chart_marks_points_beyond_the_limits() -> None:
    """One more of twenty is exactly five points, and beyond the limit with a confidence."""
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    from sarsteer.tuning.plots import draw_front
    from sarsteer.tuning.result import Tuned

    chosen, beyond = point(0.1, 9, 0, 0), point(0.2, 5, 1, 0)
    tuned = Tuned(None, chosen, (chosen, beyond), measured(18, 0, 0), ())  # type: ignore[arg-type]
    for confidence, kept in ((0.5, 2), (0.8, 1)):
        left, right, _ = (figure := draw_front(tuned, Limits(0.05, 0.01, confidence), "")).axes
        shown = [text.get_text() for text in left.get_legend().get_texts()]
        assert shown[:2] == [f"{kept} measured, within the limits", f"{2 - kept} measured, beyond them"]
        crosses, dots = right.collections[:2]
        assert (len(crosses.get_offsets()), len(dots.get_offsets())) == (2 - kept, kept)
        across, up = right.lines
        assert (across.get_xdata()[0], up.get_ydata()[0]) == (5.0, 1.0), "the dashed lines are at the limits"
        pyplot.close(figure)


def test_a_layer_without_others_is_not_drawn_at_zero() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    from sarsteer.tuning.layer_study import LayerRow, LayerStudy
    from sarsteer.tuning.plots import draw_layer_study
    from sarsteer.tuning.scores import SurrogateScores

    scores = SurrogateScores(0.4, 0.1, 0.0)
    study = LayerStudy(point(0.1, 1, 0, 0).configuration, (LayerRow(6, scores, 0.1, None),), scores, scores)
    figure = draw_layer_study(study, "")
    alone, without = ([line for line in axis.lines if line.get_marker() == "o"] for axis in figure.axes)
    assert [list(line.get_ydata()) for line in alone] == [[60.0], [10.0], [0.0]]
    assert all(math.isnan(line.get_ydata()[0]) for line in without)
    assert [text.get_text() for text in figure.axes[1].texts] == ["no other layer is steered"]
    pyplot.close(figure)
