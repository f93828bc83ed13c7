"""Second moments of activations in D x r numbers instead of D x D.

For rows X, the sketch is ``Y = Xᵀ (X Ω)`` with a fixed random Ω ``[D, r]``. It is linear in the rows' products, so
sketches with the same Ω add up. ``reconstruct`` returns the largest principal components of ``XᵀX`` from it, by the
Nyström approximation in the stable form of Tropp, Yurtsever, Udell and Cevher (2017, algorithm 3): exact, up to
rounding, if r is at least the rank of X.
"""

from __future__ import annotations

import math

import numpy as np
import torch


def sketch_matrix(width: int, rank: int, seed: int) -> torch.Tensor:
    """Ω ``[D, r]`` in float64: random signs, the same on every machine; the identity if r is at least D.

    The signs are the raw bits of Philox, which a library cannot change without leaving its specification.
    """
    if rank >= width:
        return torch.eye(width, dtype=torch.float64)
    raw = np.random.Philox(key=seed).random_raw(-(-width * rank // 64))
    bits = np.unpackbits(raw.astype("<u8").view(np.uint8), bitorder="little")[: width * rank]
    return torch.from_numpy(2.0 * bits.reshape(width, rank) - 1.0)


def columns(width: int, rank: int) -> int:
    """The number of columns of ``sketch_matrix``."""
    return min(width, rank)


def longest(omega: torch.Tensor) -> float:
    """‖Ω‖₂: no row's ``xᵀΩ`` is longer than this times ‖x‖."""
    return float(torch.linalg.matrix_norm(omega, 2))


def centered(sketch: torch.Tensor, total: torch.Tensor, count: float, omega: torch.Tensor) -> torch.Tensor:
    """The sketch of the rows minus their mean: ``Y − s (sᵀ Ω) / n`` for their sum s ``[D]``."""
    if count <= 0:
        return torch.zeros_like(sketch)
    return sketch - torch.outer(total, total @ omega) / count


def reconstruct(
    sketch: torch.Tensor, omega: torch.Tensor, noise: float = 0.0, trace: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Principal directions and their squares from a sketch of centered rows.

    Args:
        sketch: Y ``[D, r]``.
        omega: Ω.
        noise: the standard deviation of errors in each element of Y, such as rounding or noise for privacy.
        trace: of ``XᵀX``; squares that sum to more are errors, and are scaled to it.

    Returns:
        orthonormal rows ``[q, D]`` and eigenvalues of ``XᵀX`` ``[q]``, largest first, without those that are zero up to
        the errors.

    """
    width, rank = sketch.shape
    largest = float(torch.linalg.matrix_norm(sketch, 2))
    none = torch.zeros(0, width, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    error = noise * (math.sqrt(width) + math.sqrt(rank))  # the norm of a matrix with such elements
    if not largest > 0 or largest <= error:
        return none
    if rank == width:  # Ω is the identity: Y is the matrix itself
        squares, vectors = torch.linalg.eigh((sketch + sketch.T) / 2)
        floor = max(1e-12 * float(squares[-1]), error)
    else:
        shift = max(math.sqrt(width) * torch.finfo(torch.float64).eps * largest, error)
        shifted = sketch + shift * omega
        core = omega.T @ shifted
        values, rotation = torch.linalg.eigh((core + core.T) / 2)
        kept = values > max(1e-14 * float(values[-1]), 0.0)
        factor = shifted @ (rotation[:, kept] / values[kept].sqrt())
        vectors, sigma, _ = torch.linalg.svd(factor, full_matrices=False)
        squares, vectors = (sigma.square() - shift).flip(0), vectors.flip(1)
        floor = max(1e-12 * float(squares[-1]), shift)
    squares, vectors = squares.flip(0), vectors.flip(1)
    chosen = squares > floor
    if not chosen.any():
        return none
    squares, vectors = squares[chosen], vectors[:, chosen]
    if trace is not None and float(squares.sum()) > trace > 0:
        squares = squares * (trace / float(squares.sum()))
    return vectors.T.contiguous(), squares
