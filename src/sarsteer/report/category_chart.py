"""Attack success in one category, a bar per defense."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from sarsteer.report.numbers import whole
from sarsteer.report.svg import shortened, svg, tag
from sarsteer.stats.estimate import Estimate

WIDTH = 320.0
ROW = 33.0
DIGIT, LETTER = 6.1, 7.0
"""Mean widths of a digit and of a letter of a name, in pixels."""


def category_chart(category: str, rates: Sequence[tuple[str, int, Estimate | None]]) -> Markup:
    """A bar per defense, with the interval across the end of the bar and the numbers above it.

    Args:
        category: its name.
        rates: name, series and attack success of each defense.

    """
    height = ROW * len(rates) + 16
    drawn = [
        tag("line", x1=x, x2=x, y1=2, y2=ROW * len(rates) + 2, class_="grid")
        for x in (_x(step / 4) for step in range(5))
    ]
    for index, (name, series, rate) in enumerate(rates):
        y = ROW * index + 13
        numbers = "nothing to count" if rate is None else whole(rate)
        letters = max(6, int((WIDTH - 12 - DIGIT * len(numbers)) / LETTER))
        drawn.append(tag("text", shortened(name, letters), x=2, y=y, class_=f"name s{series % 8}"))
        drawn.append(tag("text", numbers, x=WIDTH - 2, y=y, text_anchor="end", class_="numbers"))
        if rate is None:
            continue
        drawn.append(tag("rect", x=2, y=y + 5, width=_x(rate.value) - 2, height=8, class_=f"bar s{series % 8}"))
        low, high = _x(rate.low), _x(rate.high)
        drawn.append(
            tag("path", d=f"M{low:.1f} {y + 6}v6M{low:.1f} {y + 9}H{high:.1f}M{high:.1f} {y + 6}v6", class_="whisker")
        )
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        text = f"{100 * share:g}" + (" %" if share == 1 else "")
        drawn.append(tag("text", text, x=_x(share), y=height - 2, text_anchor=anchor, class_="tick"))
    return svg(WIDTH, height, f"Attack success in {category}", *drawn)


def _x(share: float) -> float:
    return 2 + (WIDTH - 4) * (share if math.isfinite(share) else 0.0)
