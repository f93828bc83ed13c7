"""Where the labels of points go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHARACTER = 0.56
"""Mean width of a letter, in ems: enough to keep labels apart."""


@dataclass(frozen=True)
class Box:
    """A rectangle that is in use."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: Box) -> float:
        """The area of the overlap."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def place_label(text: str, x: float, y: float, frame: Box, taken: Sequence[Box], size: float) -> tuple[Box, float]:
    """The best place for the label of the point (x, y), and the area that the label covers there.

    The label avoids ``taken``; leaving ``frame`` counts three times as much. ``size`` is the font's, in pixels.
    """
    width, height = CHARACTER * size * len(text), 1.1 * size
    corners = [(x + 8, y - height / 2), (x - 8 - width, y - height / 2)]
    for away in (7.0, 18.0, 30.0):
        corners += [(x + 4, y - away - height), (x + 4, y + away), (x - width - 4, y - away - height)]
        corners += [(x - width - 4, y + away), (x - width / 2, y - away - height), (x - width / 2, y + away)]
    best, least = Box(0, 0, 0, 0), math.inf
    for left, top in corners:
        box = Box(left, top, left + width, top + height)
        covered = sum(box.covers(other) for other in taken) + 3 * (width * height - box.covers(frame))
        if covered < least - 1e-6:
            best, least = box, covered
    return best, least
