"""The steering vectors, layer by layer: their norms, and how far each layer is moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from sarsteer.report.layer_axis import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, column, layer_axis, legend, level
from sarsteer.report.svg import marker, svg, tag


def norm_chart(layers: Sequence[Mapping[str, Any]]) -> Markup | None:
    """‖r‖, ‖v‖ and the norm of the activations in each layer, on a logarithmic scale; None if all are 0."""
    numbers = [int(row["layer"]) for row in layers]
    lines = (("median ‖h‖", "activation_norm", 0), ("‖r‖", "refusal_norm", 1), ("‖v‖", "vector_norm", 2))
    norms = {name: [(int(row["layer"]), _positive(row.get(key))) for row in layers] for name, key, _ in lines}
    values = [value for line in norms.values() for _, value in line if value is not None]
    if not values:
        return None
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.05 * (high - low), 0.5 * (0.6 - (high - low)))
    low, high = low - margin, high + margin

    def height(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (math.log10(value) - low) / (high - low)

    drawn = [layer_axis(numbers), *(level(height(tick), f"{tick:g}") for tick in _log_ticks(low, high))]
    for name, _, series in lines:
        known = [(column(layer, numbers), height(value)) for layer, value in norms[name] if value is not None]
        if not known:
            continue
        ends = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
        drawn.append(tag("polyline", points=ends, class_=f"line s{series}"))
        drawn += [tag("g", marker(series, x, y, 2.6), class_=f"s{series}") for x, y in known if len(known) <= 48]
    drawn += legend([(name, series) for name, _, series in lines], HEIGHT)
    return svg(WIDTH, HEIGHT + 18, "Norms of the vectors and of the activations, by layer", *drawn)


def strength_chart(layers: Sequence[Mapping[str, Any]]) -> Markup | None:
    """α‖v‖ / median ‖h‖ in each layer, the relative distance that it is moved; None if all are 0."""
    numbers = [int(row["layer"]) for row in layers]
    strengths = [(int(row["layer"]), _positive(row.get("relative_strength"))) for row in layers]
    highest = max((value for _, value in strengths if value is not None), default=0.0)
    if not highest:
        return None
    step = _step(highest)
    top = step * math.ceil(highest / step - 1e-9)
    ticks = [step * i for i in range(round(top / step) + 1)]
    drawn = [
        layer_axis(numbers),
        *(level(BOTTOM - (BOTTOM - TOP) * tick / top, f"{100 * tick:.4g}") for tick in ticks),
    ]
    width = min(24.0, 0.7 * (RIGHT - LEFT) / max(1, len(strengths)))
    for layer, value in strengths:
        if value is not None:
            tall = (BOTTOM - TOP) * value / top
            x = column(layer, numbers) - width / 2
            drawn.append(
                tag(
                    "g",
                    tag("title", f"layer {layer}: {100 * value:.1f} %"),
                    tag("rect", x=x, y=BOTTOM - tall, width=width, height=tall, class_="bar s2"),
                )
            )
    return svg(WIDTH, HEIGHT, "Strength in each layer: α‖v‖ over the norm of the activations, in percent", *drawn)


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(low), math.ceil(high) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [digit * 10.0**power for power in decades for digit in digits]
        shown = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(shown) >= 3:
            break
    return shown


def _step(highest: float) -> float:
    power = 10.0 ** math.floor(math.log10(highest))
    return next(power * digit for digit in (0.2, 0.5, 1, 2) if highest / (power * digit) <= 5)
