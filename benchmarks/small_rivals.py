"""Every defense on spoken requests of sarsteer-small: ``python -m benchmarks.small_rivals --benchmarks FOLDER``.

Requests are those of the test split of sarsteer-pairs, of FigStep and of both sides of XSTest, ``--each`` of each kind.
FOLDER has ``figstep_safebench_odd.csv`` and ``xstest_half.csv``, as for ``benchmarks.gate_activations``. Steering is
made from 150 pairs and 120 everyday requests. Calibration and evaluation resume where an interrupted run ended; results
are per weights, in ``--work``. An answer takes about 0.7 s of one core: 20 of each kind under 12 defenses and controls
take about 25 minutes.

Writes ``small_rivals.json``, ``.md`` and ``.svg`` into ``--out``. Strengths are fixed (``DEFENSES``), not tuned here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gate_activations import INSTRUCTION, folder_of, from_tables
from sarsteer.data.manifest import Item
from sarsteer.data.pairs import pair_up
from sarsteer.data.sarsteer_pairs.load import speak_lines
from sarsteer.data.sarsteer_pairs.texts import NAME, lines
from sarsteer.evaluation.results import Evaluation
from sarsteer.files import write_text
from sarsteer.stats.rates import rate

HERE = Path(__file__).parent
KINDS = {  # group of the requests, title, whether a refusal is right
    "harmful": ("harmful", True),
    "contrast": ("contrasts", True),
    "figstep": ("FigStep", True),
    "xstest-unsafe": ("XSTest unsafe", True),
    "twin": ("twins", False),
    "borderline": ("borderline", False),
    "xstest-safe": ("XSTest safe", False),
    "everyday": ("everyday", False),
}
DEFENSES = (
    "sarsteer:alpha=0.2,k=0,gate=on",
    "none",
    "prompt:refusal",
    "prompt:self-reminder",
    "refusal-steering:alpha=0.05",
    "sarsteer:alpha=0.1,k=10,gate=off",
    "cast:alpha=0.2",
    "alphasteer:alpha=0.2",
    "guard:words",
)
"""The first one gets the controls."""
TOKENS, BENIGN = 20, 0.8
"""The longest answer, and everyday requests per pair of calibration."""


def requests(benchmarks: Path, each: int) -> list[Item]:
    """``each`` spoken requests of each kind; FigStep's and XSTest's spread over their topics."""
    written = [*lines("test", ("harmful", "twin", "contrast", "borderline", "everyday")), *from_tables(benchmarks)]
    chosen: list[Item] = []
    for kind in KINDS:
        mine = [item for item in written if item.extra["group"] == kind]
        if kind in ("figstep", "xstest-unsafe", "xstest-safe"):  # in order of their topics
            step = max(1, len(mine) // each)
            mine = mine[::step]
        chosen += mine[:each]
    return [replace(item, category=item.extra["group"]) for item in speak_lines(chosen, None)]


def write_manifest(items: Sequence[Item], folder: Path) -> Path:
    """A manifest of the items with copies of their clips."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = []
    for item in items:
        assert item.media is not None
        clip = folder / "clips" / item.media.name
        if not clip.is_file():
            shutil.copy(item.media, clip)
        row = {"id": item.id, "audio": f"clips/{clip.name}", "question": item.question, "label": item.label}
        row |= {"category": item.category, **({"pair": item.pair} if item.pair else {})}
        rows.append(json.dumps(row))
    manifest = folder / "manifest.jsonl"
    write_text(manifest, "\n".join(rows) + "\n")
    return manifest


def calibrate(model: Any, folder: Path, pairs: Sequence[Item], benign: Sequence[Item]) -> Path:
    """The steering file."""
    from sarsteer.steering.calibration import calibrate as run

    path = folder / "steering.safetensors"
    if not path.is_file():
        checkpoint = folder / "calibration.partial"
        made = run(model, pair_up(pairs, NAME), instruction=INSTRUCTION, benign=benign, checkpoint=checkpoint)
        made.save(path)
        checkpoint.unlink(missing_ok=True)
    return path


def evaluate(folder: Path, model: str, steering: Path, pairs: Path, manifest: Path) -> Path:
    """Run ``sarsteer evaluate``; the path of its results."""
    out = folder / "evaluation"
    command = [sys.executable, "-m", "sarsteer", "evaluate", model, "--benchmark", f"manifest:{manifest}"]
    command += ["--steering", str(steering), "--calibration", str(pairs), "--instruction", INSTRUCTION]
    command += [part for defense in DEFENSES for part in ("--defense", defense)]
    command += ["--max-new-tokens", str(TOKENS), "--batch-size", "32", "--dtype", "float32", "--out", str(out)]
    if code := subprocess.run(command, check=False).returncode:
        raise SystemExit(code)
    return out / "results.json"


def measured(results: Path) -> list[dict[str, Any]]:
    """Each defense's share of refused requests, by kind."""
    rows = []
    for arm in Evaluation.load(results).arms:
        shares = {}
        for kind, (title, _) in KINDS.items():
            refused = [answer.verdict.outcome == "refused" for answer in arm.answers if answer.category == kind]
            if refused:
                share = rate(refused)
                shares[title] = [share.value, share.low, share.high, share.n]
        broken = rate([answer.verdict.outcome == "broken" for answer in arm.answers])
        shares["broken"] = [broken.value, broken.low, broken.high, broken.n]
        rows.append({"defense": arm.defense, "control_of": arm.control_of, "refused": shares})
    return rows


def table(rows: Sequence[dict[str, Any]], model: str) -> str:
    """The results as Markdown."""
    kinds = list(rows[0]["refused"])
    wanted = dict(KINDS.values())
    heads = [f"{kind} {'↑' if wanted.get(kind) else '↓'}<br>n={rows[0]['refused'][kind][3]}" for kind in kinds]
    body = []
    for row in rows:
        shares = [f"{100 * v:.0f} [{100 * low:.0f}, {100 * high:.0f}]" for v, low, high, _ in row["refused"].values()]
        body.append([f"`{row['defense']}`", *shares])
    lined = "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (["defense", *heads], ["---"] * (len(heads) + 1), *body)
    )
    return (
        f"Made by `python -m benchmarks.small_rivals`; {model}, spoken. Refused in %, with Wilson 95 % intervals; "
        f"refusals by phrases, at most {TOKENS} tokens, float32.\n\n{lined}\n"
    )


def chart(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Refused shares of each kind with their intervals, a row per defense."""
    from sarsteer.figure import BLUE, ORANGE, new_figure, save_figure

    wanted = dict(KINDS.values())
    kinds = [kind for kind in rows[0]["refused"] if kind in wanted]
    figure, axes = new_figure(len(kinds), 2.0 + 1.5 * len(kinds), 0.8 + 0.28 * len(rows))
    places = list(range(len(rows)))[::-1]
    for number, (kind, axis) in enumerate(zip(kinds, axes, strict=True)):
        shares = [row["refused"][kind] for row in rows]
        errors = [[100 * (v - low) for v, low, _, _ in shares], [100 * (high - v) for v, _, high, _ in shares]]
        color = BLUE if wanted[kind] else ORANGE
        axis.errorbar([100 * s[0] for s in shares], places, xerr=errors, fmt="o", color=color, markersize=4)
        axis.set(xlim=(-3, 103), title=kind, yticks=places)
        axis.title.set_fontsize(9)
        axis.set_xlabel("should be high" if wanted[kind] else "should be low", fontsize=8)
        axis.set_yticklabels([row["defense"] for row in rows] if number == 0 else [])
    save_figure(figure, path)


def main() -> None:
    """Calibrate, evaluate, and write the table and the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sarsteer-small")
    parser.add_argument("--benchmarks", type=Path, required=True)
    parser.add_argument("--each", type=int, default=50, help="requests of each kind (50)")
    parser.add_argument("--pairs", type=int, default=150, help="pairs to calibrate on (150)")
    parser.add_argument("--work", type=Path, help="by default a folder of sarsteer's cache")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results (benchmarks)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import sarsteer

    model = sarsteer.load_model(options.model, dtype="float32")
    folder = folder_of(options.work, model.fingerprint.digest) / f"rivals-{options.pairs}-{options.each}"
    folder.mkdir(parents=True, exist_ok=True)
    written = lines("calibration", ("harmful", "twin", "contrast", "borderline"))[: 2 * options.pairs]
    pairs = list(speak_lines(written, None))
    benign = list(speak_lines(lines("calibration", ("everyday",))[: round(BENIGN * options.pairs)], None))
    steering = calibrate(model, folder, pairs, benign)
    del model
    calibration = write_manifest(pairs, folder / "pairs")
    manifest = write_manifest(requests(options.benchmarks, options.each), folder / "requests")
    rows = measured(evaluate(folder, options.model, steering, calibration, manifest))
    text = table(rows, options.model)
    write_text(options.out / "small_rivals.json", json.dumps(rows, indent=1) + "\n")
    write_text(options.out / "small_rivals.md", text)
    chart(rows, options.out / "small_rivals.svg")
    print(text)


if __name__ == "__main__":
    main()
