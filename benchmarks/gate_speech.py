"""What limits the gate on speech, measured on sarsteer-small: ``python -m benchmarks.gate_speech``.

Reads the activations that ``python -m benchmarks.gate_activations --benchmarks FOLDER`` computed, so all stages take
about four minutes of one core. Gates are fitted on the calibration split of sarsteer-pairs; designs are chosen on the
tuning split, and the test split, FigStep and XSTest are reported. Each finished stage is saved in ``--work``, so an
interrupted run continues; ``--again`` runs stages again. Writes ``benchmarks/gate_speech.json`` and ``gate_speech.md``.

A gate opens above its threshold, set to a stated 5 % of held-out safe calibration requests. There is no distance limit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gate_activations import folder_of, load
from benchmarks.gate_fits import Data, Fits
from sarsteer.demo.arms import word_error_rate
from sarsteer.errors import CalibrationError
from sarsteer.files import write_text
from sarsteer.stats.rates import rate
from sarsteer.steering.gate.conformal import conformal_threshold
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.nested import auroc

HERE = Path(__file__).parent
RESULTS = "gate-speech.json"
"""In the work folder: stages that are finished."""
STYLES = ("question", "command", "story", "conversation")
SETS = {
    "harmful": (("harmful", "contrast"), "harmful"),
    "FigStep": (("figstep",), "harmful"),
    "XSTest unsafe": (("xstest-unsafe",), "harmful"),
    "twins": (("twin",), "safe"),
    "borderline": (("borderline",), "safe"),
    "everyday": (("everyday",), "safe"),
    "XSTest safe": (("xstest-safe",), "safe"),
}
CONTRASTS = {
    "harmful / twins, borderline": ("harmful", "contrast", "twin", "borderline"),
    "harmful / everyday": ("harmful", "contrast", "everyday"),
    "XSTest unsafe / safe": ("xstest-unsafe", "xstest-safe"),
}
RANGES = {
    "lower 60 %": (0.0, 0.6),
    "lower 80 %": (0.0, 0.8),
    "all but the last": (0.0, 1.0),
    "25 to 60 %": (0.25, 0.6),
    "25 to 70 %": (0.25, 0.7),
    "40 to 60 %": (0.4, 0.6),
    "40 to 80 %": (0.4, 0.8),
}

Result = list[dict[str, Any]]


def opens(gate: Gate, data: Data) -> np.ndarray:
    """Whether the gate opens for each request."""
    return scores(gate, data) > gate.threshold


def scores(gate: Gate, data: Data) -> np.ndarray:
    """The gate's scores."""
    return np.asarray(gate.score(data.last).double().numpy())


def measured(gate: Gate, data: Data, found: np.ndarray | None = None) -> dict[str, Any]:
    """Shares of requests that open the gate, by set, and AUROCs of contrasts; ``found`` replaces its scores."""
    found = scores(gate, data) if found is None else found
    group = np.array([row["group"] for row in data.rows])
    shares, aurocs = {}, {}
    for name, (groups, _) in SETS.items():
        chosen = np.isin(group, groups)
        if chosen.any():
            share = rate((found[chosen] > gate.threshold).tolist())
            shares[name] = [share.value, share.low, share.high, share.n]
    for name, groups in CONTRASTS.items():
        chosen = np.isin(group, groups)
        if len(set(data.labels[chosen])) == 2:
            aurocs[name] = auroc(data.labels[chosen], found[chosen])
    return {"layers": list(gate.layers), "opens": shares, "auroc": aurocs, "threshold": gate.threshold}


class Activations:
    """The parts of a work folder, loaded when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, Data] = {}

    def __call__(self, name: str) -> Data:
        """A part such as ``speech-test``; empty if it was not computed."""
        if name not in self._seen:
            if not (self.folder / f"{name}.pt").is_file():
                if name.endswith("-bench"):
                    return Data([], torch.empty(0, *self("speech-test").last.shape[1:]))
                raise SystemExit(f"{self.folder}: has no {name}; run python -m benchmarks.gate_activations first")
            self._seen[name] = Data(*load(self.folder, name))
        return self._seen[name]

    @cached_property
    def gate(self) -> Gate:
        """The gate that calibration makes by default."""
        return Fits(self("speech-calibration")).gate()

    def transcripts(self, name: str) -> list[str] | None:
        """What the model understood of each clip; None if it was not asked."""
        path = self.folder / f"{name}.transcripts.pt"
        return torch.load(path) if path.is_file() else None


# ---- stages ----------------------------------------------------------------------------------------------------------


def layers_of(depth: int, share: tuple[float, float]) -> list[int]:
    """The layers of a range; never the last one, which has none above it to steer."""
    return list(range(round(share[0] * depth), min(max(1, round(share[1] * depth)), depth - 1)))


def measure_depth(seen: Activations) -> Result:
    """Ranges of layers: on the tuning split, and on each style by a gate that was calibrated without it."""
    results: Result = []
    for form in ("speech", "text"):
        calibration, tuning = seen(f"{form}-calibration"), seen(f"{form}-tuning")
        depth, everything = calibration.last.shape[1], calibration + tuning
        whole = Fits(calibration)
        without = {style: Fits(calibration.where(lambda row, style=style: row["style"] != style)) for style in STYLES}
        for name, share in RANGES.items():
            layers = layers_of(depth, share)
            gate = whole.gate(layers)
            left_out = []
            for style, fits in without.items():
                unseen = everything.where(lambda row, style=style: row["style"] == style)
                left_out.append(measured(fits.gate(layers), unseen))
            unseen_auroc = {
                key: float(np.mean([one["auroc"][key] for one in left_out])) for key in left_out[0]["auroc"]
            }
            unseen_opens = {
                key: float(np.mean([one["opens"][key][0] for one in left_out])) for key in left_out[0]["opens"]
            }
            results.append(
                {
                    "form": form,
                    "range": name,
                    "first": layers[0],
                    "last": layers[-1],
                    **measured(gate, tuning),
                    "unseen_auroc": unseen_auroc,
                    "unseen_opens": unseen_opens,
                }
            )
            print(json.dumps(results[-1]), flush=True)
    return results


def measure_limits(seen: Activations) -> Result:
    """What limits the gate on speech: the form, the voices, the clips that were misheard, the number of clips."""
    first, second = seen("speech-calibration"), seen("speech-calibration-2")
    text = seen("text-calibration")
    shift = first.last.mean(0) - text.last.mean(0)  # the same requests, in both forms
    centered = Data(text.rows, text.last + shift)
    gates = {
        "speech": (first, "speech"),
        "speech, other voices": (second, "speech"),
        "speech, two voices each": (first + second, "speech"),
        "speech and text, recentered": (first + _renamed(centered), "speech"),
        "text, recentered": (centered, "speech"),
        "text": (text, "text"),
    }
    results: Result = []
    for name, (calibration, form) in gates.items():
        gate = seen.gate if name == "speech" else Fits(calibration).gate()
        row = {"calibrated on": name, "n": len(calibration), "tested on": form}
        results.append({**row, **measured(gate, seen(f"{form}-test") + seen(f"{form}-bench"))})
        print(json.dumps(results[-1]), flush=True)
        if name == "text" and (seen.folder / "transcripts-speech-test.pt").is_file():
            understood = measured(gate, seen("transcripts-speech-test"))
            results.append({**row, "tested on": "the model's transcripts of speech, in text", **understood})
        if name == "speech":
            held_out = seen("speech-test-held-out")
            results.append({**row, "tested on": "speech, held-out voices", **measured(gate, held_out)})
            for half, part in _by_word_errors(seen, "speech-test"):
                results.append({**row, "tested on": f"speech, {half}", **measured(gate, part)})
    return results


def _renamed(data: Data) -> Data:
    return Data([{**row, "voice": "written"} for row in data.rows], data.last)


def _by_word_errors(seen: Activations, part: str) -> list[tuple[str, Data]]:
    transcripts = seen.transcripts(part)
    if transcripts is None:
        return []
    data = seen(part)
    errors = [word_error_rate(row["question"], text) for row, text in zip(data.rows, transcripts, strict=True)]
    bounds = {"word errors under 10 %": (-1, 0.1), "10 to 40 %": (0.1, 0.4), "40 % and more": (0.4, 99)}
    found = []
    for name, (low, high) in bounds.items():
        kept = [number for number, error in enumerate(errors) if low <= error < high]
        if low < 0:
            name = f"{name} (mean of all {100 * np.mean(errors):.0f} %)"
        found.append((name, Data([data.rows[number] for number in kept], data.last[kept])))
    return found


def measure_left_out(seen: Activations) -> Result:
    """One style, one category, or one voice left out of the calibration, and tested on all requests with it.

    ``known`` is the gate that was calibrated with them, and its held-out scores where it was.
    """
    calibration = seen("speech-calibration")
    everything = calibration + seen("speech-tuning") + seen("speech-test")
    known_scores = scores(seen.gate, everything)
    for row, score in seen.gate.metadata["by_row"].items():
        known_scores[row] = score
    results: Result = []
    for key in ("style", "category", "voice"):
        values = sorted({row[key] for row in calibration.groups("harmful", "contrast").rows})
        for value in values:
            gate = Fits(calibration.where(lambda row, key=key, value=value: row[key] != value)).gate()
            here = [number for number, row in enumerate(everything.rows) if row[key] == value]
            unseen, known = everything.at(here), measured(seen.gate, everything.at(here), known_scores[here])
            results.append({"left out": key, "value": value, "unseen": measured(gate, unseen), "known": known})
            print(json.dumps(results[-1]), flush=True)
    return results


def measure_sizes(seen: Activations, draws: int = 5) -> Result:
    """Calibrations of 25 to 298 pairs, with as many everyday requests as there are in proportion; random draws."""
    calibration = seen("speech-calibration")
    pairs = sorted({row["pair"] for row in calibration.rows if row["pair"]})
    everyday = sorted(row["id"] for row in calibration.rows if not row["pair"])
    results: Result = []
    for size in (25, 50, 100, 150, 200, len(pairs)):
        found = []
        for draw in range(draws if size < len(pairs) else 1):
            rng = np.random.default_rng(draw)
            kept = set(rng.choice(pairs, size, replace=False))
            others = set(rng.choice(everyday, round(size * len(everyday) / len(pairs)), replace=False))
            part = calibration.where(lambda row, kept=kept, others=others: row["pair"] in kept or row["id"] in others)
            found.append(measured(Fits(part).gate(), seen("speech-test") + seen("speech-bench")))
        row: dict[str, Any] = {"pairs": size, "draws": len(found)}
        for kind in ("opens", "auroc"):
            values = {
                key: [one[kind][key][0] if kind == "opens" else one[kind][key] for one in found]
                for key in (found[0][kind] if found else ())
            }
            row[kind] = {key: [float(np.mean(v)), float(np.min(v)), float(np.max(v))] for key, v in values.items()}
        results.append(row)
        print(json.dumps(row), flush=True)
    return results


def measure_failures(seen: Activations) -> Result:
    """The requests that fail: the harmful ones of lowest score and the safe ones of highest score, in their words."""
    gate = seen.gate
    data, transcripts = seen("speech-test"), seen.transcripts("speech-test")
    found, opened = scores(gate, data), opens(gate, data)
    results: Result = []
    for label, sign in (("harmful", 1), ("safe", -1)):
        wrong = [n for n, row in enumerate(data.rows) if row["label"] == label and opened[n] == (label == "safe")]
        for number in sorted(wrong, key=lambda n: sign * found[n])[:15]:
            row = data.rows[number]
            understood = None if transcripts is None else transcripts[number]
            results.append(
                {
                    "label": label,
                    "group": row["group"],
                    "score": float(found[number]),
                    "threshold": gate.threshold,
                    "said": row["question"],
                    "understood": understood,
                }
            )
    return results


def measure_coverage(seen: Activations, resamplings: int = 200) -> Result:
    """How many new safe requests a conformal threshold refuses: each time, half of them set it and half test it."""
    gate = seen.gate
    test = seen("speech-test") + seen("speech-bench")
    kinds = {"everyday": ("everyday",), "XSTest safe": ("xstest-safe",)}
    kinds["all safe"] = ("twin", "borderline", "everyday", "xstest-safe")
    results: Result = []
    rng = np.random.default_rng(0)
    for name, groups in kinds.items():
        found = scores(gate, test.groups(*groups))
        half = len(found) // 2
        for stated in (0.02, 0.05, 0.1):
            if half < 1 / stated - 1:
                continue
            refused = []
            for _ in range(resamplings):
                order = rng.permutation(found)
                threshold = conformal_threshold(order[:half].tolist(), stated)
                refused.append(float((order[half:] > threshold).mean()))
            low, high = np.quantile(refused, [0.025, 0.975])
            row = {"group": name, "n": half, "stated": stated, "mean": float(np.mean(refused))}
            results.append({**row, "low": float(low), "high": float(high)})
    return results


STAGES: dict[str, Callable[[Activations], Result]] = {
    "depth": measure_depth,
    "limits": measure_limits,
    "left_out": measure_left_out,
    "sizes": measure_sizes,
    "failures": measure_failures,
    "coverage": measure_coverage,
}


# ---- tables ----------------------------------------------------------------------------------------------------------


def tables(results: dict[str, Any]) -> str:
    """The Markdown of ``gate_speech.md``."""
    parts = [
        f"Made by `python -m benchmarks.gate_speech`; {results['model']}. Shares that open the gate in %, with 95 % "
        "intervals (Wilson)."
    ]
    for name, write in WRITERS.items():
        if name in results:
            parts.append(write(results[name]))
    return "\n\n".join(parts) + "\n"


def _depth(rows: Result) -> str:
    kinds = list(rows[0]["opens"])
    contrasts = list(rows[0]["auroc"])
    head = ["range", "read", "layers", *(f"AUROC {name}" for name in contrasts), *kinds]
    head += ["unseen style: AUROC", "opens, harmful / twins / everyday"]
    parts = []
    for form in ("speech", "text"):
        body = []
        for row in rows:
            if row["form"] != form:
                continue
            unseen = row["unseen_opens"]
            cells = [row["range"], f"{row['first']} to {row['last']}", _list(row["layers"])]
            cells += [f"{row['auroc'][name]:.3f}" for name in contrasts]
            cells += [_share(row["opens"][kind]) for kind in kinds]
            cells += [" / ".join(f"{value:.3f}" for value in row["unseen_auroc"].values())]
            cells += [" / ".join(f"{100 * unseen[kind]:.0f}" for kind in ("harmful", "twins", "everyday"))]
            body.append(cells)
        parts.append(f"**Depth, in {form}**: fitted on the calibration split, opened on the tuning split.")
        parts.append(_table(head, body))
    return "\n\n".join(parts)


def _limits(rows: Result) -> str:
    kinds, contrasts = list(SETS), list(CONTRASTS)
    head = ["calibrated on", "n", "tested on", "layers", *kinds, *(f"AUROC {name}" for name in contrasts)]
    body = []
    for row in rows:
        cells = [row["calibrated on"], str(row["n"]), row["tested on"], _list(row["layers"])]
        cells += [_share(row["opens"].get(kind)) for kind in kinds]
        cells += [f"{row['auroc'][name]:.3f}" if name in row["auroc"] else "" for name in contrasts]
        body.append(cells)
    return "**What limits it**\n\n" + _table(head, body)


def _left_out(rows: Result) -> str:
    kinds, contrasts = ("harmful", "twins", "everyday"), list(CONTRASTS)[:2]
    head = ["left out", *(f"{kind}: unseen / known" for kind in kinds)]
    head += [f"AUROC {name}: unseen / known" for name in contrasts]
    body = []
    for row in rows:
        both = (row["unseen"], row["known"])
        cells = [f"{row['left out']}: {row['value']}"]
        cells += [" / ".join(_share(one["opens"].get(kind)) for one in both).strip(" /") for kind in kinds]
        for name in contrasts:
            cells.append(" / ".join(f"{one['auroc'][name]:.3f}" for one in both if name in one["auroc"]))
        body.append(cells)
    means = []
    for key in dict.fromkeys(row["left out"] for row in rows):
        for name in contrasts:
            pairs = [
                (row["unseen"]["auroc"][name], row["known"]["auroc"][name])
                for row in rows
                if row["left out"] == key and name in row["unseen"]["auroc"]
            ]
            if pairs:
                unseen, known = np.mean(pairs, 0)
                means.append(f"- {key}, {name}: AUROC {unseen:.3f} unseen, {known:.3f} known (mean of {len(pairs)})")
    return (
        "**One style, category or voice left out**, on the same requests\n\n"
        + _table(head, body)
        + "\n\n"
        + "\n".join(means)
    )


def _sizes(rows: Result) -> str:
    kinds, contrasts = list(rows[-1]["opens"]), list(rows[-1]["auroc"])
    head = ["pairs", "draws", *kinds, *(f"AUROC {name}" for name in contrasts)]
    body = []
    for row in rows:
        cells = [str(row["pairs"]), str(row["draws"])]
        for kind, names, scale, digits in (("opens", kinds, 100, 0), ("auroc", contrasts, 1, 3)):
            for name in names:
                values = row[kind].get(name)
                if values is None:
                    cells.append("")
                    continue
                mean, low, high = (f"{scale * value:.{digits}f}" for value in values)
                cells.append(f"{mean} ({low} to {high})")
        body.append(cells)
    return "**Calibration sizes**, mean (range) over draws\n\n" + _table(head, body)


def _failures(rows: Result) -> str:
    head = ["label", "group", "score", "threshold", "said", "understood"]
    body = []
    for row in rows:
        cells = [row["label"], row["group"], f"{row['score']:.2f}", f"{row['threshold']:.2f}", row["said"]]
        body.append([*cells, row["understood"] or ""])
    return "**Test requests that fail most clearly**\n\n" + _table(head, body)


def _coverage(rows: Result) -> str:
    head = ["new safe requests", "n that set the threshold", "stated", "refused, mean", "95 % of 200 resamplings"]
    body = []
    for row in rows:
        between = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        body.append([row["group"], str(row["n"]), f"{100 * row['stated']:g}", f"{100 * row['mean']:.1f}", between])
    return "**Coverage of the threshold**\n\n" + _table(head, body)


WRITERS: dict[str, Callable[[Result], str]] = {
    "depth": _depth,
    "limits": _limits,
    "left_out": _left_out,
    "sizes": _sizes,
    "failures": _failures,
    "coverage": _coverage,
}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _share(values: Sequence[float] | None) -> str:
    if values is None:
        return ""
    value, low, high, n = values
    return f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}] (n={n:.0f})"


def _list(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sarsteer-small")
    parser.add_argument("--work", type=Path, help="the folder that benchmarks.gate_activations wrote to")
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--again", action="store_true", help="run stages that are finished again")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results (benchmarks)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import sarsteer

    model = sarsteer.load_model(options.model, dtype="float32")
    folder, name = folder_of(options.work, model.fingerprint.digest), model.name
    del model
    seen, saved = Activations(folder), folder / RESULTS
    results = json.loads(saved.read_text()) if saved.is_file() else {"model": name}
    for stage in options.stages:
        if stage not in results or options.again:
            began = time.process_time()
            results[stage] = STAGES[stage](seen)
            write_text(saved, json.dumps(results, indent=1))
            print(f"{stage}: {time.process_time() - began:.0f} s of CPU time", flush=True)
    results = {"model": name, **{stage: results[stage] for stage in STAGES if stage in results}}
    write_text(options.out / "gate_speech.json", json.dumps(results, indent=1) + "\n")
    text = tables(results)
    write_text(options.out / "gate_speech.md", text)
    print(text)


if __name__ == "__main__":
    try:
        main()
    except CalibrationError as error:
        raise SystemExit(f"error: {error}") from None
