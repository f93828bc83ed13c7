"""The charts of a finished ``sarsteer attack``, for light and dark pages.

    python -m benchmarks.attack_figures attack/results.json docs/images/attack-curves.png

Writes ``attack-curves-light.png`` and ``attack-curves-dark.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sarsteer.evaluation.attack_rows import attack_rows, model_title
from sarsteer.evaluation.results import Evaluation
from sarsteer.figure import save_light_and_dark
from sarsteer.report.attack_figure import draw_attacks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of a run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-wer", type=float, default=0.5, help="as in the run")
    parser.add_argument("--attack", action="append", help="only these attacks, by name; repeatable")
    chosen = parser.parse_args()
    results = Evaluation.load(chosen.results)
    rows = attack_rows(results, chosen.max_wer)
    rows = [row for row in rows if not chosen.attack or not row.name or row.name in chosen.attack]
    title = f"{model_title(results)}, judged by {results.judge['name']}"
    for path in save_light_and_dark(draw_attacks(rows, title), chosen.out):
        print(path)


if __name__ == "__main__":
    main()
