"""The charts of one request: its harm score on a scale, and its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from sarsteer.report.layer_axis import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, column, layer_axis, legend, level
from sarsteer.report.svg import marker, svg, tag
from sarsteer.steering.gate.gate import Gate
from sarsteer.studio.reading import GateReading, LayerReading

SCALE_WIDTH, SCALE_HEIGHT = 400.0, 118.0
_LEFT, _RIGHT, _AXIS = 12.0, 388.0, 62.0
SAFE, HARMFUL, REQUEST, THRESHOLD = 3, 6, 1, 2
"""Series, as colors and shapes of the reports."""
LETTER = 6.0


def score_scale(gate: Gate, reading: GateReading | None, threshold: float) -> Markup:
    """The scale of scores with the threshold, the held-out scores of calibration, and the request.

    Args:
        gate: the gate.
        reading: of the request; None before there is one.
        threshold: in force.

    """
    held_out = gate.metadata.get("held_out") or {}
    safe, harmful = list(held_out.get("safe", ())), list(held_out.get("harmful", ()))
    shown = [-1.0, 1.0, threshold, *safe, *harmful]
    low, high = float(min(shown)), float(max(shown))
    if reading is not None and math.isfinite(reading.score):  # one strange request does not squeeze the scale
        low, high = min(low, max(reading.score, low - 2)), max(high, min(reading.score, high + 2))
    low, high = low - 0.15, high + 0.15

    def x(score: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (min(max(score, low), high) - low) / (high - low)

    mark = x(threshold)
    drawn = [
        tag("rect", x=mark, y=_AXIS - 14, width=_RIGHT - mark, height=28, class_="open"),
        tag("line", x1=_LEFT, x2=_RIGHT, y1=_AXIS, y2=_AXIS, class_="grid"),
    ]
    for scores, y, series in ((harmful, _AXIS - 12, HARMFUL), (safe, _AXIS + 3, SAFE)):
        drawn.append(
            tag("g", *(tag("line", x1=x(s), x2=x(s), y1=y, y2=y + 9) for s in scores), class_=f"rug s{series}")
        )
    for value in range(math.ceil(low), math.floor(high) + 1):
        drawn.append(tag("text", _signed(str(value)), x=x(value), y=_AXIS + 28, text_anchor="middle", class_="tick"))
    drawn.append(tag("line", x1=mark, x2=mark, y1=_AXIS - 20, y2=_AXIS + 14, class_=f"threshold s{THRESHOLD}"))
    left = reading is not None and reading.score >= threshold  # the request's own label is on the other side
    drawn.append(_label(f"threshold {threshold:.2f}", mark, 36, left, f"name s{THRESHOLD}"))
    title = "Harm score: no request yet"
    if reading is not None:
        title = reading.sentence
        where = x(reading.score) if math.isfinite(reading.score) else _RIGHT
        drawn.append(tag("g", marker(REQUEST, where, _AXIS, 6.5), class_=f"s{REQUEST}"))
        drawn.append(_label(f"this request {reading.score:.2f}", where, 15, not left, f"name s{REQUEST}"))
        drawn.append(tag("line", x1=where, x2=where, y1=5, y2=_AXIS - 8, class_=f"lead s{REQUEST}"))
    drawn.append(_key("held-out safe clips", _LEFT, SAFE))
    drawn.append(_key("held-out harmful clips", _LEFT + 150, HARMFUL))
    return svg(SCALE_WIDTH, SCALE_HEIGHT, _signed(title), *drawn)


def projection_chart(layers: LayerReading, gate: Gate | None) -> Markup:
    """The projections on the refusal vector, in percent of the activations' norm."""
    lines = (
        ("undefended", layers.undefended, 0),
        ("defended", layers.defended, 1),
        ("harmful mean", layers.harmful, 6),
    )
    values = [100 * value for _, row, _ in lines for value in row if math.isfinite(value)]
    low, high = min([0.0, *values]), max([0.0, *values])
    ticks = _ticks(low, high)
    numbers = list(range(len(layers.undefended)))
    drawn = [*_gate_layers(gate, numbers), layer_axis(numbers), *_levels(ticks)]
    for _, row, series in lines:
        points = [(layer, 100 * value) for layer, value in enumerate(row) if math.isfinite(value)]
        drawn += _line(points, ticks, numbers, series)
    drawn += legend([(name, series) for name, _, series in lines], HEIGHT)
    title = "Projection on the refusal vector, in percent of the activations' norm; 0 is the mean of safe clips"
    return svg(WIDTH, HEIGHT + 18, title, *drawn)


def parts_chart(parts: Mapping[int, float], layers: int) -> Markup:
    """What each layer that the gate reads adds to the harm score."""
    numbers = list(range(layers))
    ticks = _ticks(min([0.0, *parts.values()]), max([0.0, *parts.values()]))
    width = min(24.0, 0.7 * (RIGHT - LEFT) / max(1, layers))
    drawn = [layer_axis(numbers), *_levels(ticks)]
    zero = _height(0.0, ticks)
    for layer, value in parts.items():
        y = _height(value, ticks)
        bar = tag(
            "rect",
            x=column(layer, numbers) - width / 2,
            y=min(y, zero),
            width=width,
            height=max(abs(y - zero), 1.0),
            class_="bar s4",
        )
        drawn.append(tag("g", tag("title", _signed(f"layer {layer}: {value:+.2f}")), bar))
    total = sum(parts.values())
    return svg(WIDTH, HEIGHT, _signed(f"What each layer adds to the harm score of {total:.2f}"), *drawn)


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _gate_layers(gate: Gate | None, numbers: Sequence[int]) -> list[Markup]:
    if gate is None:
        return []
    return [
        tag("line", x1=column(layer, numbers), x2=column(layer, numbers), y1=TOP, y2=BOTTOM, class_="gate s4")
        for layer in gate.layers
        if layer < len(numbers)
    ]


def _line(
    points: Sequence[tuple[int, float]], ticks: Sequence[float], numbers: Sequence[int], series: int
) -> list[Markup]:
    placed = [(column(layer, numbers), _height(value, ticks)) for layer, value in points]
    ends = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    drawn = [tag("polyline", points=ends, class_=f"line s{series}")]
    return drawn + [tag("g", marker(series, x, y, 2.6), class_=f"s{series}") for x, y in placed if len(placed) <= 48]


def _levels(ticks: Sequence[float]) -> list[Markup]:
    return [level(_height(tick, ticks), _signed(f"{tick:g}")) for tick in ticks]


def _height(value: float, ticks: Sequence[float]) -> float:
    return BOTTOM - (BOTTOM - TOP) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, about five of them."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * digit for digit in (0.2, 0.5, 1, 2, 5) if span / (power * digit) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]


def _label(text: str, x: float, y: float, left: bool, kind: str) -> Markup:
    """A text beside ``x``, on the left if it fits there and is wanted there."""
    width = LETTER * len(text) + 8
    left = (left and x - width > 0) or x + width > SCALE_WIDTH
    return tag(
        "text", _signed(text), x=x - 5 if left else x + 5, y=y, text_anchor="end" if left else "start", class_=kind
    )


def _key(text: str, x: float, series: int) -> Markup:
    y = SCALE_HEIGHT - 6
    line = tag("g", tag("line", x1=x + 3, x2=x + 3, y1=y - 9, y2=y), class_=f"rug s{series}")
    return line + tag("text", text, x=x + 11, y=y, class_="tick")
