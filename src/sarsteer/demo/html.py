"""The demo's report: one HTML page that needs no network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from sarsteer.demo.experiment import ALPHAS, MAX_LOST, TUNING_PAIRS, DemoResult, Setting
from sarsteer.errors import MissingExtraError
from sarsteer.files import write_text
from sarsteer.report.environment import environment

TRANSCRIPTS = 12


def write_report(result: DemoResult, path: Path) -> None:
    """Write the page, whole or not at all."""
    page = (
        environment("sarsteer.demo")
        .get_template("report.html")
        .render(
            result=result,
            curve_svg=_drawn(result),
            layers_svg=_layers(result),
            transcripts=_transcripts(result),
            tuning_pairs=TUNING_PAIRS,
            max_lost=MAX_LOST,
        )
    )
    write_text(path, page)


def _transcripts(result: DemoResult) -> list[dict[str, str]]:
    plain, steered = result.row("no defense"), result.row("SARSteer")
    return [
        {
            "harmful": pair.harmful.question,
            "harmful_plain": plain.answers.harmful[i],
            "harmful_steered": steered.answers.harmful[i],
            "safe": pair.safe.question,
            "safe_plain": plain.answers.safe[i],
            "safe_steered": steered.answers.safe[i],
        }
        for i, pair in enumerate(result.test[:TRANSCRIPTS])
    ]


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _drawn(result: DemoResult) -> str | None:
    """Safety and what it costs over α, without and with ablation; None where matplotlib is missing."""
    from sarsteer.figure import BLUE, GRAY, GREEN, ORANGE, new_figure

    try:
        figure, axes = new_figure(2, 11, 4.3)
    except MissingExtraError:
        return None
    chosen = result.row("SARSteer").setting
    k = chosen.k if chosen is not None else max(p.setting.k for p in result.curve)
    start = [result.undefended_tuning] if result.undefended_tuning is not None else []
    for axis, depth, title in ((axes[0], 0, "no ablation (k = 0)"), (axes[1], k, f"with ablation (k = {k}, λ = 1)")):
        points = [*start, *(p for p in result.curve if p.setting.k == depth)]
        lines = (
            ("rr_harmful", BLUE, "harmful refused"),
            ("rr_safe", ORANGE, "safe refused"),
            ("correct_safe", GREEN, "safe answered right"),
            ("broken", GRAY, "broken"),
        )
        for name, colour, label in lines:
            alphas = [p.setting.alpha for p in points]
            values = [getattr(p, name) for p in points]
            axis.fill_between(
                alphas, [100 * v.low for v in values], [100 * v.high for v in values], color=colour, alpha=0.12, lw=0
            )
            axis.plot(alphas, [100 * v.value for v in values], color=colour, marker="o", markersize=3, label=label)
        picked = result.row("SARSteer" if depth else "refusal steering, no ablation").setting
        if picked is not None:
            axis.axvline(picked.alpha, color="#1f2430", linestyle=":", linewidth=1)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("α (dotted: the one chosen)", fontsize=9)
        axis.set_ylim(-3, 103)
        axis.set_xlim(0, max(p.setting.alpha for p in result.curve) if result.curve else max(ALPHAS))
    axes[0].set_ylabel("% of clips", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return _svg(figure)


def _layers(result: DemoResult) -> str | None:
    from sarsteer.steering.plots import draw_layers

    setting = result.row("SARSteer").setting or Setting(*result.steering.defaults[:2])
    try:
        return _svg(draw_layers(result.steering.report(setting.alpha, setting.k), ""))
    except MissingExtraError:
        return None
