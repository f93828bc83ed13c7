"""Which tokens begin this model's own refusals.

Nothing is assumed of a model's wording or language. The refusal prompt makes it refuse: beside the same harmful clips,
the tokens that gain probability as the answer's first are those that begin its refusals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

COVERED = 0.95
MOST = 32
LEAST_CHANGE = 0.1


@dataclass(frozen=True)
class RefusalTokens:
    """Tokens that begin refusals.

    Attributes:
        ids: ``[R]``, largest gain first.
        gains: of each, its mean probability with the refusal prompt minus that without.
        change: total variation between the two mean distributions, in [0, 1]: how much the prompt changes how answers
            begin.

    """

    ids: tuple[int, ...]
    gains: tuple[float, ...]
    change: float

    @property
    def usable(self) -> bool:
        """Whether the prompt changes enough for the tokens to mean anything."""
        return self.change >= LEAST_CHANGE


def refusal_tokens(prompted: torch.Tensor, plain: torch.Tensor) -> RefusalTokens:
    """From first-token probabilities ``[n, V]`` of harmful clips with the refusal prompt and without.

    The tokens with the largest mean gains, until they hold ``COVERED`` of all that is gained, ``MOST`` at most. A token
    that begins refusals and answers alike (such as "I" in some models) counts where it gains; what the unprompted
    model gives it stands in its probability on safe requests, which the search sees.
    """
    difference = prompted.double().mean(0) - plain.double().mean(0)
    gained = difference.clamp(min=0)
    change = float(gained.sum())
    values, order = gained.topk(min(MOST, len(gained)))
    reached = (values.cumsum(0) >= COVERED * change).nonzero()
    count = int(reached[0]) + 1 if len(reached) else len(values)
    return RefusalTokens(tuple(order[:count].tolist()), tuple(values[:count].tolist()), change)
