"""Pictures of a steering: its vectors layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarsteer.figure import BLUE, GRAY, GREEN, INK, ORANGE, check_figure_path, new_figure, save_figure
from sarsteer.steering.diagnostics import LayerReport
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.report import best_by_layer, roc


def plot_layers(reports: Sequence[LayerReport], path: Path, title: str, gate: Gate | None = None) -> None:
    """Draw norms, kept share and relative strength of the layers, and the gate; ``path``'s suffix sets the format.

    Raises:
        SarsteerError: ``path`` cannot be written, or matplotlib is missing.

    """
    check_figure_path(path)
    save_figure(draw_layers(reports, title, gate), path)


def draw_layers(reports: Sequence[LayerReport], title: str, gate: Gate | None = None) -> Any:
    """The figure of ``plot_layers``."""
    gated = gate is not None and bool(gate.metadata.get("held_out"))
    figure, (norms, kept, strength, *gate_axes) = new_figure(5 if gated else 3, 19 if gated else 12, 3.6)
    if gate is not None and gated:
        draw_gate(gate_axes[0], gate_axes[1], gate)
    layers = [report.layer for report in reports]
    norms.plot(layers, [r.activation_norm for r in reports], color=GRAY, label="median ‖h‖")
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


def draw_gate(layers_axis: Any, roc_axis: Any, gate: Gate) -> None:
    """Draw the AUROC of each layer into one axis, and the held-out ROC with the threshold's point into the other."""
    rows = best_by_layer(gate)
    layers, aurocs, spread = [r[0] for r in rows], [r[2] for r in rows], [r[3] for r in rows]
    layers_axis.errorbar(layers, aurocs, yerr=spread, color=GREEN, marker="o", markersize=3, lw=1.2, capsize=2)
    for layer in gate.layers:
        layers_axis.axvline(layer, color=INK, linestyle=":", linewidth=1)
    layers_axis.set_ylim(0.45, 1.02)
    layers_axis.set_title("Gate: AUROC ± SE (dotted: chosen)", fontsize=10, loc="left")
    layers_axis.set_xlabel("decoder layer", fontsize=9)
    layers_axis.xaxis.get_major_locator().set_params(integer=True)
    points = roc(gate)
    roc_axis.step(
        [100 * p.false_positive_rate for p in points], [100 * p.true_positive_rate for p in points], color=GREEN
    )
    current = min((p for p in points if p.threshold >= gate.threshold), key=lambda p: p.threshold)
    roc_axis.plot(100 * current.false_positive_rate, 100 * current.true_positive_rate, "o", color=ORANGE)
    roc_axis.plot([0, 100], [0, 100], color=GRAY, lw=0.8, linestyle="--")
    roc_axis.set_title("Gate: held-out clips that open it (%)", fontsize=10, loc="left")
    roc_axis.set_xlabel("safe clips", fontsize=9)
    roc_axis.set_ylabel("harmful clips", fontsize=9)
