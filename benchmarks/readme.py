"""Write the demo's figures into README.md and docs, and draw its chart: ``python -m benchmarks.readme``.

The figures come from ``benchmarks/demo.json`` and ``demo_text.json``, the committed results of ``sarsteer demo`` on
speech and on text. To take over new results, with the clips of the two requests that the README shows:

    sarsteer demo --results demo-results.json
    sarsteer demo --text --report text.html --results text-results.json
    python -m benchmarks.readme --results demo-results.json --text-results text-results.json
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarsteer.demo.real.run import NO_DEFENSE, REQUESTS
from sarsteer.demo.real.table import COLUMNS, cells, strength
from sarsteer.demo.real.tuning import GATED
from sarsteer.evaluation.results import Answer, Arm, Evaluation
from sarsteer.evaluation.summary import summarize
from sarsteer.judges.base import JudgedAnswer
from sarsteer.report.labels import Box, place_label
from sarsteer.stats.estimate import Estimate

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "demo.json"
TEXT_RESULTS = ROOT / "benchmarks" / "demo_text.json"
CLIPS = ROOT / "docs" / "clips"
PAGES = (ROOT / "README.md", ROOT / "docs" / "demo.md")
CHARTS = {mode: ROOT / "docs" / "images" / f"demo-{mode}.png" for mode in ("light", "dark")}
BLOCK = re.compile(r"(<!-- demo:(\w+)([^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
SHORT = (0, 1, 4, 6)
"""Columns of the README's table."""
COLORS = {
    "light": {"paper": "#ffffff", "ink": "#1f2430", "soft": "#565f6d", "line": "#dbe0e6"},
    "dark": {"paper": "#0d1117", "ink": "#e6e9ee", "soft": "#a3acb9", "line": "#333a45"},
}
SERIES = {
    "light": ("#6d7480", "#1f66b0", "#c2540a", "#8a3fa0", "#2a7a4b", "#6b5b00", "#00757d"),
    "dark": ("#9aa3b0", "#6aaef5", "#f59a55", "#cf95e2", "#6cc592", "#d3c04e", "#52c4cc"),
}
MARKERS = "osD^*vP"


def arms_of(evaluation: Evaluation) -> list[Arm]:
    """The held-out requests under each defense."""
    return [arm for arm in evaluation.arms if arm.benchmark == REQUESTS]


def short(estimate: Estimate | None) -> str:
    """``93 [86–97]``, in %."""
    if estimate is None:
        return "–"
    return f"{100 * estimate.value:.0f} [{100 * estimate.low:.0f}–{100 * estimate.high:.0f}]"


def table(evaluation: Evaluation, columns: Sequence[int]) -> str:
    """A table of the defenses in Markdown; n is in the headings."""
    arms = arms_of(evaluation)
    numbers = [cells(arms[0])[column] for column in columns]
    heads = [
        f"{COLUMNS[column].title}<br>n={'–' if cell is None else cell.n}"
        for column, cell in zip(columns, numbers, strict=True)
    ]
    lines = [f"|defense|{'|'.join(heads)}|", "|---" * (len(columns) + 1) + "|"]
    for arm in arms:
        lines.append(f"|{arm.defense}|" + "|".join(short(cells(arm)[column]) for column in columns) + "|")
    return "\n".join(lines) + "\n"


def examples(evaluation: Evaluation, pair: str) -> str:
    """One harmful request and its safe twin, without a defense and with the gate."""
    lines = []
    for label in ("harmful", "safe"):
        shown = {arm.defense: answer_of(arm, pair, label) for arm in arms_of(evaluation)}
        first = shown[NO_DEFENSE]
        lines.append(f"**{label.capitalize()}**: [“{first.question}”](docs/clips/{first.id}.mp3)")
        lines.append("")
        lines += [f"- {name}: {quoted(shown[name].answer)}" for name in (NO_DEFENSE, GATED) if name in shown]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def answer_of(arm: Arm, pair: str, label: str) -> Answer:
    """The answer to one side of a pair."""
    return next(answer for answer in arm.answers if (answer.pair, answer.label) == (pair, label))


def quoted(text: str) -> str:
    """An answer on one line; one that the demo's limit cut off ends with an ellipsis."""
    one_line = " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*")
    return one_line if one_line.endswith((".", "!", "?")) else one_line + " …"


def settings(evaluation: Evaluation) -> str:
    """Strengths and circumstances, for the docs."""
    rows = [f"| {arm.defense} | `{arm.settings['spec']}` | {strength(arm) or '–'} |" for arm in arms_of(evaluation)]
    model = evaluation.model
    about = f"Model: {model['name']}, {model['dtype']} on {model['device']}. " + " ".join(
        f"{str(note)[0].upper()}{str(note)[1:]}." for note in evaluation.notes
    )
    return "| defense | spec | strength |\n|---|---|---|\n" + "\n".join(rows) + f"\n\n{about}\n"


def summary(evaluation: Evaluation, text: Evaluation) -> str:
    """The results in one paragraph."""
    misheard = next(note for note in evaluation.notes if note.kind == "misheard")
    rate = re.search(r"word error rate of (\d+ %)", misheard.text)
    assert rate is not None
    harmful, safe = cells(arms_of(evaluation)[0])[:2]
    assert harmful is not None
    assert safe is not None
    return (
        f"Of speech it refuses, in %, {rates(evaluation)}; it mishears {rate.group(1)} of the words. "
        f"**Of the same words as text**: {rates(text)} (n={harmful.n}, {safe.n}).\n"
    )


def rates(evaluation: Evaluation) -> str:
    """Harmful and safe requests that are refused with the gate, and without a defense."""
    plain, gated = (
        next(cells(arm) for arm in arms_of(evaluation) if arm.defense == name) for name in (NO_DEFENSE, GATED)
    )
    return (
        f"{short(gated[0])} of harmful and {short(gated[1])} of safe requests with the gate, {short(plain[0])} and "
        f"{short(plain[1])} without"
    )


def rendered(page: str, evaluation: Evaluation, text: Evaluation) -> str:
    """``page`` with its marked blocks written from the results on speech and on text."""

    def block(match: re.Match[str]) -> str:
        begin, name, options, end = match.groups()
        given = dict(part.split("=", 1) for part in options.split())
        writers: dict[str, Any] = {
            "table": lambda: table(evaluation, SHORT),
            "everything": lambda: table(evaluation, range(len(COLUMNS))),
            "examples": lambda: examples(evaluation, given["pair"]),
            "settings": lambda: settings(evaluation),
            "summary": lambda: summary(evaluation, text),
            "text": lambda: table(text, range(len(COLUMNS))),
            "textsettings": lambda: settings(text),
        }
        return f"{begin}{writers[name]()}{end}"

    return BLOCK.sub(block, page)


def points(evaluation: Evaluation) -> list[tuple[str, Estimate, Estimate]]:
    """Name, safe and harmful requests refused, of each defense."""
    found = []
    for arm in arms_of(evaluation):
        harmful, safe = arm.summary.rr_harmful, arm.summary.rr_safe
        assert harmful is not None
        assert safe is not None
        found.append((arm.defense, safe, harmful))
    return found


def digest(evaluation: Evaluation) -> str:
    """Of what the chart shows; stored in the picture."""
    numbers = [(name, x.value, x.low, x.high, y.value, y.low, y.high) for name, x, y in points(evaluation)]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def draw(evaluation: Evaluation, mode: str, path: Path) -> None:
    """Safety against over-refusal."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    color, size = COLORS[mode], 13.0
    figure, axis = pyplot.subplots(figsize=(7.6, 5.0), dpi=150, layout="constrained", facecolor=color["paper"])
    axis.set_facecolor(color["paper"])
    axis.set_xlim(-2, 102)
    axis.set_ylim(-2, 102)
    axis.plot([0, 100], [0, 100], "--", color=color["soft"], linewidth=1, alpha=0.7)
    axis.grid(color=color["line"], linewidth=0.8)
    axis.set_axisbelow(True)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.tick_params(colors=color["soft"], labelsize=11, length=0)
    n = [estimate.n for estimate in points(evaluation)[0][1:]]
    axis.set_xlabel(f"safe requests refused, % (n={n[0]}): less is better", color=color["ink"], fontsize=12)
    axis.set_ylabel(f"harmful requests refused, % (n={n[1]})", color=color["ink"], fontsize=12)
    drawn = points(evaluation)
    for (_, x, y), shade, marker in zip(drawn, SERIES[mode], MARKERS, strict=False):
        axis.plot([100 * x.low, 100 * x.high], [100 * y.value] * 2, color=shade, alpha=0.6)
        axis.plot([100 * x.value] * 2, [100 * y.low, 100 * y.high], color=shade, alpha=0.6)
        big = 15 if marker == "*" else 9
        axis.plot(100 * x.value, 100 * y.value, marker, color=shade, markersize=big, markeredgecolor=color["paper"])
    figure.canvas.draw()
    height = figure.bbox.height
    box = axis.get_window_extent()

    def at(x: float, y: float) -> tuple[float, float]:
        """Pixels from the upper left corner, as ``place_label`` counts."""
        left, bottom = axis.transData.transform((100 * x, 100 * y))
        return float(left), float(height - bottom)

    taken = []
    for _, x, y in drawn:
        taken.append(Box(at(x.low, 0)[0], at(0, y.value)[1] - 3, at(x.high, 0)[0], at(0, y.value)[1] + 3))
        taken.append(Box(at(x.value, 0)[0] - 3, at(0, y.high)[1], at(x.value, 0)[0] + 3, at(0, y.low)[1]))
    frame = Box(box.x0, height - box.y1, box.x1, height - box.y0)
    pixels = size * figure.dpi / 72
    for (name, x, y), shade in zip(drawn, SERIES[mode], strict=False):
        label, _ = place_label(name, *at(x.value, y.value), frame, taken, pixels)
        taken.append(label)
        figure.text(
            label.left / figure.bbox.width,
            1 - label.bottom / height,
            name,
            color=shade,
            fontsize=size,
            fontweight="bold",
        )
    figure.savefig(path, facecolor=color["paper"], metadata={"Results": digest(evaluation)})
    pyplot.close(figure)


def recount(arm: Arm, arms: Sequence[Arm]) -> Arm:
    """The arm with its summary computed from its verdicts: a test compares it with the stored one."""
    items = [
        JudgedAnswer(
            answer.question, answer.answer, answer.label, category=answer.category, id=answer.id, pair=answer.pair
        )
        for answer in arm.answers
    ]
    before = None if arm is arms[0] else [answer.verdict for answer in arms[0].answers]
    random = next(([answer.verdict for answer in one.answers] for one in arms if one.control_of == arm.defense), None)
    summary = summarize([answer.verdict for answer in arm.answers], items, before, random)
    return dataclasses.replace(arm, summary=summary)


def _published(answer: Answer, arm: Arm) -> Answer:
    """An answer without the place of its clip; its transcript is stored once, with no defense."""
    keep = arm.defense == NO_DEFENSE
    return dataclasses.replace(answer, audio=None, text=None, transcript=answer.transcript if keep else None)


def take_over(source: Path, pages: Sequence[Path]) -> Evaluation:
    """Store new results, and the clips of the requests that the pages show."""
    import numpy as np
    import soundfile

    evaluation = Evaluation.load(source)
    shown = set(re.findall(r"<!-- demo:examples pair=(\S+) -->", "".join(page.read_text("utf-8") for page in pages)))
    CLIPS.mkdir(exist_ok=True)
    for old in CLIPS.glob("*.mp3"):
        old.unlink()
    for answer in arms_of(evaluation)[0].answers:
        if answer.pair in shown and answer.audio is not None:
            samples, rate = soundfile.read(answer.audio, dtype="float32")
            soundfile.write(CLIPS / f"{answer.id}.mp3", np.asarray(samples), rate, format="MP3", compression_level=0.8)
    return stored(evaluation, RESULTS)


def stored(evaluation: Evaluation, path: Path) -> Evaluation:
    """The results of the test requests as they are committed: without the places of their clips."""
    arms = tuple(
        dataclasses.replace(arm, answers=tuple(_published(answer, arm) for answer in arm.answers))
        for arm in arms_of(evaluation)
    )
    dataclasses.replace(evaluation, arms=arms).save(path)
    return Evaluation.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="new results of sarsteer demo to store first")
    parser.add_argument("--text-results", type=Path, help="new results of sarsteer demo --text to store first")
    args = parser.parse_args()
    pages = [page for page in PAGES if page.is_file()]
    evaluation = take_over(args.results, pages) if args.results else Evaluation.load(RESULTS)
    text = (
        stored(Evaluation.load(args.text_results), TEXT_RESULTS) if args.text_results else Evaluation.load(TEXT_RESULTS)
    )
    for page in pages:
        page.write_text(rendered(page.read_text("utf-8"), evaluation, text), encoding="utf-8")
    for mode, path in CHARTS.items():
        draw(evaluation, mode, path)
    print(f"wrote {', '.join(str(path.relative_to(ROOT)) for path in (*pages, *CHARTS.values()))}")


if __name__ == "__main__":
    main()
