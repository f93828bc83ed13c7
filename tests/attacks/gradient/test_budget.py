"""The budget holds exactly in the 16-bit file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.attacks import ATTACKS
from sarsteer.attacks.gradient.budget import SCALE, as_floats, check_epsilon, quantized, write_16_bit
from sarsteer.audio import load_clip
from sarsteer.errors import AttackError


@given(epsilon=st.floats(1 / SCALE, 0.01), seed=st.integers(0, 10_000), on_grid=st.booleans(), loud=st.booleans())
def test_no_sample_leaves_the_budget(epsilon: float, seed: int, on_grid: bool, loud: bool) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.uniform(-1, 1, 500).astype(np.float32) * (1 if loud else 0.01)
    if on_grid:
        clean = (np.rint(clean * 32_767) / SCALE).astype(np.float32)
    wanted = clean + rng.uniform(-3, 3, 500) * epsilon
    whole = quantized(wanted, clean, np.full(500, epsilon))
    assert whole.dtype == np.int16
    inside = np.abs(clean) <= 1 - 1 / SCALE - epsilon
    change = np.abs(whole.astype(np.float64) / SCALE - clean.astype(np.float64))
    assert change[inside].max(initial=0) <= epsilon  # exactly: no tolerance
    assert change.max() <= epsilon + 1 / SCALE, "full scale ends at 32767"


def test_where_the_budget_is_zero_the_nearest_value_is_used() -> None:
    clean = np.array([0.25, 0.1, -0.3])
    assert quantized(clean + 0.2, clean, np.zeros(3)).tolist() == np.rint(clean * SCALE).tolist()


def test_a_reader_gets_the_same_samples(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(-SCALE, SCALE, 4000).astype(np.int16)
    write_16_bit(tmp_path / "clip.wav", whole, 16_000)
    assert np.array_equal(load_clip(tmp_path / "clip.wav").samples, as_floats(whole))


@pytest.mark.parametrize("epsilon", [0.0, -0.1, math.nan, math.inf, 1.5, 1e-6])
def test_an_unusable_budget_is_refused(epsilon: float) -> None:
    with pytest.raises(AttackError, match="epsilon") as raised:
        check_epsilon(epsilon)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pgd:0", "above 0"),
        ("pgd:nan", "pgd"),
        ("pgd:0.00001", "16-bit"),
        ("pgd:steps=0", "steps"),
        ("pgd:steps=100000", "steps"),
        ("pgd:restarts=0", "restarts"),
        ("pgd:beta=-1", "beta"),
        ("pgd:temperature=0", "temperature"),
        ("pgd:target= ", "target"),
        ("token-sparse:tokens=0", "tokens"),
        ("suffix:seconds=0", "seconds"),
        ("suffix:0", "above 0"),
        ("universal:clips=0", "clips"),
        ("gate-target:0", "above 0"),
        ("cancel:0", "above 0"),
        ("long-answer:target_tokens=0", "target_tokens"),
        ("pgd:source=nobody", "source"),
    ],
)
def test_bad_options_are_refused_in_one_line(spec: str, words: str) -> None:
    with pytest.raises(AttackError, match=words) as raised:
        ATTACKS.parse(spec).check()
    assert "\n" not in str(raised.value)
