"""Calibrations of the plan's models, cached by everything that they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.errors import ArtifactError
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.reproduction.plan import Step, steering_of

if TYPE_CHECKING:
    from sarsteer.data.pairs import Pairs
    from sarsteer.runtime.shared import SharedModel
    from sarsteer.steering.artifact import Steering


def calibrated(
    shared: SharedModel, pairs: Pairs, step: Step, out: Path, progress: Callable[[str, int, int], None]
) -> Steering:
    """The steering of ``pairs``, also written into the step's folder.

    Raises:
        ArtifactError: the cached steering is damaged.
        CalibrationError: the model cannot be calibrated on these pairs.

    """
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.calibration import calibrate

    model: Any = shared.model
    model.check_steerable()
    content = "\0".join((model.fingerprint.identity, pairs.digest, INSTRUCTION, REFUSAL_PROMPT))
    cached = out / "calibrations" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"
    cached.parent.mkdir(parents=True, exist_ok=True)
    if cached.is_file():
        try:
            steering = Steering.load(cached)
        except ArtifactError:
            raise ArtifactError("is damaged; delete it and run again", place=str(cached)) from None
    else:
        partial = cached.with_suffix(".partial")
        steering = calibrate(
            model,
            pairs,
            batch_size=shared.batch_size,
            checkpoint=partial,
            progress=lambda done, total: progress(f"Calibrating {step.model} on {len(pairs)} pairs", done, total),
        )
        steering.save(cached)
        partial.unlink(missing_ok=True)
    file = steering_of(step, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file() or Steering.load(file).digest != steering.digest:
        steering.save(file)
    return steering
