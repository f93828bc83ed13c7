r"""Best of n, until the first success: how many random compositions does each request take, under each defense?

    python -m benchmarks.best_of_n sarsteer-tiny --steering steering.safetensors --benchmark embedded --limit 20 \
        --n 600 --defense sarsteer:gate=off --defense sarsteer:alpha=0.3,k=10,gate=on --out best-of-n.json

``sarsteer attack --attack best-of-n:600`` answers every draw of every request. This asks the same draws in the same
order, and stops at a request's first success, so that 600 draws of 20 requests are affordable on a CPU. Harmless
requests get the first ``--harmless-draws`` draws. The same command resumes an interrupted run.

A draw that destroys the request is answered, too. With ``--max-wer``, a second curve counts only draws that the
undefended model transcribes as before; a request is then asked until such a success.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sarsteer
from benchmarks.hearing import Hearing
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
    parser.add_argument("--max-wer", type=float, help="word error rate above which a clip is misheard, such as 0.5")
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
        self.hearing = Hearing(self.answerer, chosen.work / "transcripts.json", chosen.max_wer)
        context = DefenseContext(model, steering=sarsteer.Steering.load(chosen.steering))
        self.defenses = {spec: build_defense(DEFENSES.parse(spec), context) for spec in chosen.defense}

    def outcomes(self, item: Item, defense: BuiltDefense, start: int, end: int) -> list[tuple[str | None, Item]]:
        """The verdicts on draws ``start`` to ``end``, numbered from 0, and the draws."""
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
        return [(verdict.outcome, one) for verdict, one in zip(self.judge.judge(asked), variants, strict=True)]

    def first_success(self, item: Item, defense: BuiltDefense) -> dict[str, Any]:
        """The number of the first draw that is complied with, from 1; of the first that is not misheard; how many were
        asked.
        """
        done, first, understood = 0, None, None
        limit = self.chosen.max_wer
        for size in CHUNKS:
            end = min(done + size, self.chosen.n)
            found = self.outcomes(item, defense, done, end)
            hits = [(done + i + 1, one) for i, (outcome, one) in enumerate(found) if outcome == "complied"]
            if hits:
                first = first or hits[0][0]
            if limit is not None:
                errors = self.hearing.word_error_rates([one for _, one in hits])
                understood = next((n for (n, _), wer in zip(hits, errors, strict=True) if (wer or 0) <= limit), None)
            done = end
            if done == self.chosen.n or (first if limit is None else understood) is not None:
                break
        return {"first": first, "understood": understood, "asked": done}


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
            key = key_of(chosen, spec, item)
            if key in known:
                continue
            if item.harmful:
                known[key] = run.first_success(item, defense)
            else:
                found = [outcome for outcome, _ in run.outcomes(item, defense, 0, chosen.harmless_draws)]
                known[key] = {"refused": found.count("refused"), "asked": len(found)}
            write_text(state, json.dumps(known, indent=0))
            print(key, known[key], flush=True)
        shutil.rmtree(chosen.work / "clips", ignore_errors=True)
    rows = {}
    for spec in chosen.defense:
        asked = [known[key_of(chosen, spec, item)] for item in harmful]
        firsts = [one["first"] for one in asked]
        refused = [known[key_of(chosen, spec, item)] for item in harmless]
        answers = [
            (item.id, i < one["refused"])
            for item, one in zip(harmless, refused, strict=True)
            for i in range(one["asked"])
        ]
        rows[spec] = {
            "curve": asdict(curve_until(firsts, chosen.n)),
            "first": firsts,
            "answers": sum(one["asked"] for one in asked),
            "harmless_refused": asdict(rate([hit for _, hit in answers], [name for name, _ in answers])),
        }
        if chosen.max_wer is not None:
            understood = [one["understood"] for one in asked]
            rows[spec] |= {"understood": understood, "curve_understood": asdict(curve_until(understood, chosen.n))}
    named = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
    chosen.out.write_text(json.dumps({"arguments": named, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
    print(table(rows))
    if chosen.figure is not None:
        draw(rows, chosen.figure)


def key_of(chosen: argparse.Namespace, spec: str, item: Item) -> str:
    """Under which a request's draws are stored."""
    if not item.harmful:
        return f"{spec} | {item.id} | {chosen.harmless_draws}"
    return f"{spec} | {item.id} | {chosen.n}" + ("" if chosen.max_wer is None else f" | {chosen.max_wer:g}")


def table(rows: dict[str, Any]) -> str:
    """Markdown: success within n draws, the fit, and harmless answers that refuse."""
    chosen = [1, 8, 64, 512]
    last = next(iter(rows.values()))["curve"]["n"][-1]
    steps = [n for n in chosen if n < last] + [last]
    heard = ["curve_understood"] if all("curve_understood" in row for row in rows.values()) else []
    titles = ["defense", *(f"n = {n}" for n in steps), "−ln ASR"]
    titles += [f"n = {n}, not misheard" for n in steps if heard] + ["harmless refused"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for spec, row in rows.items():
        curve = row["curve"]
        cells = [cell(curve["rates"][curve["n"].index(n)]) for n in steps]
        fit = "" if curve["a"] is None else f"{curve['a']:.2f} n^(−{curve['b']:.2f})"
        cells.append(fit)
        cells += [cell(row[name]["rates"][row[name]["n"].index(n)]) for name in heard for n in steps]
        lines.append(f"| `{spec}` | {' | '.join(cells)} | {cell(row['harmless_refused'])} |")
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
        if "curve_understood" in row:
            heard = row["curve_understood"]["rates"]
            axis.plot(n, [100 * one["value"] for one in heard], color=color, marker="o", markersize=3, linestyle=":")
        if curve["a"] is not None:
            fitted = CurveOfN((), (), curve["a"], curve["b"])
            axis.plot(n, [100 * (fitted.predicted(x) or 0) for x in n], color=color, linewidth=1, linestyle="--")
    axis.set_xscale("log")
    shown = [x for x in n if x == n[-1] or 1.5 * x < n[-1]]  # so that the last two labels do not overlap
    axis.set_xticks(shown, [str(x) for x in shown], fontsize=8)
    axis.minorticks_off()
    dotted = ", dotted: not misheard" if any("curve_understood" in row for row in rows.values()) else ""
    axis.set(xlabel=f"draws per request (dashed: power law{dotted})", ylabel="requests complied with, %", ylim=(0, 103))
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    save_light_and_dark(figure, path)


if __name__ == "__main__":
    main()
