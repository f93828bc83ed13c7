"""Which layers matter: one layer steered alone, and all but one, by the surrogate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sarsteer.tuning.setting import Setting, above_gate
from sarsteer.tuning.space import Space
from sarsteer.tuning.surrogate import Scores, Surrogate


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        layer: 0-based.
        alone: only this layer is steered, and gets the whole push that all layers together had: at its own small part
            hardly anything would show.
        alone_alpha: the strength that this takes.
        without: all others are steered, as in the whole; None where there is no other.

    """

    layer: int
    alone: Scores
    alone_alpha: float
    without: Scores | None


@dataclass(frozen=True)
class LayerStudy:
    """Every layer that the setting steers, and what all of them do together, and none."""

    setting: Setting
    rows: tuple[LayerRow, ...]
    whole: Scores
    undefended: Scores


def study_layers(
    surrogate: Surrogate, space: Space, setting: Setting, progress: Callable[[int, int], None] = lambda *_: None
) -> LayerStudy:
    """Score each steered layer alone, and all but each.

    Args:
        surrogate: on pairs that the steering was not drawn from.
        space: of the same steering.
        setting: what is taken apart; with a gate, in the layers above it.
        progress: called with the layers done, and all of them.

    """
    weights = above_gate(setting.layer_weights, setting.gate(space.gates))
    setting = replace(setting, layer_weights=weights)  # of all together, too, as under the real hooks
    steered = [layer for layer, weight in enumerate(weights) if weight]
    push = setting.alpha * space.push_at_one(setting.k, setting.lambda_, weights)
    rows = []
    for number, layer in enumerate(steered):
        progress(number, len(steered))
        one = tuple(float(other == layer) for other in range(space.depth))
        reach = space.push_at_one(setting.k, setting.lambda_, one)
        alpha = push / reach if reach else 0.0
        rest = tuple(0.0 if other == layer else weight for other, weight in enumerate(weights))
        rows.append(
            LayerRow(
                layer=layer,
                alone=surrogate.score(replace(setting, alpha=alpha, layer_weights=one)),
                alone_alpha=alpha,
                without=surrogate.score(replace(setting, layer_weights=rest)) if any(rest) else None,
            )
        )
    progress(len(steered), len(steered))
    return LayerStudy(setting, tuple(rows), surrogate.score(setting), surrogate.score(None))
