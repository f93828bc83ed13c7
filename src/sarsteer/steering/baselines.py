"""Vectors to compare SARSteer's with: other directions, other ablations, and controls of the same norm.

All are ``[L, D]`` in float32, one row per decoder layer, and are attached in the same way as SARSteer's.
"""

from __future__ import annotations

import torch

from sarsteer.errors import CalibrationError


def random_like(vectors: torch.Tensor, seed: int) -> torch.Tensor:
    """A random direction in each layer, uniform on the sphere, with the norm of ``vectors`` ``[L, D]`` there.

    The control for "any push of that size would work". Use several seeds.
    """
    _check(vectors=vectors)
    random = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return same_norm(random, vectors)


def reversed_vectors(vectors: torch.Tensor) -> torch.Tensor:
    """``−v``: if ``v`` causes refusals, ``−v`` must not; otherwise the direction is irrelevant."""
    _check(vectors=vectors)
    return -vectors.float()


def balanced_signs(n: int, seed: int) -> torch.Tensor:
    """``[n]`` float64: +1 for one random half and −1 for the other; of an odd number, one is 0.

    Times these signs, the differences of n pairs are those of pairs whose labels are shuffled. Because the signs sum to
    0, what all differences share cancels out exactly; independent signs would leave a part of it, and scaling to a norm
    would enlarge that part.

    Raises:
        CalibrationError: there are fewer than two pairs.

    """
    if n < 2:
        raise CalibrationError(f"shuffled labels need at least 2 pairs, not {n}")
    signs = torch.zeros(n, dtype=torch.float64)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    signs[order[: n // 2]], signs[order[n // 2 : 2 * (n // 2)]] = 1.0, -1.0
    return signs


def mean_ablation(refusal: torch.Tensor, safe_mean: torch.Tensor, lambda_: float = 1.0) -> torch.Tensor:
    """``v_l = r_l − λ m̂_l m̂_lᵀ r_l``: the refusal vector without its part along the mean safe activation.

    Ablates one direction, the mean, instead of the principal components of the centered safe activations (SARSteer's
    ``ablate``). Never normalized, as there.

    Args:
        refusal: ``[L, D]``, the paper's r.
        safe_mean: ``[L, D]``, the mean of safe clips' activations at the last prompt token; a zero row ablates nothing.
        lambda_: the ablation coefficient.

    """
    _check(refusal=refusal, safe_mean=safe_mean)
    if refusal.shape != safe_mean.shape:
        raise CalibrationError(
            f"refusal {tuple(refusal.shape)} and safe_mean {tuple(safe_mean.shape)} differ in shape; use one model"
        )
    r = refusal.double()
    unit = torch.nn.functional.normalize(safe_mean.double(), dim=-1)
    return (r - lambda_ * (r * unit).sum(-1, keepdim=True) * unit).float()


def h2s(harmful: torch.Tensor, safe: torch.Tensor) -> torch.Tensor:
    """The mean safe activation minus the mean harmful one: the direction from harmful to safe.

    The paper's baseline MDSteer-h2s (Lin et al., arXiv 2510.17633), from activations on audio. Added to a harmful
    request it makes the request look safe, and the published attack success rate *rises* (Qwen2-Audio on FigStep: 51.6
    to 84.0 %). ``reversed_vectors`` has the other sign.

    Args:
        harmful: ``[n, L, D]``, of harmful clips at the last prompt token.
        safe: ``[m, L, D]``, of safe clips; m may differ from n.

    """
    return _mean_difference(safe, harmful)


def c2r(complied: torch.Tensor, refused: torch.Tensor) -> torch.Tensor:
    """The mean activation of refused requests minus that of complied requests: from compliance to refusal.

    The paper's baseline MDSteer-c2r. The caller decides, with a judge, which requests the undefended model refuses.

    Args:
        complied: ``[n, L, D]``, of requests that the model complied with, at the last prompt token.
        refused: ``[m, L, D]``, of refused requests; m may differ from n.

    """
    return _mean_difference(refused, complied)


def same_norm(vectors: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``vectors`` scaled to the norm of ``like`` in each layer, so that the same α has the same size.

    Both ``[L, D]``. A zero row stays zero.
    """
    _check(vectors=vectors, like=like)
    if vectors.shape != like.shape:
        raise CalibrationError(
            f"vectors {tuple(vectors.shape)} and like {tuple(like.shape)} differ in shape; use one model"
        )
    norms = torch.linalg.vector_norm(like.double(), dim=-1, keepdim=True)
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    return torch.mul(unit, norms).float()


def _mean_difference(to: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    for activations in (to, origin):
        if activations.ndim != 3 or not len(activations):
            raise CalibrationError(f"activations must be [n, L, D] with n at least 1, not {tuple(activations.shape)}")
    if to.shape[1:] != origin.shape[1:]:
        raise CalibrationError(
            f"activations {tuple(to.shape)} and {tuple(origin.shape)} are from different models; use one model for both"
        )
    difference = (to.double().mean(0) - origin.double().mean(0)).float()
    _check(activations=difference)
    return difference


def _check(**tensors: torch.Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim != 2:
            raise CalibrationError(f"{name} must be [L, D], not {tuple(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise CalibrationError(f"{name} contain NaN or infinite values; load the model in bfloat16 or float32")
