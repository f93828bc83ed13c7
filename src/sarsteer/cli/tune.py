"""``sarsteer tune``: read pairs, write a steering file with a strength chosen by search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sarsteer.cli import options
from sarsteer.cli.output import check_out, console, note, print_json, quiet_transformers
from sarsteer.cli.tables import print_named

if TYPE_CHECKING:
    from sarsteer.tuning.result import Tuned


def _print_config(wanted: bool) -> None:
    if wanted:
        from sarsteer.tuning.config import DEFAULT_FILE

        print(DEFAULT_FILE.read_text(encoding="utf-8"), end="")
        raise typer.Exit


def tune(
    model: options.Model,
    pairs: Annotated[
        str,
        typer.Option(
            "--pairs",
            help="Manifest (JSONL) of calibration pairs, sarsteer-pairs or sarsteer-tiny; never test pairs.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Steering file to write (.safetensors).")],
    judge: Annotated[
        str | None, typer.Option(help="keywords, rubric:openai/NAME, ... Default: depends on the model.")
    ] = None,
    max_over_refusal: Annotated[
        float, typer.Option(help="Maximum increase of over-refusal over the undefended model, in points.")
    ] = 5.0,
    max_broken: Annotated[float, typer.Option(help="Maximum share of broken answers, in percent.")] = 1.0,
    confidence: Annotated[
        float,
        typer.Option(
            help="Confidence of the one-sided Wilson bound of each rate, which must be within the limit; not corrected "
            "for choosing the best of several. 0.5 compares the measured rates."
        ),
    ] = 0.8,
    trials: Annotated[int, typer.Option(help="Number of configurations to score by first tokens.", min=1)] = 160,
    generations: Annotated[
        int, typer.Option(help="Number of configurations to measure by generation and the judge.", min=1)
    ] = 16,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with settings of the search; see --print-config.")
    ] = None,
    _config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print the default settings of the search.", callback=_print_config, is_eager=True
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the search.")] = 0,
    instruction: Annotated[
        str | None, typer.Option(help="Text after each clip in the prompt. Default: the paper's.")
    ] = None,
    refusal_prompt: Annotated[
        str | None, typer.Option(help="Refusal prompt, appended to the instruction. Default: the paper's.")
    ] = None,
    voices: options.Voices = None,
    audio_root: options.AudioRoot = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N pairs.", min=1, metavar="N")] = None,
    max_new_tokens: options.MaxNewTokens = 128,
    batch_size: options.BatchSize = 16,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    layers: options.Layers = None,
    plot: options.Plot = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Choose α, k, λ, the layers and the gate on calibration pairs, and write a steering file with them as defaults.

    Among the configurations within --max-over-refusal and --max-broken, the one with the lowest attack success rate is
    chosen; if there is none, nothing is written. A run that was interrupted resumes when the same command is run again.
    """
    check_out(out, overwrite=overwrite)
    from sarsteer.tuning.config import load_config
    from sarsteer.tuning.front import Limits
    from sarsteer.tuning.options import TuningOptions
    from sarsteer.tuning.run import tune as run

    search = load_config(config)
    limits = Limits(max_over_refusal / 100, max_broken / 100, confidence)
    if plot is not None:
        from sarsteer.figure import check_figure_path

        check_figure_path(plot)
    from sarsteer import tiny
    from sarsteer.data.pairs import load_pairs
    from sarsteer.judges import parse_judge

    judge_spec = judge or ("embedded" if model == tiny.NAME else "keywords")
    chosen_judge = parse_judge(judge_spec)
    chosen_judge.load()
    spoken = options.voice_list(voices, pairs)
    chosen_pairs = load_pairs(pairs, "calibration", voices=spoken, audio_root=audio_root, limit=limit)
    quiet_transformers()
    from sarsteer.cli.tune_screen import screen
    from sarsteer.models.loading import load_model
    from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT

    tuning_options = TuningOptions(
        limits=limits,
        trials=trials,
        generations=generations,
        seed=seed,
        search=search,
        instruction=INSTRUCTION if instruction is None else instruction,
        refusal_prompt=REFUSAL_PROMPT if refusal_prompt is None else refusal_prompt,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    loaded = load_model(
        model, device=device, dtype=dtype, revision=revision, layers=layers, trust_remote_code=trust_remote_code
    )
    with screen(limits) as observer:
        tuned = run(loaded, chosen_pairs, chosen_judge, out.with_name(f"{out.name}.tuning"), tuning_options, observer)
    tuned.steering.save(out)
    if plot is not None:
        from sarsteer.tuning.plots import plot_front

        plot_front(tuned, limits, plot, f"{model}: {len(tuned.undefended.harmful)} tuning pairs")
    if as_json:
        print_json({"file": str(out), "digest": tuned.steering.digest, "tuning": tuned.steering.metadata["tuning"]})
        return
    _print(tuned, out, judge_spec)
    if plot is not None:
        console.print(f"picture: {plot}", highlight=False, soft_wrap=True)


def _print(tuned: Tuned, out: Path, judge: str) -> None:
    from sarsteer.cli.tune_screen import front_chart

    console.print(front_chart(tuned.points, tuned.undefended, tuned.chosen))
    rows = [("no defense", _cells(tuned.undefended))]
    for point in tuned.front:
        label = escape(str(point.configuration))
        rows.append((f"[bold]chosen: {label}[/]" if point == tuned.chosen else label, _cells(point.measured)))
    print_named("in %", ("ASR ↓", "over-refusal ↓", "broken ↓"), rows)
    speed = tuned.steering.metadata["tuning"]["speed"]
    pairs, groups = len(tuned.undefended.harmful), len(set(tuned.undefended.groups))
    grouped = f" in {groups} groups that share a request" if groups < len(tuned.undefended.groups) else ""
    scored = (
        f"; {len(tuned.candidates)} scored by first tokens, {speed['surrogate_seconds_each']:.2f} s each"
        if tuned.candidates
        else ""
    )
    console.print(
        f"[dim]n: {pairs} pairs{grouped}, judged by {judge}; 95 % intervals in brackets. {len(tuned.points)} "
        f"configurations measured, {speed['generation_seconds_each']:.1f} s each{scored}[/]",
        highlight=False,
    )
    for text in tuned.notes:
        note(text)
    note("the configuration was chosen on these pairs; measure it on others: sarsteer evaluate")
    console.print(f"\n[bold]{out}[/]: its defaults are {tuned.chosen.configuration}", highlight=False, soft_wrap=True)


def _cells(measured: Any) -> list[str]:
    rates = (measured.asr, measured.over_refusal, measured.broken)
    return [f"{100 * rate.value:.1f} [dim]{100 * rate.low:.0f}-{100 * rate.high:.0f}[/]" for rate in rates]
