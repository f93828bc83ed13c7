"""Calibrate: from a model's reaction to a refusal prompt beside harmful audio to a ``Steering``.

For every pair three activations are needed: ``h(a_harmful, t)``, ``h(a_harmful, t+p)`` and ``h(a_safe, t)``. The two
arms on the harmful clip share everything up to the end of t, so that where the family allows it the second arm
continues the first one's key-value cache: a pair costs two prefills and a few tokens, and each clip is encoded once.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from sarsteer.data.manifest import place_errors
from sarsteer.data.pairs import Pairs
from sarsteer.errors import CalibrationError
from sarsteer.models.activation_source import ActivationSource
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.steering.artifact import DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA, Steering
from sarsteer.steering.checkpoint import CalibrationState, load_state, save_state
from sarsteer.steering.file_format import FORMAT_VERSION
from sarsteer.steering.gate.fit import TARGET_FPR, check_target, fit_gate
from sarsteer.steering.subspace import safe_subspace

Progress = Callable[[int, int], None]


def calibrate(
    model: ActivationSource,
    pairs: Pairs,
    refusal_prompt: str = REFUSAL_PROMPT,
    instruction: str = INSTRUCTION,
    *,
    target_fpr: float | None = TARGET_FPR,
    batch_size: int = DEFAULT_BATCH,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Steering:
    """Draw the refusal vectors and the safe subspace of ``model`` from ``pairs``, and fit a gate, with no forward more.

    Args:
        model: the model; it must not be steered meanwhile.
        pairs: harmful requests with their safe twins, 100 in the paper; spoken, or of any modality that the model
            takes, also mixed.
        refusal_prompt: the paper's p, appended to the instruction with no separator.
        instruction: the paper's t, beside every clip.
        target_fpr: the share of held-out safe clips that may open the gate; None for no gate. Where none can be fitted,
            as from fewer than ten pairs, the result has none, and its ``metadata["no_gate"]`` says why.
        batch_size: pairs a step.
        checkpoint: a file that holds what was done so far; a run that was killed goes on from it.
        progress: called with the number of pairs done and of all pairs.

    Raises:
        CalibrationError: fewer than two pairs, an empty prompt, a steered model, or a checkpoint of other settings.
        AudioError, MessageError: a request is bad, or of a modality that the model does not take; named by its item,
            before anything was computed on it.
        ModelError: the model shows no activations.

    """
    model.check_steerable()
    if target_fpr is not None:
        check_target(target_fpr)
    if len(pairs) < 2:
        raise CalibrationError(f"{len(pairs)} pair is too few: the safe subspace needs at least 2 (the paper: 100)")
    if not refusal_prompt.strip():
        raise CalibrationError("the refusal prompt is empty; without it there is nothing to steer towards")
    if batch_size < 1:
        raise CalibrationError(f"batch_size must be at least 1, not {batch_size}")
    if model.steered:
        raise CalibrationError("this model is steered; remove the steering before calibrating")
    settings = _settings(model, pairs, refusal_prompt, instruction, batch_size)
    state = load_state(checkpoint, settings) or CalibrationState.empty(
        len(pairs), model.layer_count, model.hidden_size, settings
    )
    if progress is not None:
        progress(state.done, len(pairs))
    saving, saved_at = 0.0, -math.inf
    for start in range(state.done, len(pairs), batch_size):
        rows = pairs[start : start + batch_size]
        with place_errors(rows.harmful):
            plain, prompted = model.paired_activations(
                [item.turn(instruction) for item in rows.harmful],
                [item.turn(instruction + refusal_prompt) for item in rows.harmful],
            )
        with place_errors(rows.safe):
            prompts = model.prepare([item.turn(instruction) for item in rows.safe], remember=False)
        safe = model.last_token_activations(prompts, batch_size=batch_size)
        state.add(plain, prompted, safe)
        # the file grows with n: save as often as costs at most a twentieth of the time
        if checkpoint is not None and time.monotonic() - saved_at >= 20 * saving:
            began = time.monotonic()
            save_state(checkpoint, state)
            saved_at = time.monotonic()
            saving = saved_at - began
        if progress is not None:
            progress(state.done, len(pairs))
    return _with_gate(_finish(model, pairs, state, settings), state, target_fpr)


def _settings(
    model: ActivationSource, pairs: Pairs, refusal_prompt: str, instruction: str, batch_size: int
) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was killed."""
    return {
        "fingerprint": model.fingerprint.digest,
        "pairs_digest": pairs.digest,
        "refusal_prompt": refusal_prompt,
        "instruction": instruction,
        "batch_size": batch_size,
    }


def _finish(model: ActivationSource, pairs: Pairs, state: CalibrationState, settings: dict[str, Any]) -> Steering:
    n = state.done
    basis, values, safe_mean = safe_subspace(state.safe[:n])
    if not torch.isfinite(state.difference_sum).all():
        raise CalibrationError("the activations hold NaN or infinite values; load the model in bfloat16 or float32")
    fingerprint = model.fingerprint
    metadata: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "sarsteer_version": _version(),
        "model": {"name": model.name, "revision": model.revision, "family": model.family_name},
        "fingerprint": {**vars(fingerprint), "sample": list(fingerprint.sample)},
        "layers": fingerprint.layers,
        "hidden_size": fingerprint.hidden_size,
        "instruction": settings["instruction"],
        "refusal_prompt": settings["refusal_prompt"],
        "pairs": n,
        "pairs_digest": settings["pairs_digest"],
        "modalities": {
            "harmful": dict(Counter(item.modality for item in pairs.harmful)),
            "safe": dict(Counter(item.modality for item in pairs.safe)),
        },
        "defaults": {"alpha": DEFAULT_ALPHA, "k": min(DEFAULT_K, basis.shape[1]), "lambda": DEFAULT_LAMBDA},
    }
    return Steering(
        refusal=(state.difference_sum / n).float(),
        safe_basis=basis,
        singular_values=values,
        safe_mean=safe_mean,
        harmful_mean=(state.harmful_sum / n).float(),
        activation_norms=state.norms[:n].median(dim=0).values,
        metadata=metadata,
    )


def _with_gate(steering: Steering, state: CalibrationState, target_fpr: float | None) -> Steering:
    why = "none was requested"
    if target_fpr is not None:
        try:
            gate = fit_gate(state.harmful[: state.done], state.safe[: state.done], target_fpr)
            made_for = {"fingerprint": steering.fingerprint.digest, "instruction": steering.metadata["instruction"]}
            return steering.with_gate(replace(gate, metadata={**gate.metadata, **made_for}))
        except CalibrationError as error:
            why = str(error)
    return replace(steering, metadata={**steering.metadata, "no_gate": why})


def _version() -> str:
    from sarsteer import __version__

    return __version__
