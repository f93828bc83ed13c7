"""Which strength a request gets, in the front end and in workers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.vllm import strengths
from tests.support.vllm_parts import server_settings, vector_set


def test_by_default_a_request_cannot_choose_alpha() -> None:
    settings = server_settings()
    assert strengths.strength_of(None, settings) == strengths.RequestStrength(0, 0.1)
    assert strengths.strength_of({"unrelated": 1, "sarsteer_alpha": 0.1}, settings) == strengths.RequestStrength(0, 0.1)
    for alpha in (0, 0.0, 0.05, 0.2, -1):
        with pytest.raises(strengths.OverrideError, match="does not let requests choose"):
            strengths.strength_of({"sarsteer_alpha": alpha}, settings)


def test_within_bounds_it_can_choose_alpha() -> None:
    settings = server_settings(bounds=(0.05, 0.2))
    for alpha in (0.05, 0.1, 0.2):
        assert strengths.strength_of({"sarsteer_alpha": alpha}, settings).alpha == alpha
    for alpha in (0.0, 0.04999, 0.21):
        with pytest.raises(strengths.OverrideError, match="outside what this server allows"):
            strengths.strength_of({"sarsteer_alpha": alpha}, settings)


def test_a_refused_override_may_be_ignored() -> None:
    settings = server_settings(ignore_refused=True)
    assert strengths.strength_of({"sarsteer_alpha": 0}, settings).alpha == 0.1


@pytest.mark.parametrize("value", ["0", None, True, float("nan"), float("inf"), [0.1], {}])
def test_an_alpha_that_is_not_a_number_is_refused(value: Any) -> None:
    with pytest.raises(strengths.OverrideError, match="finite number"):
        strengths.strength_of({"sarsteer_alpha": value}, server_settings(bounds=(0, 1), ignore_refused=True))


@pytest.mark.parametrize("key", ["sarsteer", "sarsteer_aplha", "sarsteer_k", "sarsteer_strength"])
def test_an_unknown_sarsteer_key_is_refused(key: str) -> None:
    with pytest.raises(strengths.OverrideError, match=f"unknown {key}"):
        strengths.strength_of({key: 0}, server_settings(bounds=(0, 1)))


def test_sets_are_chosen_by_name() -> None:
    settings = server_settings(vector_set("a", 0.1), vector_set("b", 0.3))
    assert strengths.strength_of({"sarsteer_set": "b"}, settings) == strengths.RequestStrength(1, 0.3)
    with pytest.raises(strengths.OverrideError, match="unknown sarsteer_set 'c'; this server has a, b"):
        strengths.strength_of({"sarsteer_set": "c"}, settings)


@given(st.dictionaries(st.sampled_from(["sarsteer_alpha", "sarsteer_set", "sarsteer", "x"]), st.none() | st.floats()))
def test_a_worker_never_steers_less_than_the_operator_allows(extra: dict[str, Any]) -> None:
    """Whatever bypassed the front end, a worker steers within the operator's bounds or at the operator's strength."""
    for bounds in (None, (0.05, 0.2)):
        alpha = strengths.applied_strength(extra, server_settings(bounds=bounds)).alpha
        assert alpha == 0.1 or (bounds is not None and bounds[0] <= alpha <= bounds[1])
