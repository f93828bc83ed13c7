"""Charts inside a page, as SVG: text stays text, and colors follow the reader's color scheme.

Figures in files come from ``sarsteer.figure``. matplotlib's SVG would fix one background and draw letters as outlines,
and matplotlib is an optional extra.
"""

from __future__ import annotations

from markupsafe import Markup, escape


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element. Children other than markup are escaped; ``class_`` is class, ``text_anchor`` is text-anchor."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(map(escape, children)))


def svg(width: float, height: float, title: str, *children: str) -> Markup:
    """An SVG element with ``title`` as its accessible name."""
    return tag(
        "svg",
        tag("title", title),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=title,
    )


def marker(shape: int, x: float, y: float, size: float = 4.5) -> Markup:
    """A point; eight series differ in shape and color."""
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


def grid_line(left: float, right: float, y: float, text: str) -> Markup:
    """A horizontal grid line with its label on the left; put it into a group of class ``axes``."""
    line = tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid")
    return line + tag("text", text, x=left - 6, y=y + 4, text_anchor="end")


def shortened(text: str, letters: int) -> str:
    """``text``, cut to ``letters`` characters."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def _number(value: str | float | None) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
