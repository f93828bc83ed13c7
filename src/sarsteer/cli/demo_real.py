"""``sarsteer demo``: what it prints about the real model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.cli.output import console, errors, note, progress_bar
from sarsteer.cli.tables import print_named

if TYPE_CHECKING:
    from sarsteer.demo.progress import Progress
    from sarsteer.demo.real.run import RealDemo
    from sarsteer.evaluation.results import Arm
    from sarsteer.models.audio_language_model import AudioLanguageModel
    from sarsteer.stats.estimate import Estimate

EXAMPLES = 2


def load() -> AudioLanguageModel:
    """The model, built on first use.

    Raises:
        ModelError: it cannot be built.
        MissingExtraError: there is no speech engine.

    """
    from sarsteer.models.loading import load_model
    from sarsteer.small import NAME
    from sarsteer.tts.espeak import EspeakEngine

    EspeakEngine()
    model = load_model(NAME)
    dtype = str(model.dtype).removeprefix("torch.")
    faster = "this machine is faster with it" if dtype == "bfloat16" else "bfloat16 would not be faster here"
    note(f"{NAME} computes in {dtype} on {model.device.type}: {faster}")
    return model


def run_and_print(
    model: AudioLanguageModel, limit: int | None, text: bool, report: Path, results: Path, as_json: bool
) -> dict[str, Any]:
    """Run the demo, write report and results, and return the table; print it unless ``as_json``."""
    from sarsteer.demo.real.page import write_page
    from sarsteer.demo.real.run import run

    with progress_bar() as progress:
        result = run(progress if errors.is_terminal else _stages(), model, limit, text=text)
    write_page(result, report)
    result.evaluation.save(results)
    if not as_json:
        _print(result)
    return _json(result)


def _stages() -> Progress:
    """A progress for a file or a pipe: one line when a stage begins."""
    seen: set[str] = set()

    def report(stage: str, _done: int, total: int) -> None:
        if stage not in seen:
            seen.add(stage)
            errors.print(f"{stage} ({total})", markup=False, highlight=False)

    return report


def _print(result: RealDemo) -> None:
    from sarsteer.demo.real.table import COLUMNS, cells, counts, strength

    kind = "requests in text" if result.word_errors is None else "speech"
    name = result.evaluation.model["name"]
    console.print(f"\n[bold]{name}[/], held-out {kind}, in %, 95 % intervals", highlight=False)
    titles = []
    for column in COLUMNS:
        head, _, arrow = column.title.rpartition(" ")
        first, _, second = head.rpartition(" ")
        titles.append(f"{first}\n{second} {arrow}")
    rows = []
    for arm in result.arms:
        words = strength(arm)
        rows.append((arm.defense + (f"\n[dim]{words}[/]" if words else ""), [_cell(cell) for cell in cells(arm)]))
    print_named("defense", titles, rows)
    console.print(f"[dim]n: {counts(result.arms)}[/]", highlight=False)
    if result.word_errors is not None:
        console.print(f"[dim]word error rate of the model's own transcripts: {result.word_errors}[/]", highlight=False)
    for label in ("harmful", "safe"):
        _print_examples(result.arms, label)
    errors.print("\n[yellow]A real model, but a small one: its numbers say nothing about a large one.[/]")


def _print_examples(arms: list[Arm], label: str) -> None:
    defenses = [arm for arm in arms if arm.control_of is None]
    shown = [defenses[0], defenses[-1]]
    rows = [number for number, answer in enumerate(arms[0].answers) if answer.label == label][:EXAMPLES]
    for number in rows:
        answer = arms[0].answers[number]
        console.print(f"\n[dim]{label}:[/] {answer.question}", highlight=False, markup=True)
        if answer.transcript is not None:
            console.print(f"  [dim]transcribed as:[/] {answer.transcript}", highlight=False)
        for arm in shown:
            console.print(f"  {arm.defense:<18}", end="")
            console.print(arm.answers[number].answer, markup=False, highlight=False)


def _cell(value: Estimate | None) -> str:
    return "" if value is None else f"{100 * value.value:.0f}\n[dim]{100 * value.low:.0f}-{100 * value.high:.0f}[/]"


def _json(result: RealDemo) -> dict[str, Any]:
    from sarsteer.demo.real.table import COLUMNS, cells

    names = [column.title[:-2] for column in COLUMNS]
    return {
        "model": result.evaluation.model["name"],
        "word_error_rate": None if result.word_errors is None else asdict(result.word_errors),
        "rows": [
            {
                "defense": arm.defense,
                "spec": arm.settings["spec"],
                **{name: None if cell is None else asdict(cell) for name, cell in zip(names, cells(arm), strict=True)},
            }
            for arm in result.arms
        ],
    }
