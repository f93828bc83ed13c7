"""``sarsteer compare``: what changed between two evaluations of the same requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sarsteer.cli import options
from sarsteer.cli.limits import FailIf, as_data, end_with
from sarsteer.cli.output import console, note, print_json
from sarsteer.cli.tables import print_named

if TYPE_CHECKING:
    from sarsteer.evaluation.compare import ArmComparison, Difference, RunComparison

TITLES = {"asr": "ASR ↓", "rr_harmful": "RR\nharmful ↑", "over_refusal": "over-\nrefusal ↓", "broken": "broken ↓"}


def compare(
    old: Annotated[Path, typer.Argument(help="Folder or results.json of sarsteer evaluate: the baseline.")],
    new: Annotated[Path, typer.Argument(help="Folder or results.json of the other run.")],
    fail_if: FailIf = None,
    as_json: options.Json = False,
) -> None:
    """Compare two evaluations of the same requests: NEW minus OLD, paired, with 95 % intervals.

    Both need the same benchmarks, requests and judge. Model, steering file and strengths may differ. --fail-if limits
    the differences, in percentage points: 'asr>2' fails unless the interval rules out a rise of more than 2 points.
    """
    from sarsteer.evaluation.compare import DIFFERENCES, check_differences, compare_runs
    from sarsteer.evaluation.limits import Limit
    from sarsteer.evaluation.results import Evaluation

    limits = [Limit.parse(text, tuple(DIFFERENCES), lowest=-100) for text in fail_if or ()]
    comparison = compare_runs(Evaluation.load(old), Evaluation.load(new))
    checks = check_differences(comparison, limits)
    if as_json:
        data = asdict(comparison)
        for arm in data["arms"]:
            arm["settings"] = {name: {"old": a, "new": b} for name, (a, b) in arm["settings"].items()}
        print_json({**data, "limits": as_data(checks)})
    else:
        _print(comparison)
    end_with(checks)


def _print(comparison: RunComparison) -> None:
    console.print(
        f"\n[bold]{escape(comparison.old)}[/] → [bold]{escape(comparison.new)}[/]\n"
        "in %; below: new minus old, and its 95 % interval",
        highlight=False,
        soft_wrap=True,
    )
    for benchmark in dict.fromkeys(arm.benchmark for arm in comparison.arms):
        arms = [arm for arm in comparison.arms if arm.benchmark == benchmark]
        console.print(f"[italic]{escape(benchmark)}[/]", highlight=False, soft_wrap=True)
        rated = [arm for arm in arms if arm.score is None]
        columns = [name for name in TITLES if any(name in arm.differences for arm in rated)]
        if rated:
            cells = [(escape(arm.defense), [_cell(arm.differences.get(name)) for name in columns]) for arm in rated]
            print_named("defense", [TITLES[name] for name in columns], cells)
        for arm in arms:
            if arm.score is not None:
                console.print(f"{escape(arm.defense)}: score {arm.score}", highlight=False, soft_wrap=True)
            for line in _changed(arm):
                console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
            unreadable = max((one.unreadable for one in arm.differences.values()), default=0)
            if unreadable:
                note(f"{benchmark}, {arm.defense}: {unreadable} verdicts cannot be read, and are left out")
            if arm.settings:
                note(f"{benchmark}, {arm.defense}: other settings: {', '.join(map(_setting, arm.settings.items()))}")
    for text in comparison.notes:
        note(text)


def _cell(difference: Difference | None) -> str:
    if difference is None or difference.change is None:
        return ""
    change = difference.change
    shares = "→".join("" if share is None else f"{100 * share:.1f}" for share in (difference.old, difference.new))
    ends = f"{100 * change.low:+.0f} to {100 * change.high:+.0f}"
    return f"{shares}\n[bold]{100 * change.value:+.1f}[/]\n[dim]{ends}[/]"


def _changed(arm: ArmComparison) -> list[str]:
    kinds = Counter((one.label, one.old or "unreadable", one.new or "unreadable") for one in arm.changed)
    parts = [f"  {count} {label}: {old} → {new}".replace("_", " ") for (label, old, new), count in kinds.most_common()]
    return [f"{arm.defense}: {len(arm.changed)} requests changed", *parts]


def _setting(item: tuple[str, tuple[Any, Any]]) -> str:
    name, (old, new) = item
    return f"{name} {_short(old)} → {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."
