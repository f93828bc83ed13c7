"""``sarsteer show``: the contents of a steering file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sarsteer.cli import options
from sarsteer.cli.output import console, note, print_json
from sarsteer.cli.tables import print_facts, print_table

if TYPE_CHECKING:
    from sarsteer.steering.gate.gate import Gate

_BAR = 12  # the longest bar
_LAYER_NUMBERS, _GATE_NUMBERS = 50, 49  # columns of the tables without bars


def show(
    file: Annotated[Path, typer.Argument(help="A steering file, or a folder that contains one.")],
    alpha: Annotated[float | None, typer.Option(help="Steering strength to show. Default: the file's.")] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="Number of ablated components to show. Default: the file's.", min=0)
    ] = None,
    lambda_: Annotated[
        float | None, typer.Option("--lambda", help="Ablation coefficient to show. Default: the file's.")
    ] = None,
    plot: options.Plot = None,
    as_json: options.Json = False,
) -> None:
    """Show how a steering file was calibrated, its vectors layer by layer, and its gate."""
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.diagnostics import findings
    from sarsteer.steering.strength import Strength

    steering = Steering.load(file)
    strength = steering.resolve(Strength(alpha, k, lambda_, gate=False))
    alpha, k, lambda_ = strength.alpha, strength.k, strength.lambda_
    reports = steering.report(alpha, k, lambda_)
    notes = findings(reports)
    gate = steering.gate
    if plot is not None:
        from sarsteer.steering.plots import plot_layers

        title = f"{steering.metadata['model']['name']}: α = {alpha:g}, k = {k}, λ = {lambda_:g}"
        plot_layers(reports, plot, title, gate)
    if as_json:
        print_json(
            {
                "digest": steering.digest,
                "alpha": alpha,
                "k": k,
                "lambda": lambda_,
                "findings": notes,
                "suggestion": asdict(steering.suggest()),
                "metadata": steering.metadata,
                "gate": None if gate is None else {**gate.header, "by_default": steering.gate_by_default},
                "layers": [asdict(report) for report in reports],
            }
        )
        return
    from sarsteer.steering.description import facts

    print_facts(facts(steering, strength))
    console.print()
    bar = _bar_width(_LAYER_NUMBERS, 2)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("layer", "‖r‖", "‖v‖", "kept", "", "α‖v‖/‖h‖", "", "explained"):
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
    top = max([report.relative_strength for report in reports] + [1e-9])
    for row in reports:
        table.add_row(
            str(row.layer),
            f"{row.refusal_norm:.3g}",
            f"{row.vector_norm:.3g}",
            f"{row.kept:.0%}",
            _bar(row.kept, 1.0, "cyan", bar),
            f"{row.relative_strength:.3f}",
            _bar(row.relative_strength, top, "magenta", bar),
            f"{row.explained:.0%}",
        )
    print_table(table, _LAYER_NUMBERS)
    if gate is not None:
        _print_gate(gate, steering.gate_by_default)
    for text in notes:
        note(text)
    if plot is not None:
        console.print(f"picture: {plot}", highlight=False, soft_wrap=True)


def _print_gate(gate: Gate, by_default: bool) -> None:
    """How well each layer separates harmful from safe clips, and how many held-out clips open the gate."""
    from sarsteer.stats.rates import rate
    from sarsteer.steering.gate.report import best_by_layer, opened, refused_by_group, stated

    console.print(
        f"\n[bold]gate[/], {'on' if by_default else 'off'} by default; cross-validated on the calibration pairs"
    )
    layers = best_by_layer(gate)
    if not layers:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("layer", "AUROC", "", "best detector"):
        table.add_column(title, justify="left" if title in ("", "best detector") else "right", no_wrap=True)
    bar = _bar_width(_GATE_NUMBERS, 1)
    for layer, method, auroc, error in layers:
        chosen = " [bold]<- chosen[/]" if layer in gate.layers else ""
        table.add_row(str(layer), f"{auroc:.3f} ± {error:.3f}", _bar(2 * auroc - 1, 1.0, "green", bar), method + chosen)
    print_table(table, _GATE_NUMBERS)
    harmful, safe = opened(gate)
    share = rate(harmful)
    console.print(
        f"opens for {100 * share.value:.0f} % of {share.n} held-out harmful clips "
        f"[dim][{100 * share.low:.0f}, {100 * share.high:.0f}][/]",
        highlight=False,
    )
    console.print(f"opens for {100 * sum(safe) / len(safe):.0f} % of {len(safe)} held-out safe clips")
    by_group = refused_by_group(gate)
    if len(by_group) > 2:
        for label, group, steered, n in by_group:
            console.print(f"  {label} {group}: steers {steered} of {n} ({100 * steered / n:.0f} %)", highlight=False)
    for line in stated(gate):
        console.print(line, highlight=False)
    if not gate.defends:
        console.print("[bold red]shadow mode: this gate decides and steers nothing; the model is NOT defended[/]")


def _bar_width(numbers: int, bars: int) -> int:
    """The length of each bar beside the numbers; 0 on a narrow screen."""
    return max(0, min(_BAR, (console.width - numbers) // bars))


def _bar(value: float, top: float, color: str, width: int) -> str:
    filled = round(width * min(1.0, max(0.0, value / top))) if value == value else 0
    return f"[{color}]{'█' * filled}[/][dim]{'·' * (width - filled)}[/]"
