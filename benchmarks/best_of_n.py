r"""Best of n, until the first success: how many random compositions does each request take, under each defense?

    python -m benchmarks.best_of_n sarsteer-tiny --steering steering.safetensors --benchmark embedded --limit 20 \
        --n 600 --defense sarsteer:gate=off --defense sarsteer:alpha=0.3,k=10,gate=on --out best-of-n.json

``sarsteer attack --attack best-of-n:600`` answers every draw of every request. This asks the same draws in the same
order, and stops at a request's first success, so that 600 draws of 20 requests are affordable on a CPU. Harmless
requests get the first ``--harmless-draws`` draws. The same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sarsteer
from sarsteer.attacks import AttackContext
from sarsteer.attacks.best_of_n import BestOfN
from sarsteer.data.benchmarks import BenchmarkSpec
from sarsteer.data.benchmarks.load import load_benchmark
from sarsteer.data.manifest import Item
from sarsteer.defenses import DEFENSES, DefenseContext, build_defense
from sarsteer.defenses.built import BuiltDefense
from sarsteer.files import write_text
from sarsteer.judges.base import JudgedAnswer
from sarsteer.judges.registry import parse_judge
from sarsteer.prompts import INSTRUCTION
from sarsteer.runtime.answerer import Answerer, Reply
from sarsteer.stats.any_of_n import CurveOfN, curve_until
from sarsteer.stats.rates import rate

CHUNKS = (1, 7, 12, 20, 40, 80, 140, 300)
"""Draws between two looks: most requests need few."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steering", type=Path, required=True)
    parser.add_argument("--benchmark", action="append", required=True)
    parser.add_argument("--defense", action="append", required=True)
    parser.add_argument("--limit", type=int, default=20, help="harmful, and harmless, requests")
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--harmless-draws", type=int, default=8)
    parser.add_argument("--judge", default="embedded")
    parser.add_argument("--instruction", default=INSTRUCTION)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--work", type=Path, default=Path("best-of-n"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, help="draw the curves, for light and dark pages")
    return parser.parse_args()


class Run:
    """Asks draws of one request."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        model = sarsteer.load_model(chosen.model, dtype="float32")
        self.answerer = Answerer(model)
        self.judge = parse_judge(chosen.judge)
        context = DefenseContext(model, steering=sarsteer.Steering.load(chosen.steering))
        self.defenses = {spec: build_defense(DEFENSES.parse(spec), context) for spec in chosen.defense}

    def outcomes(self, item: Item, defense: BuiltDefense, start: int, end: int) -> list[str | None]:
        """The verdicts on draws ``start`` to ``end``, numbered from 0."""
        folder = self.chosen.work / "clips"
        folder.mkdir(parents=True, exist_ok=True)
        # a draw depends on its number and the seed only, so a longer attack begins with the same ones
        context = AttackContext(folder, "best-of-n", self.chosen.instruction)
        variants = BestOfN(end).attack([item], context)[start:]
        turns = [one.turn(one.text or self.chosen.instruction) for one in variants]
        size = self.chosen.batch_size
        replies = self.answerer.answer(defense, turns, self.chosen.max_new_tokens, batch_size=size)
        label: Any = item.label
        asked = []
        for reply in replies:
            if not isinstance(reply, Reply):
                raise reply
            asked.append(JudgedAnswer(item.question, reply.text, label, reference=item.answer, id=item.id))
        return [verdict.outcome for verdict in self.judge.judge(asked)]

    def first_success(self, item: Item, defense: BuiltDefense) -> tuple[int | None, int]:
        """The number of the first draw that is complied with, from 1, and how many were asked."""
        done = 0
        for size in CHUNKS:
            end = min(done + size, self.chosen.n)
            found = self.outcomes(item, defense, done, end)
            if "complied" in found:
                return done + found.index("complied") + 1, end
            done = end
            if done == self.chosen.n:
                break
        return None, done


def main() -> None:
    chosen = arguments()
    if chosen.n > sum(CHUNKS):
        raise SystemExit(f"--n must be at most {sum(CHUNKS)}, not {chosen.n}")
    run = Run(chosen)
    items = [item for spec in chosen.benchmark for item in load_benchmark(BenchmarkSpec.parse(spec)).items]
    harmful = [item for item in items if item.harmful][: chosen.limit]
    harmless = [item for item in items if not item.harmful][: chosen.limit]
    state = chosen.work / "state.json"
    chosen.work.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = json.loads(state.read_text()) if state.is_file() else {}
    for item in (*harmful, *harmless):
        for spec, defense in run.defenses.items():
            key = f"{spec} | {item.id} | {chosen.n if item.harmful else chosen.harmless_draws}"
            if key in known:
                continue
            if item.harmful:
                first, asked = run.first_success(item, defense)
                known[key] = {"first": first, "asked": asked}
            else:
                found = run.outcomes(item, defense, 0, chosen.harmless_draws)
                known[key] = {"refused": found.count("refused"), "asked": len(found)}
            write_text(state, json.dumps(known, indent=0))
            print(key, known[key], flush=True)
        shutil.rmtree(chosen.work / "clips", ignore_errors=True)
    rows = {}
    for spec in chosen.defense:
        firsts = [known[f"{spec} | {item.id} | {chosen.n}"]["first"] for item in harmful]
        refused = [known[f"{spec} | {item.id} | {chosen.harmless_draws}"] for item in harmless]
        answers = [
            (item.id, i < one["refused"])
            for item, one in zip(harmless, refused, strict=True)
            for i in range(one["asked"])
        ]
        rows[spec] = {
            "curve": asdict(curve_until(firsts, chosen.n)),
            "first": firsts,
            "answers": sum(known[f"{spec} | {item.id} | {chosen.n}"]["asked"] for item in harmful),
            "harmless_refused": asdict(rate([hit for _, hit in answers], [name for name, _ in answers])),
        }
    named = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
    chosen.out.write_text(json.dumps({"arguments": named, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
    print(table(rows))
    if chosen.figure is not None:
        draw(rows, chosen.figure)


def table(rows: dict[str, Any]) -> str:
    """Markdown: success within n draws, the fit, and harmless answers that refuse."""
    chosen = [1, 8, 64, 512]
    last = next(iter(rows.values()))["curve"]["n"][-1]
    steps = [n for n in chosen if n < last] + [last]
    titles = ["defense", *(f"n = {n}" for n in steps), "−ln ASR", "harmless refused"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for spec, row in rows.items():
        curve = row["curve"]
        cells = [cell(curve["rates"][curve["n"].index(n)]) for n in steps]
        fit = "" if curve["a"] is None else f"{curve['a']:.2f} n^(−{curve['b']:.2f})"
        lines.append(f"| `{spec}` | {' | '.join(cells)} | {fit} | {cell(row['harmless_refused'])} |")
    return "\n".join(lines)


def cell(one: dict[str, Any]) -> str:
    return f"{100 * one['value']:.0f} [{100 * one['low']:.0f}, {100 * one['high']:.0f}]"


def draw(rows: dict[str, Any], path: Path) -> None:
    from sarsteer.figure import BLUE, GREEN, INK, ORANGE, new_figure, save_light_and_dark

    figure, (axis,) = new_figure(1, 6.4, 3.6)
    for color, (spec, row) in zip((INK, ORANGE, BLUE, GREEN), rows.items(), strict=False):
        curve = row["curve"]
        n, rates = curve["n"], curve["rates"]
        axis.plot(n, [100 * one["value"] for one in rates], color=color, marker="o", markersize=4, label=spec)
        low, high = ([100 * one[name] for one in rates] for name in ("low", "high"))
        axis.fill_between(n, low, high, color=color, alpha=0.12, linewidth=0)
        if curve["a"] is not None:
            fitted = CurveOfN((), (), curve["a"], curve["b"])
            axis.plot(n, [100 * (fitted.predicted(x) or 0) for x in n], color=color, linewidth=1, linestyle="--")
    axis.set_xscale("log")
    shown = [x for x in n if x == n[-1] or 1.5 * x < n[-1]]  # so that the last two labels do not overlap
    axis.set_xticks(shown, [str(x) for x in shown], fontsize=8)
    axis.minorticks_off()
    axis.set(xlabel="draws per request (dashed: power law)", ylabel="requests complied with, %", ylim=(0, 103))
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    save_light_and_dark(figure, path)


if __name__ == "__main__":
    main()
