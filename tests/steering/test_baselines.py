"""Vectors that SARSteer is compared with."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.errors import CalibrationError
from sarsteer.steering.baselines import c2r, h2s, mean_ablation, random_like, reversed_vectors, same_norm
from sarsteer.steering.subspace import ablate


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1, 0.0])[:, None]


@given(st.integers(0, 2**31))
def test_random_controls_have_the_norm_and_no_direction(seed: int) -> None:
    vectors = torch.randn(3, 512, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 9.0, 0.0])[:, None]
    drawn = random_like(vectors, seed)
    assert torch.equal(drawn, random_like(vectors, seed))
    torch.testing.assert_close(drawn.norm(dim=-1), vectors.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(drawn, vectors, dim=-1)
    assert float(cosine.abs().max()) < 0.3
    assert not torch.equal(drawn, random_like(vectors, seed + 1))


def test_reversed(vectors: torch.Tensor) -> None:
    assert torch.equal(reversed_vectors(vectors), -vectors)
    assert torch.equal(reversed_vectors(reversed_vectors(vectors)), vectors)


def test_mean_ablation_takes_the_mean_direction_away(vectors: torch.Tensor) -> None:
    mean = torch.randn(4, 32, generator=torch.Generator().manual_seed(2)) * 40
    ablated = mean_ablation(vectors, mean)
    assert float((ablated * mean).sum(-1).abs().max()) < 1e-3
    torch.testing.assert_close(mean_ablation(ablated, mean), ablated, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean_ablation(vectors, mean, 0.5), (vectors + ablated) / 2)
    assert torch.equal(mean_ablation(vectors, torch.zeros(4, 32)), vectors)
    basis = (mean / mean.norm(dim=-1, keepdim=True))[:, None]  # one component, the mean's: SARSteer's own ablation
    torch.testing.assert_close(ablated, ablate(vectors, basis, 1, 1.0), atol=1e-5, rtol=1e-5)


def test_mean_differences_point_as_their_names_say() -> None:
    rng = torch.Generator().manual_seed(3)
    push = torch.randn(2, 8, generator=rng)
    harmful, safe = torch.randn(5000, 2, 8, generator=rng) + push, torch.randn(4000, 2, 8, generator=rng)
    torch.testing.assert_close(h2s(harmful, safe), -push, atol=0.1, rtol=0)
    torch.testing.assert_close(c2r(complied=safe, refused=harmful), push, atol=0.1, rtol=0)
    assert torch.equal(h2s(harmful, safe), reversed_vectors(h2s(safe, harmful)))
    matched = same_norm(h2s(harmful, safe), torch.ones(2, 8))
    torch.testing.assert_close(matched.norm(dim=-1), torch.full((2,), 8**0.5))


def test_tensors_that_do_not_fit(vectors: torch.Tensor) -> None:
    clips = torch.zeros(3, 4, 32)
    for call, match in (
        (lambda: random_like(clips, 0), r"vectors must be \[L, D\], not \(3, 4, 32\)"),
        (lambda: reversed_vectors(vectors * float("nan")), "vectors contain NaN"),
        (lambda: mean_ablation(vectors, torch.zeros(4, 31)), "differ in shape"),
        (lambda: same_norm(vectors, torch.zeros(3, 32)), "differ in shape"),
        (lambda: h2s(vectors, clips), r"activations must be \[n, L, D\]"),
        (lambda: h2s(clips[:0], clips), "n at least 1"),
        (lambda: c2r(clips, torch.zeros(3, 4, 31)), "are from different models"),
        (lambda: c2r(clips, clips * float("inf")), "contain NaN or infinite"),
    ):
        with pytest.raises(CalibrationError, match=match):
            call()
