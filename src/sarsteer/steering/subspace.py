"""The safe subspace: exact thin PCA of safe requests' activations in each layer, and its ablation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from sarsteer.errors import SteeringError

MAX_COMPONENTS = 64
_RELATIVE_RANK = 1e-6  # singular values below this share of the largest are rounding errors


def safe_subspace(
    activations: torch.Tensor, max_components: int = MAX_COMPONENTS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Principal components of ``activations`` in each layer (the paper's safe-space SVD).

    With far fewer clips n than dimensions D, the right singular vectors of the centered ``H`` (n x D) come from the
    eigenvectors ``W`` of the small Gram matrix ``H Hᵀ`` (n x n), as ``U = Hᵀ W / σ``: exact, and far cheaper than
    decomposing H. Computed in float64, one layer at a time.

    Args:
        activations: ``[n, L, D]``, of safe clips at the last prompt token.
        max_components: maximum number of components to keep.

    Returns:
        ``basis`` ``[L, K, D]`` with orthonormal rows, largest first; ``singular_values`` ``[L, K]``; ``mean``
        ``[L, D]``. K is at most the largest rank of any layer; a layer of lower rank is padded with zeros, which
        ablate nothing.

    """
    n, layers, width = activations.shape
    limit = min(max_components, n - 1, width)
    bases, values, means = [], [], []
    for layer in range(layers):
        hidden = activations[:, layer].double()
        mean = hidden.mean(0)
        hidden = hidden - mean
        if n <= width:
            squares, small = torch.linalg.eigh(hidden @ hidden.T)
        else:
            squares, small = torch.linalg.eigh(hidden.T @ hidden)
        sigma = squares.clamp(min=0).sqrt().flip(0)[:limit]
        vectors = small.flip(1)[:, :limit]
        rank = int((sigma > _RELATIVE_RANK * sigma[0]).sum()) if len(sigma) and sigma[0] > 0 else 0
        sigma, vectors = sigma[:rank], vectors[:, :rank]
        if n <= width:
            vectors = hidden.T @ vectors / sigma
        # The Gram matrix squares the condition number: one QR makes the rows orthonormal up to rounding.
        if rank:
            q, r = torch.linalg.qr(vectors)
            vectors = q * torch.sign(torch.diagonal(r))
        bases.append(vectors.T)
        values.append(sigma)
        means.append(mean)
    keep = max((len(sigma) for sigma in values), default=0)
    return (
        torch.stack([nn.functional.pad(basis, (0, 0, 0, keep - len(basis))) for basis in bases]).float(),
        torch.stack([nn.functional.pad(sigma, (0, keep - len(sigma))) for sigma in values]).float(),
        torch.stack(means).float(),
    )


def ablate(refusal: torch.Tensor, basis: torch.Tensor, k: int, lambda_: float) -> torch.Tensor:
    """``v_l = r_l − λ U_l U_lᵀ r_l`` with the first ``k`` components; ``[L, D]``, float32, never normalized."""
    if k == 0 or lambda_ == 0:
        return refusal.clone()
    r, u = refusal.double(), basis[:, :k].double()
    inside = torch.einsum("lkd,lk->ld", u, torch.einsum("lkd,ld->lk", u, r))
    return (r - lambda_ * inside).float()


def weighted(vectors: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """``w_l v_l``: vectors ``[L, D]``, one weight per layer. A weight of exactly 1 changes no bit.

    Raises:
        SteeringError: the weights are not one finite number per layer.

    """
    if len(weights) != len(vectors) or not all(math.isfinite(weight) for weight in weights):
        raise SteeringError(f"layer_weights must be {len(vectors)} finite numbers, one per decoder layer")
    return vectors * torch.tensor(list(weights), dtype=vectors.dtype)[:, None]
