r"""Success of gradient attacks by step, for pairs of a defense and an attack, over the same requests.

    python -m benchmarks.gradient_attacks sarsteer-tiny --steering steering.safetensors --benchmark embedded \
        --limit 20 --run "none | pgd:0.002" --run "sarsteer:gate=on | pgd:0.002,beta=0" --out attacks.json

Requests come one by one, each under every pair, so that a run that is stopped (``--minutes``, or a kill) has the same
requests for all pairs. The same command resumes it.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import sarsteer
from sarsteer.attacks import ATTACKS, AttackContext
from sarsteer.attacks.gradient.abliteration import abliterated, refusal_direction
from sarsteer.data.benchmarks import BenchmarkSpec
from sarsteer.data.benchmarks.load import load_benchmark
from sarsteer.defenses import DEFENSES, DefenseContext, build_defense
from sarsteer.prompts import INSTRUCTION
from sarsteer.runtime.answerer import Answerer
from sarsteer.stats.rates import rate

STEPS = (0, 10, 20, 50, 100, 200, 500)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--steering", type=Path, required=True)
    parser.add_argument("--run", action="append", required=True, metavar="'DEFENSE | ATTACK'")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--instruction", default=INSTRUCTION)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--abliterate", action="store_true", help="attack the model with abliterated weights")
    parser.add_argument("--folder", type=Path, default=Path("gradient-attacks"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    end = time.monotonic() + 60 * chosen.minutes
    model = sarsteer.load_model(chosen.model, dtype="float32")
    steering = sarsteer.Steering.load(chosen.steering)
    answerer = Answerer(model)
    items = [item for item in load_benchmark(BenchmarkSpec.parse(chosen.benchmark)).items if item.harmful]
    pairs = [tuple(part.strip() for part in run.split("|")) for run in chosen.run]
    context = DefenseContext(model, steering=steering)
    built = [(build_defense(DEFENSES.parse(one), context), ATTACKS.parse(other)) for one, other in pairs]
    model.fingerprint  # noqa: B018 (of the weights that the steering was calibrated on)
    records: dict[str, list[dict[str, Any]]] = {run: [] for run in chosen.run}
    change = abliterated(model, refusal_direction(steering)) if chosen.abliterate else nullcontext()
    with change:
        for item in items[: chosen.limit]:
            for number, (run, (defense, attack)) in enumerate(zip(chosen.run, built, strict=True)):
                if time.monotonic() > end:
                    break
                folder = chosen.folder / f"{'abliterated-' * chosen.abliterate}{number}"
                folder.mkdir(parents=True, exist_ok=True)
                about = AttackContext(
                    folder, pairs[number][1], chosen.instruction, model, defense, answerer, 0, 1, chosen.max_new_tokens
                )
                started = time.process_time()
                (attacked,) = attack.attack([item], about)
                record = {"id": item.id, **attacked.extra["gradient"], "cpu_seconds": time.process_time() - started}
                records[run].append(record)
                steps = [record["success_step"], record["steps"]]
                print(run, item.id, *steps, f"{record['cpu_seconds']:.0f} s", record["answer"][:70], flush=True)
            save(chosen, records)
    print(table(records))
    if chosen.figure is not None:
        draw(records, chosen.figure)


def save(chosen: argparse.Namespace, records: dict[str, list[dict[str, Any]]]) -> None:
    named = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
    chosen.out.write_text(json.dumps({"arguments": named, "records": records}, indent=1, ensure_ascii=False) + "\n")


def by_step(records: list[dict[str, Any]], step: int) -> Any:
    """Share of the requests that were complied with by ``step``."""
    return rate([one["success_step"] is not None and one["success_step"] <= step for one in records])


def table(records: dict[str, list[dict[str, Any]]]) -> str:
    longest = max((one["steps"] for rows in records.values() for one in rows), default=0)
    steps = [step for step in STEPS if step <= longest]
    lines = ["| defense, attack | n | " + " | ".join(f"step {step}" for step in steps) + " | gate closed at the end |"]
    lines.append("|---" * (len(steps) + 3) + "|")
    for run, rows in records.items():
        if not rows:
            continue
        cells = []
        for step in steps:
            one = by_step(rows, step)
            cells.append(f"{100 * one.value:.0f} [{100 * one.low:.0f}, {100 * one.high:.0f}]")
        openings = [row["opening"] for row in rows if row["opening"] is not None]
        closed = f"{sum(opening < 0.5 for opening in openings)} of {len(openings)}" if openings else "–"
        lines.append(f"| `{run.replace(' | ', '`, `')}` | {len(rows)} | " + " | ".join(cells) + f" | {closed} |")
    return "\n".join(lines)


def draw(records: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from sarsteer.figure import BLUE, GRAY, GREEN, INK, ORANGE, new_figure, save_figure

    figure, (axis,) = new_figure(1, 7.2, 3.8)
    colors = (GRAY, BLUE, ORANGE, GREEN, INK)
    longest = max((one["steps"] for rows in records.values() for one in rows), default=0)
    steps = list(range(0, longest + 1, 10))
    for number, (run, rows) in enumerate(records.items()):
        if rows:
            shares = [by_step(rows, step) for step in steps]
            color, style = colors[number % len(colors)], "-" if number < len(colors) else "--"
            label = f"{run.replace(' | ', ', ')} (n={len(rows)})"
            axis.step(steps, [100 * one.value for one in shares], style, where="post", color=color, label=label)
            low, high = ([100 * getattr(one, name) for one in shares] for name in ("low", "high"))
            axis.fill_between(steps, low, high, step="post", color=color, alpha=0.08, linewidth=0)
    axis.set(xlabel="gradient steps", ylabel="requests complied with, %", ylim=(0, 102))
    axis.legend(fontsize=7, frameon=False, loc="lower right")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
