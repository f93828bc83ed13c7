"""Runs on abliterated weights: an attacker who has them removed the refusal direction before anything is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sarsteer.errors import AttackError
from sarsteer.runtime.shared import SharedModel

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering

ABLITERATED = "abliterated"


@contextmanager
def abliterated_model(shared: SharedModel, steering: Steering) -> Iterator[None]:
    """A context in which the shared model lacks the refusal direction of ``steering``, and is known as another model.

    Raises:
        AttackError: the model has no weights here, or no matrix is known that writes into its residual stream.

    """
    from sarsteer.attacks.gradient.abliteration import abliterated, refusal_direction
    from sarsteer.models.audio_language_model import AudioLanguageModel

    model = shared.model
    if not isinstance(model, AudioLanguageModel):
        raise AttackError(f"abliteration changes a model's weights, and {model.name} has none here; use a local model")
    with shared.altered(ABLITERATED), abliterated(model, refusal_direction(steering)):
        yield
