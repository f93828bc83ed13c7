"""The steering file of a pooled calibration, and calibration of one set of clips in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs, digest_of_items
from sarsteer.errors import CalibrationError
from sarsteer.models.activation_source import ActivationSource
from sarsteer.models.fingerprint import Fingerprint
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.steering.artifact import DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA, Steering
from sarsteer.steering.file_format import FORMAT_VERSION
from sarsteer.steering.gate.fit import TARGET_FPR, check_target
from sarsteer.steering.pooled.calibration import Pooled, advance
from sarsteer.steering.pooled.collect import collect
from sarsteer.steering.pooled.rounds import ROUNDS, answer
from sarsteer.steering.pooled.setting import Rows, Setting
from sarsteer.steering.pooled.sums import Sums
from sarsteer.steering.provenance import provenance

RANK = 64
FARTHER = 8.0
"""The radius around the center, as a multiple of the center's norm: clips of calibration are never beyond it."""
Progress = Callable[[int, int], None]


def model_record(model: ActivationSource) -> dict[str, Any]:
    """What an artifact records about a model."""
    record = {"name": model.name, "revision": model.revision, "family": model.family_name}
    return record if model.origin is None else {**record, "origin": model.origin}


def steering_of(
    pooled: Pooled,
    model: Mapping[str, Any],
    fingerprint: Fingerprint,
    instruction: str,
    refusal_prompt: str,
    more: Mapping[str, Any],
) -> Steering:
    """The steering file's content.

    Args:
        pooled: what the sums gave.
        model: see ``model_record``.
        fingerprint: of the model.
        instruction: the paper's t.
        refusal_prompt: the paper's p.
        more: further metadata.

    """
    from sarsteer import __version__

    rank = pooled.tensors["safe_basis"].shape[1]
    metadata: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "sarsteer_version": __version__,
        "model": dict(model),
        "fingerprint": fingerprint.to_dict(),
        "layers": fingerprint.layers,
        "hidden_size": fingerprint.hidden_size,
        "instruction": instruction,
        "refusal_prompt": refusal_prompt,
        **pooled.counts,
        "defaults": {"alpha": DEFAULT_ALPHA, "k": min(DEFAULT_K, rank), "lambda": DEFAULT_LAMBDA},
        **more,
    }
    steering = Steering(metadata=metadata, **pooled.tensors)  # type: ignore[arg-type]  # all names are tensors
    if pooled.gate is None:
        return replace(steering, metadata={**metadata, "no_gate": pooled.no_gate})
    calibrated = {"fingerprint": fingerprint.digest, "instruction": instruction}
    return steering.with_gate(replace(pooled.gate, metadata={**pooled.gate.metadata, **calibrated}))


def pool(setting: Setting, rows: Sequence[Rows], *, gate: bool = True, progress: Progress | None = None) -> Pooled:
    """The calibration of all ``rows`` together; each is asked for its sums in every round."""
    past: list[Sums] = []
    while True:
        step = advance(setting, past, gate=gate)
        if isinstance(step, Pooled):
            return step
        if progress is not None:
            progress(len(past), len(ROUNDS))
        past.append(sum((answer(setting, step, one) for one in rows[1:]), answer(setting, step, rows[0])))


def calibrate_streaming(
    model: ActivationSource,
    pairs: Pairs,
    refusal_prompt: str = REFUSAL_PROMPT,
    instruction: str = INSTRUCTION,
    *,
    folder: Path,
    rank: int = RANK,
    benign: Sequence[Item] = (),
    target_fpr: float | None = TARGET_FPR,
    batch_size: int = DEFAULT_BATCH,
    sources: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    gate_progress: Progress | None = None,
) -> Steering:
    """``calibrate`` in memory that does not depend on the number of pairs: activations stay on disk, sums in memory.

    The refusal vectors are those of ``calibrate``, and with ``rank`` at least the rank of the twins' activations, so is
    the safe subspace. The gate is fitted on part of the clips and its threshold set on others, without the folds of
    ``calibrate``: it needs more clips to be as good, and its stated rate is exact.

    Args:
        model: the model, unsteered.
        pairs: harmful requests with their safe twins.
        refusal_prompt: the paper's p.
        instruction: the paper's t.
        folder: for the activations; a killed run resumes from it. The caller deletes it.
        rank: of the sketch of second moments.
        benign: safe requests without a twin.
        target_fpr: the share of safe requests that may open the gate; None for no gate.
        batch_size: pairs per step.
        sources: where the clips are from.
        progress: called with the number of pairs and benign requests done, and of all.
        gate_progress: called with the number of rounds done and of all.

    Raises:
        CalibrationError: as in ``calibrate``.

    """
    if target_fpr is not None:
        check_target(target_fpr)
    if len(pairs) < 2:
        raise CalibrationError(f"too few pairs ({len(pairs)}): the safe subspace needs at least 2 (the paper: 100)")
    rows = collect(model, pairs, benign, instruction, refusal_prompt, folder, batch_size=batch_size, progress=progress)
    setting = local_setting(rows, rank, TARGET_FPR if target_fpr is None else target_fpr)
    pooled = pool(setting, [rows], gate=target_fpr is not None, progress=gate_progress)
    more = {
        "pairs_digest": pairs.digest,
        "benign_digest": digest_of_items(benign),
        "sketch": {"rank": setting.columns, "seed": setting.seed},
        "made_from": provenance([*pairs.harmful, *pairs.safe, *benign], sources),
    }
    return steering_of(pooled, model_record(model), model.fingerprint, instruction, refusal_prompt, more)


def local_setting(rows: Rows, rank: int = RANK, target_fpr: float = TARGET_FPR) -> Setting:
    """The setting for clips of one place: the center is the first clip's activations."""
    center = torch.as_tensor(rows.harmful[:1])[0].double()
    return Setting(
        pair_groups=tuple(sorted({item.group for item in rows.pair_items})),
        benign_groups=tuple(sorted({item.group for item in rows.benign_items})),
        center=center,
        radius=FARTHER * center.norm(dim=1).clamp(min=1e-6),
        rank=rank,
        target_fpr=target_fpr,
    )
