"""How strongly a request is steered, and by which vectors. The same function decides in every process.

A request asks in ``SamplingParams.extra_args`` (``vllm_xargs`` over HTTP): ``sarsteer_alpha`` and ``sarsteer_set``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.vllm.settings import Settings

ALPHA, SET = "sarsteer_alpha", "sarsteer_set"


class OverrideError(SteeringError):
    """A request asks for a strength or a vector set that it may not have."""


@dataclass(frozen=True)
class Strength:
    """Of one request.

    Attributes:
        index: of its vector set.
        alpha: steering strength.

    """

    index: int
    alpha: float


def strength_of(extra_args: Mapping[str, Any] | None, settings: Settings) -> Strength:
    """What a request gets.

    Raises:
        OverrideError: it asks for what the operator did not allow, or for nothing that exists.

    """
    asked = {key: value for key, value in (extra_args or {}).items() if key.startswith("sarsteer")}
    if unknown := sorted(set(asked) - {ALPHA, SET}):
        raise OverrideError(f"unknown {', '.join(unknown)}; a request may give {ALPHA} and {SET}")
    names = [one.name for one in settings.sets]
    name = asked.get(SET, names[0])
    if name not in names:
        raise OverrideError(f"there is no {SET} {name!r}; this server has {', '.join(names)}")
    index = names.index(name)
    own = settings.sets[index].alpha
    alpha = asked.get(ALPHA, own)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise OverrideError(f"{ALPHA} must be a finite number, not {alpha!r}")
    if alpha != own and not _allowed(float(alpha), settings):
        if settings.ignore_refused:
            return Strength(index, own)
        if settings.bounds is None:
            raise OverrideError(f"this server does not let requests choose {ALPHA}; leave it out")
        low, high = settings.bounds
        raise OverrideError(f"{ALPHA} = {alpha:g} is beyond what this server allows: {low:g} to {high:g}")
    return Strength(index, float(alpha))


def applied_strength(extra_args: Mapping[str, Any] | None, settings: Settings) -> Strength:
    """As ``strength_of``, but what the front end would have refused gets the operator's own strength.

    Workers use this: a request that came past the front end's check is steered all the same.
    """
    try:
        return strength_of(extra_args, settings)
    except OverrideError:
        return Strength(0, settings.sets[0].alpha)


def _allowed(alpha: float, settings: Settings) -> bool:
    return settings.bounds is not None and settings.bounds[0] <= alpha <= settings.bounds[1]
