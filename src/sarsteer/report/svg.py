"""Pictures as SVG inside the page: their text stays text, and their colours follow the reader's scheme.

matplotlib, which draws a steering's picture and the demo's, would bake in one background and letters as outlines, and
is an optional extra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

CHARACTER = 0.56
"""Mean width of a letter, in ems: enough to keep labels apart."""


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element. Children that are no markup are escaped; ``class_`` is class, ``text_anchor`` is text-anchor."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(map(escape, children)))


def picture(width: float, height: float, title: str, *children: str) -> Markup:
    """A whole picture with its name for those who cannot see it."""
    return tag(
        "svg",
        tag("title", title),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=title,
    )


def marker(shape: int, x: float, y: float, size: float = 4.5) -> Markup:
    """A point; eight series differ in shape as well as in colour."""
    outlines = (
        None,
        ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
        ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        ((0, 1.3), (1.2, -0.9), (-1.2, -0.9)),
        ((-0.5, -1.2), (0.5, -1.2), (1.2, 0), (0.5, 1.2), (-0.5, 1.2), (-1.2, 0)),
        ((-1.3, -0.6), (1.3, -0.6), (1.3, 0.6), (-1.3, 0.6)),
        ((-0.6, -1.3), (0.6, -1.3), (0.6, 1.3), (-0.6, 1.3)),
    )
    outline = outlines[shape % len(outlines)]
    if outline is None:
        return tag("circle", cx=x, cy=y, r=size, class_="dot")
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in outline)
    return tag("polygon", points=points, class_="dot")


@dataclass(frozen=True)
class Box:
    """A rectangle that something takes up."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: Box) -> float:
        """The area that both take up."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def place(text: str, x: float, y: float, frame: Box, taken: Sequence[Box], size: float) -> tuple[Box, float]:
    """Where a label beside (x, y) hides least, and how much it then hides."""
    width, height = CHARACTER * size * len(text), 1.1 * size
    corners = [(x + 8, y - height / 2), (x - 8 - width, y - height / 2)]
    for away in (7.0, 18.0, 30.0):
        corners += [(x + 4, y - away - height), (x + 4, y + away), (x - width - 4, y - away - height)]
        corners += [(x - width - 4, y + away), (x - width / 2, y - away - height), (x - width / 2, y + away)]
    best, least = Box(0, 0, 0, 0), math.inf
    for left, top in corners:
        box = Box(left, top, left + width, top + height)
        hidden = sum(box.covers(other) for other in taken) + 3 * (width * height - box.covers(frame))
        if hidden < least - 1e-6:
            best, least = box, hidden
    return best, least


def shortened(text: str, letters: int) -> str:
    """``text``, cut where it is longer."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def _number(value: str | float | None) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
