"""The smaller pictures: attack success by category, and the vectors layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from sarsteer.report.numbers import whole
from sarsteer.report.svg import marker, picture, shortened, tag
from sarsteer.stats.estimate import Estimate

WIDTH = 320.0
ROW = 33.0
LAYERS = 400.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 388.0, 12.0, 204.0


def bars(category: str, rates: Sequence[tuple[str, int, Estimate | None]]) -> Markup:
    """One category: a bar for each defense, its interval across the bar's end, the numbers above it."""
    height = ROW * len(rates) + 16
    drawn = [
        tag("line", x1=x, x2=x, y1=2, y2=ROW * len(rates) + 2, class_="grid")
        for x in (_along(step / 4) for step in range(5))
    ]
    for index, (name, series, rate) in enumerate(rates):
        y = ROW * index + 13
        numbers = "nothing to count" if rate is None else whole(rate)
        letters = max(6, int((WIDTH - 4) / 6.1) - len(numbers) - 2)
        drawn.append(tag("text", shortened(name, letters), x=2, y=y, class_=f"name s{series % 8}"))
        drawn.append(tag("text", numbers, x=WIDTH - 2, y=y, text_anchor="end", class_="numbers"))
        if rate is None:
            continue
        drawn.append(tag("rect", x=2, y=y + 5, width=_along(rate.value) - 2, height=8, class_=f"bar s{series % 8}"))
        low, high = _along(rate.low), _along(rate.high)
        drawn.append(
            tag("path", d=f"M{low:.1f} {y + 6}v6M{low:.1f} {y + 9}H{high:.1f}M{high:.1f} {y + 6}v6", class_="whisker")
        )
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        text = f"{100 * share:g}" + (" %" if share == 1 else "")
        drawn.append(tag("text", text, x=_along(share), y=height - 2, text_anchor=anchor, class_="tick"))
    return picture(WIDTH, height, f"Attack success in {category}", *drawn)


def _along(share: float) -> float:
    return 2 + (WIDTH - 4) * (share if math.isfinite(share) else 0.0)


def norms(layers: Sequence[Mapping[str, Any]]) -> Markup | None:
    """‖r‖, ‖v‖ and the activations' own norm, layer by layer, on a logarithmic scale; None where nothing is above 0."""
    lines = (("median ‖h‖", "activation_norm", 0), ("‖r‖", "refusal_norm", 1), ("‖v‖", "vector_norm", 2))
    found = {name: [(int(row["layer"]), _positive(row.get(key))) for row in layers] for name, key, _ in lines}
    values = [value for line in found.values() for _, value in line if value is not None]
    if not values:
        return None
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.05 * (high - low), 0.5 * (0.6 - (high - low)))
    low, high = low - margin, high + margin

    def height(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (math.log10(value) - low) / (high - low)

    drawn = [_layer_axis(layers), *(_level(height(tick), f"{tick:g}") for tick in _log_ticks(low, high))]
    for name, _, series in lines:
        known = [(_column(layer, layers), height(value)) for layer, value in found[name] if value is not None]
        if not known:
            continue
        ends = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
        drawn.append(tag("polyline", points=ends, class_=f"line s{series}"))
        drawn += [tag("g", marker(series, x, y, 2.6), class_=f"s{series}") for x, y in known if len(known) <= 48]
    drawn += _legend([(name, series) for name, _, series in lines])
    return picture(LAYERS[0], LAYERS[1] + 18, "Norms of the vectors and of the activations, by layer", *drawn)


def strengths(layers: Sequence[Mapping[str, Any]]) -> Markup | None:
    """α‖v‖ / median ‖h‖, layer by layer: how far each is moved; None where nothing is moved."""
    found = [(int(row["layer"]), _positive(row.get("relative_strength"))) for row in layers]
    highest = max((value for _, value in found if value is not None), default=0.0)
    if not highest:
        return None
    step = _step(highest)
    top = step * math.ceil(highest / step - 1e-9)
    levels = [step * i for i in range(round(top / step) + 1)]
    drawn = [
        _layer_axis(layers),
        *(_level(BOTTOM - (BOTTOM - TOP) * level / top, f"{100 * level:.4g}") for level in levels),
    ]
    width = min(24.0, 0.7 * (RIGHT - LEFT) / max(1, len(found)))
    for layer, value in found:
        if value is not None:
            tall = (BOTTOM - TOP) * value / top
            x = _column(layer, layers) - width / 2
            drawn.append(
                tag(
                    "g",
                    tag("title", f"layer {layer}: {100 * value:.1f} %"),
                    tag("rect", x=x, y=BOTTOM - tall, width=width, height=tall, class_="bar s2"),
                )
            )
    return picture(*LAYERS, "Strength in each layer: α‖v‖ over the activations' norm, in per cent", *drawn)


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None


def _column(layer: int, layers: Sequence[Mapping[str, Any]]) -> float:
    first, last = int(layers[0]["layer"]), int(layers[-1]["layer"])
    margin = 0.5 * (RIGHT - LEFT) / max(1, len(layers))
    return LEFT + margin + (RIGHT - LEFT - 2 * margin) * (layer - first) / max(1, last - first)


def _layer_axis(layers: Sequence[Mapping[str, Any]]) -> Markup:
    numbers = [int(row["layer"]) for row in layers]
    every = max(1, math.ceil(len(numbers) / 12))
    return tag(
        "g",
        tag("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="grid"),
        *(
            tag("text", str(number), x=_column(number, layers), y=BOTTOM + 15, text_anchor="middle")
            for number in numbers[::every]
        ),
        tag("text", "decoder layer →", x=RIGHT, y=BOTTOM + 31, text_anchor="end"),
        class_="axes",
    )


def _level(y: float, text: str) -> Markup:
    return tag(
        "g",
        tag("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"),
        tag("text", text, x=LEFT - 6, y=y + 4, text_anchor="end"),
        class_="axes",
    )


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


def _legend(entries: Sequence[tuple[str, int]]) -> list[Markup]:
    drawn, x = [], LEFT
    for name, series in entries:
        drawn.append(tag("g", marker(series, x + 5, LAYERS[1] + 8, 3.6), class_=f"s{series}"))
        drawn.append(tag("text", name, x=x + 15, y=LAYERS[1] + 12, class_="tick"))
        x += 32 + 7 * len(name)
    return drawn
