"""An average of the weights over the last steps, which is what is packed.

Single steps are noisy at batches of 8 clips. The mean of two checkpoints of the second stage, after 475 and 916 steps,
had a lower word error rate in held-out voices than either (33 % against 39 and 38).
"""

from __future__ import annotations

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Exponential moving average of named tensors, which the optimizer changes in place."""

    def __init__(self, tensors: dict[str, torch.Tensor], decay: float, start: dict[str, torch.Tensor] | None) -> None:
        """Begin with ``start``, or with the values of ``tensors`` now."""
        self._current = {name: tensor.detach() for name, tensor in tensors.items()}
        self.values = {name: (start or self._current)[name].clone() for name in self._current}
        self._move = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Move toward the current values by ``1 - decay``."""
        self._move(list(self.values.values()), list(self._current.values()), 0)
