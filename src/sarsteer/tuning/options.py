"""What a caller of ``tune`` chooses, and what it can observe while the search runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sarsteer.models.interface import DEFAULT_BATCH
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.tuning.config import SearchConfig
from sarsteer.tuning.front import Candidate, Limits, MeasuredPoint
from sarsteer.tuning.measure import Measured
from sarsteer.tuning.references import Report

SEARCHING, MEASURING = "Searching by first tokens", "Measuring by generation"
"""Stages that ``TuningObserver.report`` gets."""


@dataclass(frozen=True)
class TuningOptions:
    """How to tune. A resumed run must keep all but ``trials``, ``generations`` and ``limits``.

    Attributes:
        limits: what the chosen configuration must keep.
        trials: number of configurations that the surrogate scores.
        generations: number of configurations that are measured by generation.
        seed: of the split and of the search.
        search: what is searched, and how; see ``default.toml``.
        instruction, refusal_prompt: as in ``calibrate``.
        max_new_tokens: maximum length of an answer.
        batch_size: requests per forward.

    """

    limits: Limits = field(default_factory=Limits)
    trials: int = 160
    generations: int = 16
    seed: int = 0
    search: SearchConfig = field(default_factory=SearchConfig)
    instruction: str = INSTRUCTION
    refusal_prompt: str = REFUSAL_PROMPT
    max_new_tokens: int = 128
    batch_size: int = DEFAULT_BATCH

    def to_json(self) -> dict[str, Any]:
        """What a resumed run must keep, as JSON."""
        names = ("seed", "instruction", "refusal_prompt", "max_new_tokens", "batch_size")
        return {**self.search.to_json(), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class TuningObserver:
    """Callbacks of a running search; they do nothing by default.

    Attributes:
        report: called with a stage, the number of steps done, and of all steps.
        candidates: called with all candidates after each trial of the surrogate.
        points: called with all measured points, and the undefended rates, after each measurement.

    """

    report: Report = lambda *_: None
    candidates: Callable[[list[Candidate]], None] = lambda _: None
    points: Callable[[list[MeasuredPoint], Measured], None] = lambda *_: None
