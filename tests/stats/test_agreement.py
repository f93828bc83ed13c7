"""Cohen's κ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.stats.agreement import cohens_kappa
from sarsteer.stats.rates import rate


def test_kappa_of_a_known_table() -> None:
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    kappa = cohens_kappa(first, second)
    assert kappa.value == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    # Cohen's own large-sample standard error: sqrt(p_o (1 - p_o) / n) / (1 - p_e) = 0.13 (but Wilson's ends)
    assert (kappa.low, kappa.high) == pytest.approx((0.4 - 1.96 * 0.13, 0.4 + 1.96 * 0.13), abs=0.04)
    agreed = rate([a == b for a, b in zip(first, second, strict=True)])
    assert (kappa.low, kappa.high) == pytest.approx((2 * agreed.low - 1, 2 * agreed.high - 1))
    assert str(kappa) == "0.40 [0.12, 0.62] (n=50)"


def test_judges_that_always_agree_are_not_proven_equal() -> None:
    outcomes = ["yes"] * 10 + ["no"] * 10
    kappa = cohens_kappa(outcomes, outcomes)
    assert (kappa.value, kappa.high) == (1, 1)
    assert 0.6 < kappa.low < 0.7
    copies = cohens_kappa(outcomes * 3, outcomes * 3, [*range(20)] * 3)
    assert copies.low < kappa.low, "three verdicts on an item are not three items"


@given(st.lists(st.tuples(st.sampled_from([*"abc", None]), st.sampled_from([*"abc", None])), min_size=1, max_size=30))
def test_kappa_is_symmetric_and_leaves_out_missing_verdicts(rows: list[tuple[str | None, str | None]]) -> None:
    first, second = [a for a, _ in rows], [b for _, b in rows]
    known = [(a, b) for a, b in rows if a and b]
    if not known:
        with pytest.raises(ValueError, match="agreement over no items"):
            cohens_kappa(first, second)
        return
    there, back = cohens_kappa(first, second), cohens_kappa(second, first)
    assert there.value == pytest.approx(back.value, nan_ok=True)
    assert there.n == len(known)
    assert np.isnan(there.value) or -1 <= there.low <= there.value <= there.high <= 1
