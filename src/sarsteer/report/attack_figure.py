"""Charts of a run with attacks: success and over-refusal by strength, and success by budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarsteer.attacks.base import Attack
from sarsteer.errors import SarsteerError
from sarsteer.evaluation.attack_rows import AttackRow
from sarsteer.figure import BLUE, GRAY, GREEN, GRID, INK, ORANGE, check_figure_path, new_figure, save_figure
from sarsteer.stats.estimate import Estimate

_COLORS = (INK, ORANGE, BLUE, GREEN, GRAY)
_NOTHING = "there is nothing to draw: run a transform at several strengths (--curves), or an attack with a budget"


def check_drawable(attacks: Sequence[Attack]) -> None:
    """Raise ``SarsteerError`` if ``draw_attacks`` will have nothing to draw; called before a run."""
    strengths = {(attack.name, attack.strength) for attack in attacks if attack.strength is not None}
    if len(strengths) == len({name for name, _ in strengths}) and all(attack.queries == 1 for attack in attacks):
        raise SarsteerError(_NOTHING)


def plot_attacks(rows: Sequence[AttackRow], path: Path, title: str) -> None:
    """Draw ``draw_attacks`` into a file.

    Raises:
        SarsteerError: nothing has an axis, or the file cannot be written.

    """
    check_figure_path(path)
    save_figure(draw_attacks(rows, title), path)


def draw_attacks(rows: Sequence[AttackRow], title: str) -> Any:
    """The figure: a column for each transform at several strengths, and for each attack with a budget.

    The upper row is the attack success rate with 95 % intervals; dashed, without what was misheard. The lower row is
    the share of harmless requests that are refused. The dotted lines are the same defenses without an attack.

    Raises:
        SarsteerError: no attack was run at several strengths, and none has a budget.

    """
    from matplotlib import pyplot

    swept = [name for name in _names(rows) if len({r.strength for r in rows if r.name == name and r.name}) > 1]
    budgets = [row.attack for row in rows if row.curve is not None]
    panels = [("strength", name) for name in swept] + [("budget", name) for name in dict.fromkeys(budgets)]
    if not panels:
        raise SarsteerError(_NOTHING)
    defenses = list(dict.fromkeys(row.defense for row in rows))
    figure, _ = new_figure(1, 3.2 * len(panels) + 0.6, 5.6)
    figure.clear()
    axes = figure.subplots(2, len(panels), squeeze=False, sharey=True)
    for column, (kind, name) in enumerate(panels):
        for axis in axes[:, column]:
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="y", color=GRID, linewidth=0.8)
            axis.tick_params(colors=INK, labelsize=9)
            axis.set_ylim(-3, 103)
        for number, defense in enumerate(defenses):
            color = _COLORS[number % len(_COLORS)]
            draw = _by_strength if kind == "strength" else _by_budget
            draw(axes[0, column], axes[1, column], rows, name, defense, color)
        axes[0, column].set_title(name, fontsize=10, loc="left")
    axes[0, 0].set_ylabel("attack success (%)", fontsize=9)
    axes[1, 0].set_ylabel("harmless refused (%)", fontsize=9)
    handles = [
        pyplot.Line2D([], [], color=_COLORS[i % len(_COLORS)], marker="o", markersize=4, label=name)
        for i, name in enumerate(defenses)
    ]
    figure.legend(
        handles=handles, frameon=False, fontsize=9, loc="outside lower left", ncols=min(len(defenses), len(panels))
    )
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _names(rows: Sequence[AttackRow]) -> list[str]:
    return list(dict.fromkeys(row.name for row in rows if row.name))


def _by_strength(upper: Any, lower: Any, rows: Sequence[AttackRow], name: str, defense: str, color: str) -> None:
    from sarsteer.attacks import ATTACKS
    from sarsteer.attacks.transform import Transform

    mine = [r for r in rows if r.name == name and r.defense == defense and r.strength is not None]
    mine.sort(key=lambda row: row.strength or 0.0)
    clean = next((row for row in rows if not row.name and row.defense == defense), None)
    for axis, rate in ((upper, "asr"), (lower, "rr_safe")):
        _line(axis, [(row.strength or 0.0, getattr(row, rate)) for row in mine], color)
        plain: Estimate | None = getattr(clean, rate, None)
        if plain is not None:
            axis.axhline(100 * plain.value, color=color, linewidth=0.9, linestyle=":")
    understood = [(row.strength, 100 * row.asr_understood.value) for row in mine if row.asr_understood is not None]
    if understood:
        upper.plot(*zip(*understood, strict=True), color=color, linewidth=1, linestyle="--")
    kind = ATTACKS.get(name)
    lower.set_xlabel(kind.axis.label if kind is not None and issubclass(kind, Transform) else "strength", fontsize=9)


def _by_budget(upper: Any, lower: Any, rows: Sequence[AttackRow], name: str, defense: str, color: str) -> None:
    for row in rows:
        if row.attack != name or row.defense != defense or row.curve is None:
            continue
        _line(upper, list(zip(row.curve.n, row.curve.rates, strict=True)), color)
        if row.curve.a is not None:
            fitted = [(n, 100 * (row.curve.predicted(n) or 0.0)) for n in row.curve.n]
            upper.plot(*zip(*fitted, strict=True), color=color, linewidth=1, linestyle="--")
        if row.rr_safe is not None:
            lower.axhline(100 * row.rr_safe.value, color=color, linewidth=1.4)
        for axis in (upper, lower):
            axis.set_xscale("log")
            axis.set_xticks(row.curve.n, [str(n) for n in row.curve.n])
            axis.minorticks_off()
    lower.set_xlabel("answers per request (dashed: power law)", fontsize=9)


def _line(axis: Any, points: Sequence[tuple[float, Estimate | None]], color: str) -> None:
    known = [(x, one) for x, one in points if one is not None]
    if not known:
        return
    axis.plot([x for x, _ in known], [100 * one.value for _, one in known], color=color, marker="o", markersize=4)
    axis.fill_between(
        [x for x, _ in known],
        [100 * one.low for _, one in known],
        [100 * one.high for _, one in known],
        color=color,
        alpha=0.12,
        linewidth=0,
    )
