"""Figures in files (PNG, SVG, PDF), drawn by matplotlib. Charts inside a page come from ``sarsteer.report.svg``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from sarsteer.errors import MissingExtraError, SarsteerError
from sarsteer.files import atomic_path

SUFFIXES = (".png", ".svg", ".pdf")
INK, BLUE, ORANGE, GREEN, GRAY = "#1f2430", "#2563a8", "#d9730d", "#2e7d4f", "#8a919e"
GRID = "#e3e6eb"
_DARK = {
    "#ffffff": "#0d1117",
    "#000000": "#e6e9ee",
    INK: "#e6e9ee",
    GRAY: "#9aa3b0",
    BLUE: "#6aaef5",
    ORANGE: "#f59a55",
    GREEN: "#6cc592",
    GRID: "#333a45",
}
"""What each color becomes on a dark page."""


def check_figure_path(path: Path) -> None:
    """Check that ``save_figure`` can write ``path``; commands call this before their work.

    Raises:
        SarsteerError: the suffix is not one of ``SUFFIXES``, the folder does not exist, or matplotlib is missing.

    """
    if path.suffix.lower() not in SUFFIXES:
        kind = path.suffix or "a file without a suffix"
        raise SarsteerError(f"cannot draw into {kind}; use .png, .svg or .pdf", place=str(path))
    if path.is_dir():
        raise SarsteerError("is a folder; choose a file", place=str(path))
    if not path.parent.is_dir():
        raise SarsteerError(f"is not in an existing folder; create {path.parent} first", place=str(path))
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("drawing", "plot")


def new_figure(columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure with ``columns`` axes in one row, drawn without a screen.

    ``width`` and ``height`` are of the whole figure, in inches.

    Raises:
        MissingExtraError: matplotlib is missing.

    """
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("drawing", "plot") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=INK, labelsize=9)
    return figure, axes[0]


def save_figure(figure: Any, path: Path) -> None:
    """Write the figure in the format of the suffix. A failed write leaves no file."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=130)


def darken(figure: Any) -> None:
    """Change the colors of a finished figure to those of a dark page. Other colors than this module's stay."""
    from matplotlib.colors import to_hex, to_rgba

    def changed(color: Any) -> Any:
        red, green, blue, alpha = to_rgba(color)
        other = _DARK.get(to_hex((red, green, blue)))
        return color if other is None else (*to_rgba(other)[:3], alpha)

    for artist in figure.findobj():
        for name in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            get, put = getattr(artist, f"get_{name}", None), getattr(artist, f"set_{name}", None)
            if get is None or put is None:
                continue
            color = get()
            if isinstance(color, str) or (len(color) in (3, 4) and not hasattr(color[0], "__len__")):
                if to_rgba(color)[3]:
                    put(changed(color))
            elif len(color):  # a collection: one color for each of its parts
                put([changed(one) for one in color])


def save_light_and_dark(figure: Any, path: Path) -> tuple[Path, Path]:
    """Write ``NAME-light.SUFFIX`` and ``NAME-dark.SUFFIX``. The figure is dark afterwards."""
    light, dark = (path.with_name(f"{path.stem}-{mode}{path.suffix}") for mode in ("light", "dark"))
    save_figure(figure, light)
    darken(figure)
    save_figure(figure, dark)
    return light, dark
