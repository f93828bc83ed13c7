"""``sarsteer tune``: pairs in, a steering file with strengths chosen by search out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sarsteer.cli.output import check_out, console, errors, print_json, quiet_transformers
from sarsteer.errors import TuningError

if TYPE_CHECKING:
    from sarsteer.tuning.run import Tuned


def tune(
    model: Annotated[str, typer.Argument(help="sarsteer-tiny, a folder, or a name on the Hugging Face Hub.")],
    pairs: Annotated[
        str, typer.Option("--pairs", help="Manifest (JSONL) of calibration pairs, or sarsteer-tiny; never test pairs.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Steering file to write (.safetensors).")],
    judge: Annotated[str | None, typer.Option(help="keywords, rubric:openai/NAME, ...; what fits by default.")] = None,
    max_over_refusal: Annotated[
        float, typer.Option(help="Points of over-refusal that may be added to the undefended model's.")
    ] = 5.0,
    max_broken: Annotated[float, typer.Option(help="Percent of all answers that may be broken.")] = 1.0,
    confidence: Annotated[
        float,
        typer.Option(
            help="Of the one-sided Wilson bound that each measured rate is held against; not corrected for having "
            "chosen the best of several settings. 0.5 takes the rates as they are."
        ),
    ] = 0.8,
    search_layers: Annotated[
        str, typer.Option(help="range (contiguous), all (as in the paper), or weights (a strength each).")
    ] = "range",
    gate: Annotated[bool, typer.Option(help="Try the gate, too: steer only what it takes for harmful.")] = True,
    trials: Annotated[int, typer.Option(help="Settings scored by first tokens.", min=1)] = 160,
    generations: Annotated[int, typer.Option(help="Settings measured by generation and the judge.", min=1)] = 16,
    surrogate: Annotated[bool, typer.Option(help="Score by first tokens before generating.")] = True,
    tune_share: Annotated[float, typer.Option(help="Share of the pairs that strengths are chosen on.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the split and the search.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the front as PNG, SVG or PDF.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Text beside each clip; the paper's by default.")] = None,
    refusal_prompt: Annotated[str | None, typer.Option(help="Appended to it; the paper's by default.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many pairs.", min=1)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.", min=1)] = 128,
    batch_size: Annotated[int, typer.Option(help="Requests a forward; lower it when memory runs out.", min=1)] = 16,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; a GPU where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the checkpoint's own.")] = None,
    revision: Annotated[str | None, typer.Option(help="The model's branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the checkpoint's own Python code.")] = False,
    layers: Annotated[str | None, typer.Option(help="Path of the decoder layers, where not found.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the output file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Choose α, k, λ, the layers and the gate on calibration pairs, and write a steering file that uses them.

    Of the settings that keep to --max-over-refusal and --max-broken, by the upper bound of --confidence on the tuning
    pairs, the one with the lowest attack success is chosen; where none does, nothing is written. A run that was killed
    goes on where it was when started again.
    """
    check_out(out, overwrite=overwrite)
    from sarsteer.tuning.front import Limits
    from sarsteer.tuning.run import Options
    from sarsteer.tuning.run import tune as run
    from sarsteer.tuning.space import LAYERS

    if search_layers not in LAYERS:
        raise TuningError(f"unknown --search-layers {search_layers!r}; use one of {', '.join(LAYERS)}")
    if plot is not None:
        from sarsteer.figure import check_figure_path

        check_figure_path(plot)
    from sarsteer import tiny
    from sarsteer.judges import parse_judge

    spec = judge or ("embedded" if model == tiny.NAME else "keywords")
    made = parse_judge(spec)
    made.load()
    limits = Limits(max_over_refusal / 100, max_broken / 100, confidence)
    from sarsteer.data.pairs import load_pairs

    chosen = load_pairs(pairs, "calibration")[:limit]
    quiet_transformers()
    from sarsteer.cli.tune_screen import screen
    from sarsteer.models.loading import load_model
    from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT

    options = Options(
        limits=limits,
        layers=search_layers,
        gate=gate,
        trials=trials,
        generations=generations,
        surrogate=surrogate,
        tune_share=tune_share,
        seed=seed,
        instruction=INSTRUCTION if instruction is None else instruction,
        refusal_prompt=REFUSAL_PROMPT if refusal_prompt is None else refusal_prompt,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    loaded = load_model(
        model, device=device, dtype=dtype, revision=revision, layers=layers, trust_remote_code=trust_remote_code
    )
    with screen(limits) as watch:
        tuned = run(loaded, chosen, made, out.with_name(f"{out.name}.tuning"), options, watch)
    tuned.steering.save(out)
    if plot is not None:
        from sarsteer.tuning.plots import plot_front

        plot_front(tuned, limits, plot, f"{model}: {len(tuned.undefended.harmful)} tuning pairs")
    if as_json:
        print_json({"file": str(out), "digest": tuned.steering.digest, "tuning": tuned.steering.metadata["tuning"]})
        return
    _print(tuned, out, spec)
    if plot is not None:
        console.print(f"picture: {plot}", highlight=False)


def _print(tuned: Tuned, out: Path, judge: str) -> None:
    from sarsteer.cli.tune_screen import front_chart

    console.print(front_chart(tuned.points, tuned.undefended, tuned.chosen))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("on the tuning pairs, in %", overflow="fold")
    for title in ("ASR ↓", "over-refusal ↓", "broken ↓"):
        table.add_column(title, justify="right")
    shown: list[tuple[str, Any]] = [("no defense", tuned.undefended)]
    shown += [("" if point != tuned.chosen else "chosen: ", point) for point in tuned.front]
    for name, row in shown:
        measured = getattr(row, "measured", row)
        cells = [_cell(rate) for rate in (measured.asr, measured.over_refusal, measured.broken)]
        label = f"{name}{row.setting}" if hasattr(row, "setting") else name
        table.add_row(f"[bold]{label}[/]" if row == tuned.chosen else label, *cells)
    console.print(table)
    told = tuned.steering.metadata["tuning"]
    speed = told["speed"]
    groups = tuned.undefended.groups
    together = f" in {len(set(groups))} groups that share a request" if len(set(groups)) < len(groups) else ""
    console.print(
        f"[dim]n: {len(tuned.undefended.harmful)} pairs{together}, judged by {judge}; 95 % intervals in brackets. "
        f"{len(tuned.points)} settings measured, {speed['generation_seconds_each']:.1f} s each"
        + (
            f"; {len(tuned.candidates)} scored by first tokens, {speed['surrogate_seconds_each']:.2f} s each"
            if tuned.candidates
            else ""
        )
        + "[/]",
        highlight=False,
    )
    for note in tuned.notes:
        errors.print(f"[yellow]note:[/] {note}", highlight=False, soft_wrap=True)
    errors.print(
        "[yellow]note:[/] these are the pairs that the setting was chosen on; measure it on others: sarsteer evaluate",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"\n[bold]{out}[/]: its defaults are {tuned.chosen.setting}", highlight=False)


def _cell(estimate: Any) -> str:
    return f"{100 * estimate.value:.1f} [dim]{100 * estimate.low:.0f}-{100 * estimate.high:.0f}[/]"
