"""The safe subspace: exact, orthonormal, and what ablation leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer.steering.subspace import ablate, safe_subspace


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 10_000))
def test_thin_pca_equals_a_full_svd(n: int, width: int, seed: int) -> None:
    activations = torch.randn(n, 2, width, generator=torch.Generator().manual_seed(seed)) * 5 + 3
    basis, values, mean = safe_subspace(activations)
    assert torch.allclose(mean, activations.double().mean(0).float(), atol=1e-5)
    keep = basis.shape[1]
    assert keep <= min(64, n - 1, width)
    for layer in range(2):
        hidden = activations[:, layer].double()
        _, sigma, right = torch.linalg.svd(hidden - hidden.mean(0), full_matrices=False)
        assert torch.allclose(values[layer].double(), sigma[:keep], rtol=1e-5, atol=1e-6)
        gram = basis[layer].double() @ basis[layer].double().T
        assert torch.allclose(gram, torch.eye(keep, dtype=torch.float64), atol=1e-6)
        # single vectors may turn within near-equal singular values; whole projections may not, so compare the last
        ours = basis[layer].double().T @ basis[layer].double()
        theirs = right[:keep].T @ right[:keep]
        if keep == len(sigma) or sigma[keep] < 0.9 * sigma[keep - 1]:
            assert torch.allclose(ours, theirs, atol=1e-4)


def test_degenerate_activations_have_a_lower_rank() -> None:
    torch.manual_seed(0)
    flat = torch.randn(3, 1, 16)[torch.arange(9) % 3].repeat(1, 2, 1)  # nine clips, three distinct
    basis, _, _ = safe_subspace(flat)
    assert basis.shape == (2, 2, 16)
    flat[:, 0] = 1.0  # a layer that says nothing must not take the others' components away
    basis, values, _ = safe_subspace(flat)
    assert not basis[0].any()
    assert torch.allclose(basis[1] @ basis[1].T, torch.eye(2), atol=1e-5)
    assert not values[0].any()
    refusal = torch.randn(2, 16)
    assert torch.equal(ablate(refusal, basis, 2, 1.0)[0], refusal[0])
    same, _, _ = safe_subspace(torch.ones(5, 2, 16))
    assert same.shape == (2, 0, 16)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 7), st.floats(-2, 2), st.integers(0, 10_000))
def test_ablation(k: int, lambda_: float, seed: int) -> None:
    torch.manual_seed(seed)
    basis, _, _ = safe_subspace(torch.randn(9, 3, 24))
    refusal = torch.randn(3, 24)
    vectors = ablate(refusal, basis, k, lambda_)
    inside = torch.einsum("lkd,ld->lk", basis[:, :k], vectors)
    before = torch.einsum("lkd,ld->lk", basis[:, :k], refusal)
    assert torch.allclose(inside, (1 - lambda_) * before, atol=1e-5)
    outside = torch.einsum("lkd,ld->lk", basis[:, k:], vectors - refusal)
    assert torch.allclose(outside, torch.zeros_like(outside), atol=1e-5)
    if lambda_ == 0 or k == 0:
        assert torch.equal(vectors, refusal), "nothing to ablate must change nothing, not even a bit"


def test_full_ablation_is_idempotent() -> None:
    torch.manual_seed(0)
    basis, _, _ = safe_subspace(torch.randn(9, 2, 24))
    once = ablate(torch.randn(2, 24), basis, 5, 1.0)
    assert torch.allclose(ablate(once, basis, 5, 1.0), once, atol=1e-6)


def test_components_beyond_the_limit_are_dropped() -> None:
    basis, values, _ = safe_subspace(torch.randn(100, 1, 128), max_components=64)
    assert basis.shape == (1, 64, 128)
    assert bool((values[:, :-1] >= values[:, 1:]).all())
    with pytest.raises(RuntimeError):
        ablate(torch.ones(1, 64), basis, 5, 1.0)
