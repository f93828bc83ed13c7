"""Measure a tuned steering of the embedded model on held-out pairs: ``python -m benchmarks.tuning FILE``.

FILE comes from ``sarsteer tune sarsteer-tiny``. The 200 held-out pairs are answered without a defense, with the paper's
defaults, with the closed form, and as tuned, all with the same vectors. Rates have n and 95 % intervals, differences
are paired. Results are written to ``benchmarks/tuning.json`` and printed as a table.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import transformers as T
from rich.console import Console

import sarsteer
from sarsteer.demo.toy.requests import MAX_NEW_TOKENS
from sarsteer.judges import parse_judge
from sarsteer.judges.embedded import is_correct
from sarsteer.prompts import INSTRUCTION
from sarsteer.stats.comparison import paired_difference
from sarsteer.stats.estimate import Estimate
from sarsteer.stats.rates import rate
from sarsteer.steering.artifact import DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA
from sarsteer.tuning.configuration import Configuration
from sarsteer.tuning.measure import judged

HERE = Path(__file__).parent
RATES = {"asr": "ASR ↓", "over_refusal": "RR safe ↓", "broken": "broken ↓", "correct_safe": "safe correct ↑"}


def arms(steering: sarsteer.Steering) -> dict[str, Configuration | None]:
    """The configurations to compare."""
    suggestion = steering.suggest()
    return {
        "no defense": None,
        "the paper's defaults": Configuration.uniform(steering, DEFAULT_ALPHA, DEFAULT_K, DEFAULT_LAMBDA),
        "closed form": Configuration.uniform(steering, suggestion.alpha, suggestion.k, suggestion.lambda_),
        "tuned": Configuration.from_json(steering.metadata["tuning"]["chosen"]["setting"]),
    }


def outcomes(model: sarsteer.AudioLanguageModel, prompts: Any, pairs: Any) -> dict[str, list[bool]]:
    """Outcomes of each request by the embedded model's exact judge."""
    harmful, safe = prompts
    texts = model.generate([*harmful, *safe], MAX_NEW_TOKENS, batch_size=64)
    items = [*pairs.harmful, *pairs.safe]
    rows = [judged(item, text) for item, text in zip(items, texts, strict=True)]
    decided = [verdict.outcome for verdict in parse_judge("embedded").judge(rows)]
    n = len(harmful)
    return {
        "asr": [outcome == "complied" for outcome in decided[:n]],
        "over_refusal": [outcome == "refused" for outcome in decided[n:]],
        "broken": [outcome == "broken" for outcome in decided],
        "correct_safe": [is_correct(text, item) for text, item in zip(texts[n:], pairs.safe, strict=True)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steering", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "tuning.json")
    args = parser.parse_args()
    T.logging.set_verbosity_error()
    T.logging.disable_progress_bar()
    console = Console(width=200)
    model = sarsteer.load_model("sarsteer-tiny", device="cpu")
    steering = sarsteer.Steering.load(args.steering)
    pairs = sarsteer.load_pairs("sarsteer-tiny", "test")
    prompts = [model.prepare([item.turn(INSTRUCTION) for item in items]) for items in (pairs.harmful, pairs.safe)]
    measured: dict[str, dict[str, list[bool]]] = {}
    seconds = {}
    for name, configuration in arms(steering).items():
        began = time.perf_counter()
        if configuration is None:
            measured[name] = outcomes(model, prompts, pairs)
        else:
            with configuration.as_defaults(steering).on(model):
                measured[name] = outcomes(model, prompts, pairs)
        seconds[name] = time.perf_counter() - began
        console.print(f"{name}: {configuration or ''} ({seconds[name]:.0f} s)", highlight=False)
    console.print("\n| on 200 held-out pairs, % | " + " | ".join(RATES.values()) + " |", highlight=False)
    console.print("|---" * (1 + len(RATES)) + "|")
    results: dict[str, Any] = {"n": len(pairs), "steering": steering.digest, "arms": {}}
    for name, configuration in arms(steering).items():
        rates = {key: rate(measured[name][key]) for key in RATES}
        console.print(f"| {name} | " + " | ".join(_cell(rates[key]) for key in RATES) + " |", highlight=False)
        results["arms"][name] = {
            "setting": configuration.to_json() if configuration else None,
            **{key: asdict(value) for key, value in rates.items()},
        }
    results["tuned_minus_paper"] = {}
    for key, title in RATES.items():
        change = paired_difference(measured["tuned"][key], measured["the paper's defaults"][key])
        results["tuned_minus_paper"][key] = asdict(change)
        console.print(f"tuned − the paper's defaults, {title}: {change}", highlight=False)
    chosen = steering.metadata["tuning"]["chosen"]
    results["on_the_tuning_pairs"] = {key: chosen[key] for key in ("asr", "over_refusal", "broken")}
    for key in ("asr", "over_refusal", "broken"):
        then, now = Estimate(**chosen[key]), rate(measured["tuned"][key])
        console.print(f"tuned, {RATES[key]}: {then} on the tuning pairs, {now} held out", highlight=False)
    args.out.write_text(json.dumps(results, indent=2) + "\n")


def _cell(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


if __name__ == "__main__":
    main()
