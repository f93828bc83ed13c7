"""Gates at several layers: calibration keeps the one that separates best, a search may prefer an earlier one.

A gate's layer and all layers below it are not steered. The gate that separates best is often near the end, with few
layers left to steer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sarsteer.data.manifest import place_errors
from sarsteer.data.pairs import Pairs
from sarsteer.errors import CalibrationError
from sarsteer.models.audio_language_model import AudioLanguageModel
from sarsteer.steering.gate.conformal import lowest_rate
from sarsteer.steering.gate.fit import TARGET_FPR, fit_gate
from sarsteer.steering.gate.gate import Gate


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


def gate_layers(depth: int, most: int = 8) -> list[int]:
    """At most ``most`` layers, evenly spaced over all but the last."""
    count = min(most, depth - 1)
    return sorted({round(i * (depth - 2) / max(count - 1, 1)) for i in range(count)})


def fit_gates(
    activations: tuple[torch.Tensor, torch.Tensor], layers: Sequence[int], requests: Sequence[int] | None = None
) -> dict[int, Gate]:
    """A gate at each of these layers that separates harmful from safe requests.

    Args:
        activations: from ``last_tokens``.
        layers: 0-based.
        requests: the number of each pair's request, from ``request_groups``; by default all are different.

    """
    distinct = len(activations[1]) if requests is None else len(set(requests))
    gates = {}
    for layer in layers:
        try:
            rate = max(TARGET_FPR, lowest_rate(distinct))  # the search sets its own
            gates[layer] = fit_gate(*activations, rate, layers=[layer], pair_requests=requests)
        except CalibrationError:  # this layer does not separate them; another may
            continue
    return gates


def refit(
    measured: Gate, activations: tuple[torch.Tensor, torch.Tensor], requests: Sequence[int] | None = None
) -> tuple[Gate, list[str]]:
    """The measured gate fitted again on other activations, at its layer; and notes if it changed in kind.

    Args:
        measured: a gate from ``fit_gates``.
        activations: from ``last_tokens``, of all pairs.
        requests: as in ``fit_gates``.

    """
    layer = measured.layer
    refitted = fit_gates(activations, [layer], requests).get(layer)
    if refitted is None:
        return measured, [
            f"no gate at layer {layer} could be fitted on all pairs: the file has the measured one, fitted on "
            f"{measured.metadata['pairs']} of them"
        ]
    old, new = measured.metadata["method"], refitted.metadata["method"]
    if new == old:
        return refitted, []
    return refitted, [
        f"on all pairs the gate at layer {layer} uses another detector ({new}; {old} was measured): evaluate the file "
        "before you rely on the measured rates"
    ]
