"""Calibrate: learn a ``Steering`` from a model's reaction to a refusal prompt beside harmful audio.

Each pair needs three activations: ``h(a_harmful, t)``, ``h(a_harmful, t+p)`` and ``h(a_safe, t)``. The two arms on the
harmful clip share everything up to the end of t, and a model computes that prefix once if its family allows it: a pair
then costs two prefills and a few tokens, and each clip is encoded once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sarsteer.data.manifest import Item, place_errors
from sarsteer.data.pairs import Pairs, digest_of_items
from sarsteer.data.requests import request_numbers
from sarsteer.errors import CalibrationError
from sarsteer.files import check_space
from sarsteer.models.activation_source import ActivationSource
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.steering.artifact import DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA, Steering
from sarsteer.steering.checkpoint import CalibrationState, CheckpointWriter, load_state
from sarsteer.steering.file_format import FORMAT_VERSION
from sarsteer.steering.gate.fit import TARGET_FPR, check_target, fit_gate
from sarsteer.steering.provenance import provenance
from sarsteer.steering.subspace import safe_subspace

Progress = Callable[[int, int], None]


def calibrate(
    model: ActivationSource,
    pairs: Pairs,
    refusal_prompt: str = REFUSAL_PROMPT,
    instruction: str = INSTRUCTION,
    *,
    benign: Sequence[Item] = (),
    target_fpr: float | None = TARGET_FPR,
    batch_size: int = DEFAULT_BATCH,
    sources: Mapping[str, str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    gate_progress: Progress | None = None,
) -> Steering:
    """Learn the refusal vectors and the safe subspace of ``model`` from ``pairs``, and fit a gate.

    The gate is fitted on the same activations, and on those of the ``benign`` requests, which cost one forward each.
    The safe subspace is that of the twins, as in the paper: the benign requests take no part in it.

    Args:
        model: the model, unsteered.
        pairs: harmful requests with their safe twins, 100 in the paper; spoken, or in any modality that the model
            accepts, also mixed.
        refusal_prompt: the paper's p, appended to the instruction with no separator.
        instruction: the paper's t, beside every clip.
        benign: safe requests without a twin, such as everyday ones (``load_benign``): they teach the gate what else it
            must leave alone.
        target_fpr: the share of held-out safe clips that may open the gate; None for no gate. If no gate can be
            fitted, such as from fewer than ten pairs, ``metadata["no_gate"]`` of the result says why.
        batch_size: pairs per step.
        sources: where the pairs and the benign requests are from, for the record.
        checkpoint: a file for the progress so far; a killed run resumes from it.
        progress: called with the number of pairs and benign requests done, and of all.
        gate_progress: called with the number of layers in which the gate was fitted and of all such layers.

    Raises:
        CalibrationError: there are fewer than two pairs, a benign request is labeled harmful, the prompt is empty, the
            model is steered, or the checkpoint has other settings.
        AudioError, MessageError: a request is invalid, or in a modality that the model does not accept. The error names
            the item; nothing was computed on it.
        ModelError: the model has no accessible activations.

    """
    model.check_steerable()
    if target_fpr is not None:
        check_target(target_fpr)
    if len(pairs) < 2:
        raise CalibrationError(f"too few pairs ({len(pairs)}): the safe subspace needs at least 2 (the paper: 100)")
    for item in benign:
        if item.harmful:
            raise CalibrationError("is harmful; benign requests must be safe", place=f"benign item {item.id!r}")
    if not refusal_prompt.strip():
        raise CalibrationError("the refusal prompt is empty; give a text such as the paper's")
    if batch_size < 1:
        raise CalibrationError(f"batch_size must be at least 1, not {batch_size}")
    if model.steered:
        raise CalibrationError("this model is steered; remove the steering before calibrating")
    settings = _settings(model, pairs, benign, refusal_prompt, instruction, batch_size)
    if checkpoint is not None:  # float32 rows of every clip and layer; a new file is complete before the old one goes
        rows = 2 * len(pairs) + len(benign)
        check_space(Path(checkpoint), 2 * 4 * rows * model.layer_count * model.hidden_size)
    state = load_state(checkpoint, settings) or CalibrationState.empty(
        len(pairs), len(benign), model.layer_count, model.hidden_size, settings
    )
    writer = CheckpointWriter(checkpoint)

    def report() -> None:
        if progress is not None:
            progress(state.done + state.benign_done, len(pairs) + len(benign))

    report()
    for start in range(state.done, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        with place_errors(batch.harmful):
            plain, prompted = model.paired_activations(
                [item.turn(instruction) for item in batch.harmful],
                [item.turn(instruction + refusal_prompt) for item in batch.harmful],
            )
        with place_errors(batch.safe):
            prompts = model.prepare([item.turn(instruction) for item in batch.safe], remember=False)
        state.add(plain, prompted, model.last_token_activations(prompts, batch_size=batch_size))
        writer.update(state)
        report()
    for start in range(state.benign_done, len(benign), batch_size):
        chosen = benign[start : start + batch_size]
        with place_errors(chosen):
            prompts = model.prepare([item.turn(instruction) for item in chosen], remember=False)
        state.add_benign(model.last_token_activations(prompts, batch_size=batch_size))
        writer.update(state)
        report()
    steering = _finish(model, pairs, state, settings)
    made_from = provenance([*pairs.harmful, *pairs.safe, *benign], sources)
    steering = replace(steering, metadata={**steering.metadata, "benign": len(benign), "made_from": made_from})
    return _with_gate(steering, state, pairs, benign, target_fpr, gate_progress)


def _settings(
    model: ActivationSource,
    pairs: Pairs,
    benign: Sequence[Item],
    refusal_prompt: str,
    instruction: str,
    batch_size: int,
) -> dict[str, Any]:
    """The settings that a resumed run must share with the killed one."""
    return {
        "fingerprint": model.fingerprint.identity,
        "dtype": model.fingerprint.dtype,
        "pairs_digest": pairs.digest,
        "benign_digest": digest_of_items(benign),
        "refusal_prompt": refusal_prompt,
        "instruction": instruction,
        "batch_size": batch_size,
    }


def _finish(model: ActivationSource, pairs: Pairs, state: CalibrationState, settings: dict[str, Any]) -> Steering:
    n = state.done
    basis, values, safe_mean = safe_subspace(state.safe[:n])
    if not torch.isfinite(state.sums["difference"]).all():
        raise CalibrationError("the activations contain NaN or infinite values; load the model in bfloat16 or float32")
    fingerprint = model.fingerprint
    metadata: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "sarsteer_version": _version(),
        "model": {
            "name": model.name,
            "revision": model.revision,
            "family": model.family_name,
            **({} if model.origin is None else {"origin": model.origin}),
        },
        "fingerprint": fingerprint.to_dict(),
        "layers": fingerprint.layers,
        "hidden_size": fingerprint.hidden_size,
        "instruction": settings["instruction"],
        "refusal_prompt": settings["refusal_prompt"],
        "pairs": n,
        "pairs_digest": settings["pairs_digest"],
        "benign_digest": settings["benign_digest"],
        "modalities": {
            "harmful": dict(Counter(item.modality for item in pairs.harmful)),
            "safe": dict(Counter(item.modality for item in pairs.safe)),
        },
        "defaults": {"alpha": DEFAULT_ALPHA, "k": min(DEFAULT_K, basis.shape[1]), "lambda": DEFAULT_LAMBDA},
    }
    return Steering(
        refusal=(state.sums["difference"] / n).float(),
        safe_basis=basis,
        singular_values=values,
        safe_mean=safe_mean,
        harmful_mean=(state.sums["harmful"] / n).float(),
        activation_norms=state.norms[:n].median(dim=0).values,
        metadata=metadata,
    )


def _with_gate(
    steering: Steering,
    state: CalibrationState,
    pairs: Pairs,
    benign: Sequence[Item],
    target_fpr: float | None,
    progress: Progress | None,
) -> Steering:
    reason = "none was requested"
    if target_fpr is not None:
        requests = request_numbers([*((pair.harmful, pair.safe) for pair in pairs), *((item,) for item in benign)])
        try:
            gate = fit_gate(
                state.harmful[: state.done],
                state.safe[: state.done],
                target_fpr,
                benign=state.benign[: state.benign_done],
                pair_groups=[item.group for item in pairs.safe],
                benign_groups=[item.group for item in benign],
                pair_requests=requests[: len(pairs)],
                benign_requests=requests[len(pairs) :],
                progress=progress,
            )
            calibrated = {"fingerprint": steering.fingerprint.digest, "instruction": steering.metadata["instruction"]}
            return steering.with_gate(replace(gate, metadata={**gate.metadata, **calibrated}))
        except CalibrationError as error:
            reason = str(error)
    return replace(steering, metadata={**steering.metadata, "no_gate": reason})


def _version() -> str:
    from sarsteer import __version__

    return __version__
