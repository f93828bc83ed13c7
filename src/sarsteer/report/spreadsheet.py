"""CSV: a row per arm, or a row per answer. Rates are shares, not percent. A field without a number is empty."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from sarsteer.evaluation.results import Evaluation
from sarsteer.report.table import blocks, estimate_of

_OF_ESTIMATE = ("value", "low", "high", "n", "clusters")


def arms_csv(evaluation: Evaluation) -> str:
    """A row per arm, with every number."""
    rows = []
    for block in blocks(evaluation):
        for row in block.rows:
            arm = row.arm
            line: dict[str, Any] = {"benchmark": arm.benchmark, "defense": arm.defense}
            for metric in block.metrics:
                estimate = estimate_of(arm.summary, metric)
                for part in _OF_ESTIMATE:
                    name = metric.key if part == "value" else f"{metric.key}_{part}"
                    line[name] = None if estimate is None else getattr(estimate, part)
                if metric.key in ("asr", "rr_harmful", "rr_safe", "broken"):
                    low, high = arm.summary.bounds.get(metric.key, (None, None))
                    line |= {f"{metric.key}_bound_low": low, f"{metric.key}_bound_high": high}
            settings = json.dumps(dict(arm.settings), ensure_ascii=False, sort_keys=True, default=str)
            line |= {"steering": arm.steering, "log": arm.log, "settings": settings}
            rows.append(line | {"notes": " | ".join(map(str, arm.summary.notes))})
    return _written(rows)


def answers_csv(evaluation: Evaluation) -> str:
    """A row per answer, complete and unchanged, with its verdict."""
    return _written(
        [
            {
                "benchmark": arm.benchmark,
                "defense": arm.defense,
                "id": answer.id,
                "label": answer.label,
                "category": answer.category,
                "pair": answer.pair,
                "cluster": answer.cluster,
                "audio": answer.audio,
                "text": answer.text,
                "question": answer.question,
                "answer": answer.answer,
                "outcome": answer.verdict.outcome,
                "reason": answer.verdict.reason,
                "judge_said": answer.verdict.raw,
                "scores": None if answer.verdict.scores is None else json.dumps(dict(answer.verdict.scores)),
            }
            for arm in evaluation.arms
            for answer in arm.answers
        ]
    )


def _written(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        # quote everything: the writer does not quote a lone carriage return, and readers end the row there
        columns = list(dict.fromkeys(name for row in rows for name in row))  # rates and scores have different columns
        writer = csv.DictWriter(text, columns, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
