r"""What each countermeasure stops, what it costs, and what is left when it is attacked again.

    python -m benchmarks.countermeasures sarsteer-tiny --pairs sarsteer-tiny --benchmark embedded --limit 40 \
        --attack silence --attack pgd:0.0005,steps=10 --out countermeasures.json

Each row is one defense: without one, always-on steering, the gate, the gate calibrated with ``--augment``, noised
copies that must agree, a gate drawn at random, and the transcript as a second view. An attack along gradients is run
against each of them, so every row is attacked after it was chosen; against a guard that reads transcripts, ``pgd``
becomes ``transcript-target``, and others are made against the undefended model.

The cost is the CPU time of a whole answer, of harmless requests one by one, as a ratio to the gate's; all defenses
answer a request before the next one. The same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sarsteer
from benchmarks.spread import median_interval
from sarsteer.attacks import ATTACKS, Access
from sarsteer.attacks.augment import augmented, augmented_pairs, parse_transforms
from sarsteer.data.benchmarks import BenchmarkSpec
from sarsteer.data.benchmarks.load import load_benchmark
from sarsteer.data.pairs import load_benign, load_pairs
from sarsteer.data.sarsteer_pairs import NAME
from sarsteer.defenses import DEFENSES, DefenseContext, build_defense
from sarsteer.evaluation.attack_rows import CLEAN, attack_rows
from sarsteer.evaluation.plan import parse_plan
from sarsteer.evaluation.run import run
from sarsteer.prompts import INSTRUCTION
from sarsteer.runtime.answerer import Answerer
from sarsteer.runtime.pool import Pool

AUGMENT = ("silence", "noise:snr=20")
GATE = "gate"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pairs", required=True, help="calibration pairs")
    parser.add_argument("--benchmark", action="append", required=True)
    parser.add_argument("--attack", action="append", required=True)
    parser.add_argument("--augment", action="append", help="default: " + " ".join(AUGMENT))
    parser.add_argument("--strength", default="alpha=0.3,k=10", help="of the gated rows")
    parser.add_argument("--always", default="sarsteer:gate=off", help="always-on steering")
    parser.add_argument("--gates", type=int, default=4, help="gates to draw from")
    parser.add_argument("--calibration-limit", type=int, help="pairs of the files and the costs; rates use all pairs")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--timed", type=int, default=10, help="harmless requests whose answers are timed")
    parser.add_argument("--instruction", default=INSTRUCTION)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--max-wer", type=float, help="measure which clips are misheard; costs a transcript for each")
    parser.add_argument("--row", action="append", help="only these rows, in this order; default: all")
    parser.add_argument("--heard", help="the transcript that an attack on the guard wants; default: the attack's own")
    parser.add_argument("--work", type=Path, default=Path("countermeasures"))
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    chosen.work.mkdir(parents=True, exist_ok=True)
    pool = Pool()
    model: Any = sarsteer.load_model(chosen.model, dtype="float32")
    pool.add_model(model)
    plain = calibrated(chosen, model, ())
    hardened = calibrated(chosen, model, tuple(chosen.augment or AUGMENT))
    rows = {
        "none": (plain, "none"),
        "always on": (plain, chosen.always),
        GATE: (plain, f"sarsteer:{chosen.strength},gate=on"),
        "random gate": (plain, f"random-gate:{chosen.gates},{chosen.strength}"),
        "gate, --augment": (hardened, f"sarsteer:{chosen.strength},gate=on"),
        "two noised copies": (plain, f"agree:2,{chosen.strength}"),
        "transcript": (plain, "guard:words"),
    }
    unknown = [one for one in chosen.row or () if one not in rows]
    if unknown:
        raise SystemExit(f"--row {unknown[0]!r} is unknown; use one of {', '.join(rows)}")
    named = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
    timed = chosen.work / "costs.json"
    cost = json.loads(timed.read_text()) if timed.is_file() else costs(chosen, model, rows)
    timed.write_text(json.dumps(cost, indent=1) + "\n")
    results: dict[str, Any] = {}
    try:
        for name in chosen.row or rows:
            results[name] = attacked(chosen, pool, name, *rows[name])
            found = {"arguments": named, "cost": cost, "rows": results}
            chosen.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    finally:
        pool.close()
    print(table(results, cost))


def calibrated(chosen: argparse.Namespace, model: Any, augment: tuple[str, ...]) -> Path:
    """The steering file, made if it does not exist."""
    path: Path = chosen.work / ("augmented.safetensors" if augment else "plain.safetensors")
    if not path.is_file():
        pairs = load_pairs(chosen.pairs, "calibration", limit=chosen.calibration_limit)
        benign = load_benign(NAME, "calibration", limit=chosen.calibration_limit) if chosen.pairs == NAME else []
        if augment:
            transforms = parse_transforms(augment)
            pairs = augmented_pairs(pairs, transforms, chosen.work / "clips")
            benign = augmented(benign, transforms, chosen.work / "clips")
        sarsteer.calibrate(model, pairs, instruction=chosen.instruction, benign=benign).save(path)
    return path


def attacked(chosen: argparse.Namespace, pool: Pool, name: str, steering: Path, defense: str) -> dict[str, Any]:
    """The rates under each attack, as JSON."""
    attacks = list(chosen.attack)
    if defense.startswith("guard"):
        attacks = [through_transcripts(one, chosen.heard) for one in attacks]
    plan = parse_plan(
        chosen.model,
        chosen.benchmark,
        [defense],
        chosen.work / name.replace(", --", "-").replace(" ", "-"),
        steering=steering,
        calibration=chosen.pairs,
        attacks=attacks,
        limit=chosen.limit,
        instruction=chosen.instruction,
        max_new_tokens=chosen.max_new_tokens,
        batch_size=chosen.batch_size,
        max_wer=chosen.max_wer,
        controls=False,
    )
    rates: dict[str, Any] = {"defense": defense, "attacks": {}}
    for row in attack_rows(run(plan, lambda *about: None, pool), chosen.max_wer):
        at = rates["attacks"].setdefault(CLEAN if row.attack == CLEAN else chosen.attack[attacks.index(row.attack)], {})
        for key in ("asr", "asr_understood", "misheard", "rr_safe"):
            value = getattr(row, key)
            if value is not None:  # benchmarks of one kind of requests have only one of them
                at[key] = asdict(value)
    print(name, json.dumps(rates), flush=True)
    return rates


def through_transcripts(attack: str, heard: str | None) -> str:
    """The same attack on a guard that reads transcripts."""
    name, _, options = attack.partition(":")
    if name == "pgd" and "source=" not in options:
        added = ",".join(one for one in (options, heard and f"heard={heard}") if one)
        return f"transcript-target:{added}" if added else "transcript-target"
    return f"{attack},source=undefended" if ATTACKS.parse(attack).access is Access.WHITE_BOX else attack


def costs(chosen: argparse.Namespace, model: Any, rows: dict[str, tuple[Path, str]]) -> dict[str, Any]:
    """The CPU time of an answer as a ratio to that under the gate, with a 95 % interval over requests."""
    items = [
        item
        for spec in chosen.benchmark
        for item in load_benchmark(BenchmarkSpec.parse(spec)).items
        if item.label == "safe"
    ][: chosen.timed]
    pairs = load_pairs(chosen.pairs, "calibration", limit=chosen.calibration_limit)
    answerer = Answerer(model)
    built = {}
    for name, (path, spec) in rows.items():
        cache = chosen.work / "vectors"
        context = DefenseContext(model, steering=sarsteer.Steering.load(path), pairs=pairs, cache=cache)
        built[name] = build_defense(DEFENSES.parse(spec), context)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for item in items:
        turn = item.turn(item.text or chosen.instruction)
        for name, defense in built.items():
            answerer.answer(defense, [turn], 1, batch_size=1)  # attach, and warm up
            model.clip_cache.clear()
            started = time.process_time()
            answerer.answer(defense, [turn], chosen.max_new_tokens, batch_size=1)
            seconds[name].append(time.process_time() - started)
    answerer.close()
    ratios = {name: [a / b for a, b in zip(own, seconds[GATE], strict=True)] for name, own in seconds.items()}
    return {name: dict(zip(("ratio", "interval"), median_interval(own), strict=True)) for name, own in ratios.items()}


def table(rows: dict[str, Any], cost: dict[str, Any]) -> str:
    """Markdown: success without attack and under each, over-refusal, and cost."""
    attacks = [one for one in next(iter(rows.values()))["attacks"] if one != CLEAN]
    titles = ["defense", "ASR", *(f"ASR, `{one}`" for one in attacks)]
    titles += ["harmless refused", *(f"the same, `{one}`" for one in attacks), "CPU time of an answer"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, row in rows.items():
        cells = [cell(row["attacks"].get(one, {}).get(key)) for key in ("asr", "rr_safe") for one in (CLEAN, *attacks)]
        low, high = cost[name]["interval"]
        cells.append("1" if name == GATE else f"× {cost[name]['ratio']:.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{100 * value['value']:.0f} [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


if __name__ == "__main__":
    main()
