"""How strongly a request is steered, and by which vector set. Every process decides by the same function.

A request chooses in ``SamplingParams.extra_args`` (``vllm_xargs`` over HTTP): ``sarsteer_alpha`` and ``sarsteer_set``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.vllm.settings import ServerSettings

ALPHA, SET = "sarsteer_alpha", "sarsteer_set"


class OverrideError(SteeringError):
    """A request chose a strength or a vector set that it may not use."""


@dataclass(frozen=True)
class RequestStrength:
    """How one request is steered.

    Attributes:
        set_index: position of its vector set in ``ServerSettings.sets``.
        alpha: steering strength.

    """

    set_index: int
    alpha: float


def strength_of(extra_args: Mapping[str, Any] | None, settings: ServerSettings) -> RequestStrength:
    """The strength that a request is steered with.

    Raises:
        OverrideError: the request chose a value that the operator does not allow, or that is invalid.

    """
    chosen = {key: value for key, value in (extra_args or {}).items() if key.startswith("sarsteer")}
    if unknown := sorted(set(chosen) - {ALPHA, SET}):
        raise OverrideError(f"unknown {', '.join(unknown)}; a request may give {ALPHA} and {SET}")
    names = [vector_set.name for vector_set in settings.sets]
    name = chosen.get(SET, names[0])
    if name not in names:
        raise OverrideError(f"unknown {SET} {name!r}; this server has {', '.join(names)}")
    index = names.index(name)
    default = settings.sets[index].alpha
    alpha = chosen.get(ALPHA, default)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise OverrideError(f"{ALPHA} must be a finite number, not {alpha!r}")
    if alpha != default and not _allowed(float(alpha), settings):
        if settings.ignore_refused:
            return RequestStrength(index, default)
        if settings.bounds is None:
            raise OverrideError(f"this server does not let requests choose {ALPHA}; leave it out")
        low, high = settings.bounds
        raise OverrideError(f"{ALPHA} = {alpha:g} is outside what this server allows: {low:g} to {high:g}")
    return RequestStrength(index, float(alpha))


def applied_strength(extra_args: Mapping[str, Any] | None, settings: ServerSettings) -> RequestStrength:
    """As ``strength_of``, but a request that the front end would refuse gets the operator's strength.

    Workers use this: a request that bypassed the front end's check is still steered.
    """
    try:
        return strength_of(extra_args, settings)
    except OverrideError:
        return RequestStrength(0, settings.sets[0].alpha)


def _allowed(alpha: float, settings: ServerSettings) -> bool:
    return settings.bounds is not None and settings.bounds[0] <= alpha <= settings.bounds[1]
