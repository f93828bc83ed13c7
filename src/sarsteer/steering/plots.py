"""Pictures of a steering: its vectors layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarsteer.errors import MissingExtraError, SarsteerError
from sarsteer.files import atomic_path
from sarsteer.steering.diagnostics import LayerReport

INK, BLUE, ORANGE, GREEN, GREY = "#1f2430", "#2563a8", "#d9730d", "#2e7d4f", "#8a919e"


def new_figure(columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure with axes in our style, drawn without a screen."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("drawing", "plot") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e3e6eb", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=INK, labelsize=9)
    return figure, axes[0]


def plot_layers(reports: Sequence[LayerReport], path: Path, title: str) -> None:
    """Draw norms, kept share and relative strength over the layers; the suffix of ``path`` sets the format.

    Raises:
        SarsteerError: the suffix is of no known format, or matplotlib is missing.

    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise SarsteerError(
            f"{path}: cannot draw into {path.suffix or 'a file without suffix'}; use .png, .svg or .pdf"
        )
    figure = draw_layers(reports, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=130)


def draw_layers(reports: Sequence[LayerReport], title: str) -> Any:
    """The figure of ``plot_layers``."""
    figure, (norms, kept, strength) = new_figure(3, 12, 3.6)
    layers = [report.layer for report in reports]
    norms.plot(layers, [r.activation_norm for r in reports], color=GREY, label="median ‖h‖")
    norms.plot(layers, [r.refusal_norm for r in reports], color=BLUE, marker="o", markersize=3, label="‖r‖")
    norms.plot(layers, [r.vector_norm for r in reports], color=ORANGE, marker="o", markersize=3, label="‖v‖")
    norms.set_title("Norms", fontsize=10, loc="left")
    norms.set_yscale("log")
    norms.legend(frameon=False, fontsize=9)
    kept.bar(layers, [100 * r.kept for r in reports], color=BLUE)
    kept.set_ylim(0, 105)
    kept.set_title("Kept of the refusal vector, ‖v‖ / ‖r‖ (%)", fontsize=10, loc="left")
    strength.bar(layers, [100 * r.relative_strength for r in reports], color=ORANGE)
    strength.set_title("Strength, α‖v‖ / median ‖h‖ (%)", fontsize=10, loc="left")
    for axis in (norms, kept, strength):
        axis.set_xlabel("decoder layer", fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure
