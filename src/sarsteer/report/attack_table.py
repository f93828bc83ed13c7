"""Attack by attack, defense by defense, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from sarsteer.evaluation.attack_rows import AttackRow, model_title, unreadable
from sarsteer.evaluation.results import Evaluation
from sarsteer.stats.estimate import Estimate


def attack_markdown(results: Evaluation, rows: Sequence[AttackRow]) -> str:
    """One table per benchmark: success with interval, budget, misheard share, and harmless requests refused."""
    text = [f"{model_title(results)}, judged by {results.judge['name']}. In %, with 95 % intervals over requests.", ""]
    measured = any(row.misheard is not None for row in rows)
    hearing = ["ASR, not misheard ↓", "misheard"] if measured else []
    titles = ["attack", "defense", "answers per request", "ASR ↓", *hearing, "harmless refused ↓", "broken"]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        chosen = [row for row in rows if row.benchmark == benchmark]
        sides = {"harmful": chosen[0].asr, "harmless": chosen[0].rr_safe}
        counts = ", ".join(f"{one.n} {side} requests" for side, one in sides.items() if one is not None)
        text += [f"**{benchmark}** ({counts})", "", _line(titles), _line(["---"] * len(titles))]
        for row in chosen:
            heard = [_cell(row.asr_understood), _cell(row.misheard)] if measured else []
            names = [f"`{row.attack}`" if row.name else row.attack, f"`{row.defense}`"]
            text.append(
                _line([*names, str(row.queries), _cell(row.asr), *heard, _cell(row.rr_safe), _cell(row.broken)])
            )
        text.append("")
    text += [f"- {one}" for one in unreadable(rows)]
    return "\n".join([*text, f"`{results.command}`", ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cell(value: Estimate | None) -> str:
    return "" if value is None else f"{100 * value.value:.0f} [{100 * value.low:.0f}, {100 * value.high:.0f}]"
