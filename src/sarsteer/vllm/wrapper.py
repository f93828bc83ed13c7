"""Wrap a function of vLLM, once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sarsteer.errors import SteeringError

_MARK = "_sarsteer_wrapped"


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by a function that calls ``around(original, *args, **kwargs)``. Later calls do nothing.

    Raises:
        SteeringError: ``owner`` has no such function: this vLLM is not the one that was tested.

    """
    original = getattr(owner, name, None)
    if original is None:
        owner_name = getattr(owner, "__name__", type(owner).__name__)
        raise SteeringError(f"this vLLM's {owner_name} has no {name}; install a tested version of vLLM")
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)
