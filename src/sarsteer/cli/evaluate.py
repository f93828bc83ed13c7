"""``sarsteer evaluate``: benchmarks under defences, judged, with what was measured and how sure it is."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from sarsteer.cli.output import console, errors, print_json, progress_bar, quiet_transformers
from sarsteer.errors import EvaluationError, MissingExtraError


def evaluate(
    model: Annotated[str, typer.Argument(help="sarsteer-tiny, a folder, a name on the Hub, or openai/NAME.")],
    benchmark: Annotated[
        list[str],
        typer.Option("--benchmark", help="embedded, manifest:FILE, or NAME[/VARIANT][@SPLIT][:FOLDER]; repeatable."),
    ],
    defense: Annotated[
        list[str] | None,
        typer.Option("--defense", help="none, prompt:NAME, sarsteer, h2s, ...; repeatable. none (and sarsteer)."),
    ] = None,
    steering: Annotated[Path | None, typer.Option(help="Steering file of sarsteer calibrate.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Strength; the steering file's own.")] = None,
    k: Annotated[int | None, typer.Option(help="Safe components to ablate; the steering file's own.")] = None,
    lambda_: Annotated[float | None, typer.Option("--lambda", help="Ablation coefficient; its own.")] = None,
    alpha_sweep: Annotated[str | None, typer.Option(help="More strengths of steered defenses: 0.05,0.1.")] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="keywords, rubric:openai/NAME, sorry-bench:MODEL,prompts=FILE, ..., or BENCHMARK=JUDGE; repeatable. "
            "air-bench:MODEL scores AIR-Bench beside another judge. Default: embedded for the toy, keywords (crude) "
            "for all else."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many requests of each.", min=1)] = None,
    calibration: Annotated[str | None, typer.Option(help="Pairs that were calibrated on, for h2s and c2r.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for logs and results.json.")] = Path("evaluation"),
    instruction: Annotated[str | None, typer.Option(help="Text beside clips without one; the paper's.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.", min=1)] = 256,
    batch_size: Annotated[int, typer.Option(help="Requests a forward; lower it when memory runs out.", min=1)] = 16,
    max_wer: Annotated[
        float | None,
        typer.Option(help="Word error rate above which an altered clip is misheard; rates without those are added."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; a GPU where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the checkpoint's own.")] = None,
    revision: Annotated[str | None, typer.Option(help="The model's branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the checkpoint's own Python code.")] = False,
    layers: Annotated[str | None, typer.Option(help="Path of the decoder layers, where not found.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Ask every request under every defense, judge the answers, and print rates with 95 % intervals.

    A run that was killed goes on where it was when started again with the same settings.
    """
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        if sys.version_info < (3, 11):
            raise EvaluationError("sarsteer evaluate needs Python 3.11 or newer, as Inspect AI does") from None
        raise MissingExtraError("sarsteer evaluate", "eval") from None
    from sarsteer.evaluation.run import Settings, run

    if out.exists() and not out.is_dir():
        raise EvaluationError(f"{out}: is a file; name a folder with --out")
    quiet_transformers()
    chosen = defense or (["none", "sarsteer"] if steering is not None else ["none"])
    settings = Settings(
        model=model,
        benchmarks=tuple(benchmark),
        defenses=tuple(chosen),
        out=out,
        steering=steering,
        alpha=alpha,
        k=k,
        lambda_=lambda_,
        alpha_sweep=_numbers(alpha_sweep),
        judge=tuple(judge or ()),
        limit=limit,
        calibration=calibration,
        instruction=instruction,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        max_wer=max_wer,
        loading={
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "layers": layers,
            "trust_remote_code": trust_remote_code or None,
        },
        command=shlex.join(["sarsteer", *sys.argv[1:]]),
    )
    with progress_bar() as report:
        results = run(settings, report)
    path = results.save(out / "results.json")
    if as_json:
        print_json({"file": str(path), **_json(results)})
        return
    _print(results)
    console.print(
        f"\nAll of it: [bold]{path}[/]; hear and read: inspect view --log-dir {out / 'logs'}", highlight=False
    )


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise EvaluationError(f"--alpha-sweep {text!r}: write numbers with commas between, such as 0.05,0.1") from None


COLUMNS = {"asr": "ASR ↓", "rr_harmful": "RR\nharmful ↑", "rr_safe": "RR\nsafe ↓", "brr": "BRR ↑", "broken": "broken ↓",
           "unreadable": "unread-\nable"}  # fmt: skip
SCORE_COLUMNS = {"answer": "score ↑", "answer_change": "change", "answer_first": "read\nfirst",
                 "answer_second": "read\nsecond", "reference": "reference", "position_bias": "position\nbias",
                 "unreadable": "unread-\nable"}  # fmt: skip


def _print(results: Any) -> None:
    console.print(
        f"\n[bold]{results.model['name']}[/], judged by {results.judge['name']}; 95 % intervals in brackets, in %",
        highlight=False,
    )
    for name in dict.fromkeys(arm.benchmark for arm in results.arms):
        rows = [(arm.defense, arm.summary) for arm in results.arms if arm.benchmark == name]
        rows += [(f"{p.defense}, α {p.alpha:g}", p.summary) for p in results.curve if p.benchmark == name]
        table = Table(title=name, title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("defense", overflow="fold")
        scored = any(summary.scores is not None for _, summary in rows)
        columns = SCORE_COLUMNS if scored else COLUMNS
        for title in columns.values():
            table.add_column(title, justify="right")
        for defense, summary in rows:
            numbers = summary.scores or summary if scored else summary
            table.add_row(defense, *(_cell(getattr(numbers, column, None)) for column in columns))
        console.print(table)
        counts = {c: e.n for c in ("asr", "rr_safe") if (e := getattr(rows[0][1], c)) is not None}
        told = ", ".join(f"{n} {'harmful' if c == 'asr' else 'safe'}" for c, n in counts.items())
        if scored:
            read = rows[0][1].scores and rows[0][1].scores.answer
            told = f"{read.n if read else 0} read in both orders; scores from 1 to 10"
        console.print(f"[dim]n: {told}[/]", highlight=False)
        for note in dict.fromkeys(note for _, summary in rows for note in summary.notes):
            errors.print(f"[yellow]note:[/] {name}: {note}", highlight=False)
    for note in results.notes:
        errors.print(f"[yellow]note:[/] {note}", highlight=False)


def _cell(value: Any) -> str:
    from sarsteer.stats.estimate import Score

    if isinstance(value, Score):
        return f"{value.value:.2f}\n[dim]{value.low:.2f}-{value.high:.2f}[/]"
    return "" if value is None else f"{100 * value.value:.1f}\n[dim]{100 * value.low:.0f}-{100 * value.high:.0f}[/]"


def _json(results: Any) -> dict[str, Any]:
    return {
        "model": dict(results.model),
        "judge": dict(results.judge),
        "arms": [
            {
                "benchmark": arm.benchmark,
                "defense": arm.defense,
                "steering": arm.steering,
                "settings": dict(arm.settings),
                "summary": asdict(arm.summary),
                "log": arm.log,
            }
            for arm in results.arms
        ],
        "curve": [asdict(point) for point in results.curve],
        "notes": [asdict(note) for note in results.notes],
    }
