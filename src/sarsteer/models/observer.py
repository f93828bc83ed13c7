"""``GenerationObserver``: how a model reports its batches, without knowing that steering observes them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import nn

from sarsteer.models.layers import unwrap

_ATTRIBUTE = "_sarsteer_observer"


class GenerationObserver(Protocol):
    """Follows one ``generate`` call of a model: which batches it answers, and in which order answers are returned."""

    def answering(self) -> AbstractContextManager[None]:
        """Entered while one call answers. Raises if the observer cannot follow two calls at once."""
        ...

    def batch_started(self) -> None:
        """A batch is about to be answered."""
        ...

    def batch_finished(self, rows: int, answers_per_row: int) -> list[list[Any]]:
        """A batch was answered; returns the records of each prompt, one for each of its answers."""
        ...

    def call_finished(self, records: Sequence[Any]) -> None:
        """All batches were answered; ``records`` are in the order of the returned answers."""
        ...


def observer_of(module: nn.Module) -> GenerationObserver | None:
    """The observer of ``module``, if one is attached."""
    observer: GenerationObserver | None = getattr(unwrap(module), _ATTRIBUTE, None)
    return observer


def set_observer(module: nn.Module, observer: GenerationObserver | None) -> None:
    """Attach ``observer`` to ``module``; None detaches the one that is there."""
    inner = unwrap(module)
    if observer is None:
        if hasattr(inner, _ATTRIBUTE):
            delattr(inner, _ATTRIBUTE)
    else:
        setattr(inner, _ATTRIBUTE, observer)
