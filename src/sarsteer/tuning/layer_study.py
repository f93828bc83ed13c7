"""Which layers matter: each layer steered alone, and all layers but one, estimated by the surrogate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sarsteer.tuning.configuration import Configuration, above_gate
from sarsteer.tuning.scores import SurrogateScores
from sarsteer.tuning.space import Space
from sarsteer.tuning.surrogate import Surrogate


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        layer: 0-based.
        alone: only this layer is steered, with the push of all layers together: its own small part would hardly show.
        alone_alpha: the α of that push.
        without: all other layers are steered as in the whole; None if there is no other layer.

    """

    layer: int
    alone: SurrogateScores
    alone_alpha: float
    without: SurrogateScores | None


@dataclass(frozen=True)
class LayerStudy:
    """Every steered layer; all of them together (``whole``), and no steering (``undefended``)."""

    configuration: Configuration
    rows: tuple[LayerRow, ...]
    whole: SurrogateScores
    undefended: SurrogateScores

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        values = {name: value for name, value in asdict(self).items() if name != "configuration"}
        return {"setting": self.configuration.to_json(), **values}


def study_layers(
    surrogate: Surrogate,
    space: Space,
    configuration: Configuration,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> LayerStudy:
    """Score each steered layer alone, and all but each.

    Args:
        surrogate: on pairs that the steering was not calibrated on.
        space: of the same steering.
        configuration: what is studied; with a gate, only the layers above it.
        progress: called with the number of layers done and of all layers.

    """
    strength = space.steering.resolve(configuration.strength)
    gate_layer = None if configuration.gate is None else configuration.gate.layer
    weights = above_gate(strength.layer_weights, gate_layer)
    configuration = configuration.with_strength(layer_weights=weights)
    steered = [layer for layer, weight in enumerate(weights) if weight]
    push = strength.alpha * space.push_at_one(strength.k, strength.lambda_, weights)
    rows = []
    for number, layer in enumerate(steered):
        progress(number, len(steered))
        only = tuple(float(other == layer) for other in range(space.depth))
        push_at_one = space.push_at_one(strength.k, strength.lambda_, only)
        alpha = push / push_at_one if push_at_one else 0.0
        others = tuple(0.0 if other == layer else weight for other, weight in enumerate(weights))
        without = configuration.with_strength(layer_weights=others)
        rows.append(
            LayerRow(
                layer=layer,
                alone=surrogate.score(configuration.with_strength(alpha=alpha, layer_weights=only)),
                alone_alpha=alpha,
                without=surrogate.score(without) if any(others) else None,
            )
        )
    progress(len(steered), len(steered))
    return LayerStudy(configuration, tuple(rows), surrogate.score(configuration), surrogate.score(None))
