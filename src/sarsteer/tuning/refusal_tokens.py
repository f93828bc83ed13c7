"""Which tokens start this model's refusals.

Nothing is assumed about a model's wording or language. The refusal prompt makes it refuse: on the same harmful clips,
the tokens whose probability as the first answer token increases are those that start its refusals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

COVERED = 0.95
"""Share of the total gain that the tokens must cover."""
MAX_TOKENS = 32
MIN_CHANGE = 0.1


@dataclass(frozen=True)
class RefusalTokens:
    """Tokens that start refusals.

    Attributes:
        ids: ``[R]``, largest gain first.
        gains: for each, its mean probability with the refusal prompt minus that without.
        change: total variation between the two mean distributions, in [0, 1]: how much the prompt changes first tokens.

    """

    ids: tuple[int, ...]
    gains: tuple[float, ...]
    change: float

    @property
    def usable(self) -> bool:
        """Whether the prompt changes first tokens enough."""
        return self.change >= MIN_CHANGE


def refusal_tokens(prompted: torch.Tensor, plain: torch.Tensor) -> RefusalTokens:
    """From first-token probabilities ``[n, V]`` of harmful clips with the refusal prompt and without.

    Takes the tokens with the largest mean gains until they cover ``COVERED`` of the total gain, at most ``MAX_TOKENS``.
    A token that starts both refusals and answers (such as "I" in some models) is included if it gains; its probability
    on safe requests is visible to the search.
    """
    difference = prompted.double().mean(0) - plain.double().mean(0)
    gained = difference.clamp(min=0)
    change = float(gained.sum())
    values, order = gained.topk(min(MAX_TOKENS, len(gained)))
    reached = (values.cumsum(0) >= COVERED * change).nonzero()
    count = int(reached[0]) + 1 if len(reached) else len(values)
    return RefusalTokens(tuple(order[:count].tolist()), tuple(values[:count].tolist()), change)
