"""A gate at each of several layers: calibration keeps the one that tells best, a search may want an earlier one.

A gate leaves its own layer and all below it unsteered. The one that tells harmful from safe best is often near the end,
where little is left to steer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sarsteer.data.manifest import place_errors
from sarsteer.data.pairs import Pairs
from sarsteer.errors import CalibrationError
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.steering.gate.fit import fit_gate
from sarsteer.steering.gate.gate import Gate

MOST = 8
"""Layers that are tried, evenly spread."""


def last_tokens(
    model: AudioLanguageModel, pairs: Pairs, instruction: str, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations of harmful and safe requests at the last prompt token, each ``[n, L, D]``."""
    prompts = []
    for items in (pairs.harmful, pairs.safe):
        with place_errors(items):
            prompts.append(model.prepare([item.turn(instruction) for item in items], remember=False))
    harmful, safe = (model.last_token_activations(rows, batch_size=batch_size) for rows in prompts)
    return harmful, safe


def gate_layers(depth: int) -> list[int]:
    """Layers to try, of all but the last."""
    count = min(MOST, depth - 1)
    return sorted({round(i * (depth - 2) / max(count - 1, 1)) for i in range(count)})


def fit_gates(activations: tuple[torch.Tensor, torch.Tensor], layers: Sequence[int]) -> dict[int, Gate]:
    """A gate at each of these layers that tells harmful from safe."""
    gates = {}
    for layer in layers:
        try:
            gates[layer] = fit_gate(*activations, layers=[layer])
        except CalibrationError:  # this layer does not tell them apart; another may
            continue
    return gates


def refit(measured: Gate, activations: tuple[torch.Tensor, torch.Tensor]) -> tuple[Gate, list[str]]:
    """The measured gate drawn from other activations, at its layer; and notes, where it is not just that.

    Args:
        measured: as ``fit_gates`` made it.
        activations: as ``last_tokens`` gives them, of all pairs.

    """
    layer = measured.layer
    refitted = fit_gates(activations, [layer]).get(layer)
    if refitted is None:
        return measured, [
            f"no gate at layer {layer} could be fitted on all pairs: the file keeps the one that was measured, fitted "
            f"on {measured.metadata['pairs']} of them"
        ]
    old, new = measured.metadata["method"], refitted.metadata["method"]
    if new == old:
        return refitted, []
    return refitted, [
        f"on all pairs the gate at layer {layer} became another detector ({new}, where {old} was measured): evaluate "
        "the file before you rely on what was measured"
    ]
