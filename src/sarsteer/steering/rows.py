"""Steer each row of a batch by a strength of its own, while one call answers.

The hooks add one vector ``[D]`` to all rows. Here their buffers hold ``[B, D]`` instead, and the same operation adds
each row its own vector, of any α, k, λ and layer weights. Rows with one strength use ``[D]`` as everywhere else. The
gate is one for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sarsteer.errors import SteeringError
from sarsteer.steering.installation import Installation
from sarsteer.steering.strength import ResolvedStrength


class RowSteering:
    """What is added to each row; ``SteeringHandle.by_row`` creates it.

    Args:
        installation: the hooks.
        strength: the strength in force; every row's has its gate.
        proven: whether the proof has shown that rows can be steered differently.

    """

    def __init__(self, installation: Installation, strength: ResolvedStrength, *, proven: bool) -> None:
        self._installation, self._proven = installation, proven
        self._gate = None if strength.gate is None else strength.gate.digest
        self._shape = strength.vectors.shape
        self._added = strength.deltas  # [L, D], or [L, B, D]
        self._known = {strength: self._added}  # deltas of the strengths in use, which were checked
        self._strengths: list[ResolvedStrength] = []

    def use(self, strengths: Sequence[ResolvedStrength]) -> None:
        """Steer the rows of the next forwards by these strengths, in their order.

        Nothing is computed if they are those in use already.

        Raises:
            SteeringError: a strength has another gate or another shape, or rows that are steered differently were not
                proven (``SteeringHandle.prove_rows``). The previous strengths stay in force.

        """
        strengths = list(strengths)
        if strengths == self._strengths:
            return
        known = {one: self._known[one] if one in self._known else self._checked(one) for one in strengths}
        first, *others = known.values()
        if all(torch.equal(first, other) for other in others):
            added = first
        elif self._proven:
            added = torch.stack([known[one] for one in strengths], dim=1)
        else:
            raise SteeringError("rows with different strengths were not proven; answer them one after the other")
        if added is not self._added:
            self._installation.write(added)
        self._known, self._added, self._strengths = known, added, strengths

    @property
    def alphas(self) -> list[float]:
        """The largest strength that the gate can apply to each row."""
        return [0.0 if one.shadow else one.alpha for one in self._strengths]

    @property
    def holds(self) -> bool:
        """Whether the hooks add what was chosen; another part of the program may have changed their buffers."""
        return torch.equal(self._installation.written(), self._added)

    def _checked(self, strength: ResolvedStrength) -> torch.Tensor:
        if strength.vectors.shape != self._shape:
            raise SteeringError(
                f"vectors of shape {tuple(strength.vectors.shape)} for a model of {tuple(self._shape)}; "
                "use a steering of this model"
            )
        if (None if strength.gate is None else strength.gate.digest) != self._gate:
            raise SteeringError("the rows of a batch have different gates; answer them one after the other")
        return strength.deltas
