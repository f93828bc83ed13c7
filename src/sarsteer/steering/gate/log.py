"""Logs of decisions: JSON Lines, one request per line, written in any mode and read by ``drift`` and ``threshold``.

A line has at least ``score``. It may have ``distance`` and ``group``, and everything else that a writer adds. The audit
log of ``sarsteer serve`` is one; its requests that ended before a decision have no score, and are left out. Lines where
the decision is under ``gate`` are read, too.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sarsteer.errors import ManifestError
from sarsteer.steering.gate.conformal import ALL
from sarsteer.steering.gate.gate import Decision


@dataclass(frozen=True)
class LoggedScore:
    """What is read from a line.

    Attributes:
        score: NaN if it was not a number.
        distance: None if it was not logged.
        out_of_distribution: whether it was beyond the limit of the gate that decided.
        group: ``"all"`` if none was logged.

    """

    score: float
    distance: float | None
    out_of_distribution: bool
    group: str


def append_decisions(path: str | os.PathLike[str], decisions: Iterable[Decision], **more: Any) -> None:
    """Append decisions, one line each, with the values of ``more`` in every line."""
    lines = [json.dumps(_finite({**more, **asdict(decision)})) + "\n" for decision in decisions]
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def read_scores(path: str | os.PathLike[str]) -> list[LoggedScore]:
    """Read a log.

    Raises:
        ManifestError: the file is missing, or a line has no score.

    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ManifestError("no such file; check the path", place=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot be read ({getattr(error, 'strerror', None) or error})", place=str(path)) from None
    scores = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            decision = row["gate"] if isinstance(row.get("gate"), dict) else row
            if decision["score"] is None and "opening" not in decision:
                continue  # nothing was decided
            scores.append(
                LoggedScore(
                    _number(decision["score"]),
                    None if decision.get("distance") is None else _number(decision["distance"]),
                    bool(decision.get("out_of_distribution", False)),
                    str(row.get("group") or ALL),
                )
            )
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            raise ManifestError(
                'is not a JSON object with a "score"; give a log of decisions', place=f"{path}, line {number}"
            ) from None
    return scores


def has_scores(path: str | os.PathLike[str]) -> bool:
    """Whether the first line of a file has a score: it is a log of decisions, not a manifest of requests."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            first = next((line for line in file if line.strip()), "")
        row = json.loads(first)
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and ("score" in row or (isinstance(row.get("gate"), dict) and "score" in row["gate"]))


def _number(value: Any) -> float:
    if value is None:  # JSON has no NaN and no infinity
        return math.nan
    if isinstance(value, (bool, str)):
        raise ValueError(value)
    return float(value)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
