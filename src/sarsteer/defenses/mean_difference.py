"""The mean-difference baselines: vectors from activations of calibration pairs, made once for a run and kept in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs
from sarsteer.errors import CalibrationError
from sarsteer.files import atomic_path
from sarsteer.judges import Judge, Judged, judge_all
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.prompts import INSTRUCTION
from sarsteer.steering.baselines import c2r, h2s


def difference_vectors(
    kind: str,
    model: AudioLanguageModel,
    pairs: Pairs,
    judge: Judge,
    cache: Path | None,
    batch_size: int = DEFAULT_BATCH,
) -> torch.Tensor:
    """The vectors of ``h2s`` or ``c2r``, ``[L, D]``, raw.

    Args:
        kind: ``"h2s"`` or ``"c2r"``.
        model: the model, not steered.
        pairs: the calibration pairs.
        judge: tells, for c2r, which requests the model refuses.
        cache: a folder in which vectors are kept by what they depend on.
        batch_size: conversations a forward.

    Raises:
        CalibrationError: c2r finds no refused, or no answered, request among the pairs.

    """
    parts = [kind, model.fingerprint.digest, pairs.digest, INSTRUCTION, judge.signature if kind == "c2r" else ""]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    file = None if cache is None else cache / f"{kind}-{name}.safetensors"
    if file is not None and file.is_file():
        return _load(file)
    if kind == "h2s":
        vectors = h2s(*(_activations(model, items, batch_size) for items in (pairs.harmful, pairs.safe)))
    else:
        vectors = _c2r(model, pairs, judge, batch_size)
    if file is not None:
        from safetensors.torch import save_file

        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            save_file({"vectors": vectors.contiguous()}, temporary)
    return vectors


def _load(file: Path) -> torch.Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)["vectors"]
    except (SafetensorError, KeyError, OSError):
        raise CalibrationError(f"{file}: is damaged; delete it, and it is made anew") from None


def _activations(model: AudioLanguageModel, items: list[Item], batch_size: int) -> torch.Tensor:
    return model.last_token_activations([item.turn(INSTRUCTION) for item in items], batch_size=batch_size)


def _c2r(model: AudioLanguageModel, pairs: Pairs, judge: Judge, batch_size: int) -> torch.Tensor:
    items = [*pairs.harmful, *pairs.safe]
    answers = model.generate([item.turn(INSTRUCTION) for item in items], batch_size=batch_size)
    judged = [
        Judged(item.question, answer, "harmful" if item.harmful else "safe", reference=item.answer, id=item.id)
        for item, answer in zip(items, answers, strict=True)
    ]
    outcomes = [verdict.outcome for verdict in judge_all(judge, judged)]
    chosen = {
        what: [item for item, outcome in zip(items, outcomes, strict=True) if outcome == what]
        for what in ("complied", "refused")
    }
    for what, rows in chosen.items():
        if not rows:
            raise CalibrationError(
                f"c2r needs requests that are {'answered' if what == 'complied' else 'refused'}, and by judge "
                f"{judge.name!r} {model.name} does so with none of {len(items)}; give other pairs, or leave c2r out"
            )
    return c2r(*(_activations(model, chosen[what], batch_size) for what in ("complied", "refused")))
