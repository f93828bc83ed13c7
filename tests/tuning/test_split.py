"""The split of pairs into a calibration and a tuning part."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer.data.overlap import shared_items
from sarsteer.errors import TuningError
from sarsteer.tuning.split import MIN_PAIRS, request_groups, split_pairs
from tests.tuning.cases import written_pairs


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.3, 0.5, 0.6]))
def test_the_parts_share_no_request_and_lose_no_pair(seed: int, share: float) -> None:
    pairs = written_pairs(40, {1: 0, 2: 1, 7: 30, 8: 31})
    calibrating, tuning = split_pairs(pairs, share, seed)
    assert sorted(p.id for p in (*calibrating, *tuning)) == sorted(p.id for p in pairs)
    assert not shared_items([*calibrating.harmful, *calibrating.safe], [*tuning.harmful, *tuning.safe])
    assert len(tuning) <= round(40 * share)
    again = split_pairs(pairs, share, seed)
    assert [p.id for p in again[1]] == [p.id for p in tuning]


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(TuningError, match="each side needs at least 10"):
        split_pairs(written_pairs(2 * MIN_PAIRS - 1), 0.5, 0)
    with pytest.raises(TuningError, match="each side needs at least 10"):
        split_pairs(written_pairs(40, dict.fromkeys(range(1, 40), 0)), 0.5, 0)  # one request in all pairs: one group


def test_pairs_that_share_a_request_are_one_group() -> None:
    groups = request_groups(written_pairs(12, {1: 0, 2: 0, 7: 3}))
    assert len(groups) == 12
    assert len({*groups}) == 12 - 3
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] == groups[7] != groups[0]
