"""The push: a strength that means the same for every model and every vector.

α does not transfer: it multiplies vectors whose norms differ by model, refusal prompt and ablation. The push is the
mean over all decoder layers of ``α w_l ‖v_l‖ / ‖h_l‖``: the share of the activation's norm by which a layer is moved.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from sarsteer.errors import SteeringError

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.strength import Strength


def push_at_one(steering: Steering, strength: Strength) -> float:
    """The push of α = 1 at this k, λ and these layer weights; 0 if nothing is left to add.

    Raises:
        SteeringError: as in ``Steering.resolve``.

    """
    norms = steering.activation_norms.double()
    lengths = steering.vectors(strength.k, strength.lambda_, strength.layer_weights).double().norm(dim=1)
    return float(torch.where(norms > 0, lengths / norms, torch.zeros_like(norms)).mean())


def alpha_of(steering: Steering, push: float, strength: Strength) -> float:
    """The α with this push.

    Raises:
        SteeringError: the push is not a positive number, or the vectors are zero.

    """
    if not (math.isfinite(push) and push > 0):
        raise SteeringError(f"push must be a number above 0, such as 0.05, not {push:g}")
    one = push_at_one(steering, strength)
    if one <= 0:
        raise SteeringError("all vectors are zero, so no alpha has this push; check k, lambda and the layer weights")
    return push / one
