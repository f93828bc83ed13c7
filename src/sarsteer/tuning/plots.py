"""Charts of a search: the front, and which layers matter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.figure import BLUE, GRAY, GREEN, INK, ORANGE, check_figure_path, new_figure, save_figure
from sarsteer.tuning.front import Limits, keeps, pareto_front

if TYPE_CHECKING:
    from sarsteer.tuning.layer_study import LayerStudy
    from sarsteer.tuning.result import Tuned


def plot_front(tuned: Tuned, limits: Limits, path: Path, title: str) -> None:
    """Draw estimates and measurements: ASR against over-refusal and broken answers."""
    check_figure_path(path)
    save_figure(draw_front(tuned, limits, title), path)


def draw_front(tuned: Tuned, limits: Limits, title: str) -> Any:
    """The figure of ``plot_front``: both goals on the left, over-refusal and broken answers on the right."""
    figure, (left, right) = new_figure(2, 12, 4.6)
    points, chosen, plain = tuned.points, tuned.chosen.measured, tuned.undefended
    if tuned.candidates:
        scores = [candidate.scores for candidate in tuned.candidates]
        left.scatter(_percent([s.cost for s in scores]), _percent([s.asr for s in scores]), s=8, color=GRAY, alpha=0.45,
                     linewidths=0, label=f"{len(scores)} estimated by first tokens")  # fmt: skip
        best = pareto_front(scores, lambda s: (s.asr, s.cost))
        left.plot(_percent([s.cost for s in best]), _percent([s.asr for s in best]), color=GRAY, linewidth=1)
    for point in points:
        asr = point.measured.asr
        left.plot([100 * point.measured.cost] * 2, [100 * asr.low, 100 * asr.high], color=BLUE, alpha=0.25)
    within = [p for p in points if keeps(p.measured, plain, limits)]
    beyond = [p for p in points if not keeps(p.measured, plain, limits)]
    for group, fill, label in ((within, BLUE, "within the limits"), (beyond, "white", "beyond them")):
        left.scatter(_percent([p.measured.cost for p in group]), _percent([p.measured.asr.value for p in group]), s=26,
                     facecolors=fill, edgecolors=BLUE, zorder=3, label=f"{len(group)} measured, {label}")  # fmt: skip
    front = tuned.front
    left.step(_percent([p.measured.cost for p in front]), _percent([p.measured.asr.value for p in front]), where="post",
              color=BLUE, linewidth=1.2)  # fmt: skip
    left.scatter(
        [100 * plain.cost], [100 * plain.asr.value], marker="D", s=36, color=ORANGE, zorder=4, label="no defense"
    )
    left.scatter(
        [100 * chosen.cost], [100 * chosen.asr.value], marker="*", s=190, color=GREEN, zorder=5, label="chosen"
    )
    left.set_xlim(-2, max(50.0, 100 * plain.cost + 10))
    left.set_ylim(-3, 103)
    left.set_xlabel("over-refused + broken (%)", fontsize=9)
    left.set_ylabel("ASR (%)", fontsize=9)
    left.set_title("Both goals, ASR with 95 %: lower left is better", fontsize=10, loc="left")
    left.legend(frameon=False, fontsize=8.5)
    plus = 100 * (chosen.over_refusal.value - plain.over_refusal.value)
    for group, marker in ((beyond, "X"), (within, "o")):
        added = [100 * (p.measured.over_refusal.value - plain.over_refusal.value) for p in group]
        broken = _percent([p.measured.broken.value for p in group])
        dots = right.scatter(added, broken, c=_percent([p.measured.asr.value for p in group]), cmap="viridis_r", vmin=0,
                             vmax=100, s=40, zorder=3, marker=marker)  # fmt: skip
    right.scatter([plus], [100 * chosen.broken.value], marker="*", s=190, facecolors="none", edgecolors=GREEN,
                  linewidths=1.6, zorder=4)  # fmt: skip
    right.axvline(100 * limits.over_refusal, color=INK, linewidth=0.9, linestyle="--")
    right.axhline(100 * limits.broken, color=INK, linewidth=0.9, linestyle="--")
    right.set_xlabel("over-refusal, points above no defense", fontsize=9)
    right.set_ylabel("broken (%)", fontsize=9)
    confidence = f" with {100 * limits.confidence:g} % confidence" if limits.confidence > 0.5 else ""
    right.set_title(f"The limits (dashed); ×: exceeded{confidence}", fontsize=10, loc="left")
    figure.colorbar(dots, ax=right, label="ASR (%)", shrink=0.85)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def plot_layer_study(study: LayerStudy, path: Path, title: str) -> None:
    """Draw the effect of each layer alone, and of all layers but one."""
    check_figure_path(path)
    save_figure(draw_layer_study(study, title), path)


def draw_layer_study(study: LayerStudy, title: str) -> Any:
    """The figure of ``plot_layer_study``; dashed lines are all layers together."""
    figure, (alone, without) = new_figure(2, 12, 4.0)
    layers = [row.layer for row in study.rows]
    shown = (("refused, harmful", GREEN), ("refused, safe", ORANGE), ("broken", INK))
    left = [[1 - r.alone.asr, r.alone.over_refusal, r.alone.broken] for r in study.rows]
    nothing = [float("nan")] * 3  # if no other layer is steered there is no point, instead of one at 0 %
    right = [
        [1 - r.without.asr, r.without.over_refusal, r.without.broken] if r.without else nothing for r in study.rows
    ]
    whole = [1 - study.whole.asr, study.whole.over_refusal, study.whole.broken]
    for axis, rows in ((alone, left), (without, right)):
        for place, (name, color) in enumerate(shown):
            axis.plot(layers, _percent([row[place] for row in rows]), color=color, marker="o", markersize=4, label=name)
            axis.axhline(100 * whole[place], color=color, linewidth=0.9, linestyle="--")
        axis.set_ylim(-3, 103)
        axis.set_xlabel("decoder layer", fontsize=9)
        axis.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if not any(row.without for row in study.rows):
        without.text(0.5, 0.5, "no other layer is steered", transform=without.transAxes, ha="center", fontsize=9)
    alone.set_ylabel("estimated by first tokens (%)", fontsize=9)
    alone.set_title("This layer alone, with the push of all", fontsize=10, loc="left")
    without.set_title("All but this layer", fontsize=10, loc="left")
    without.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]
