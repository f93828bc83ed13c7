"""What Inspect looks up in this process.

Inspect creates providers, solvers and scorers from texts that a log can contain. The loaded models, the judges and the
built defenses that these texts refer to are found here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from sarsteer.defenses.built import BuiltDefense
from sarsteer.errors import EvaluationError
from sarsteer.judges.registry import parse_judge
from sarsteer.runtime.pool import Pool
from sarsteer.runtime.shared import SharedJudge, SharedModel

POOL = Pool()
"""The models and judges of tasks that ``inspect eval`` runs."""


@dataclass
class _Run:
    """What a run of ``sarsteer evaluate`` has loaded."""

    judges: Mapping[str, SharedJudge] = field(default_factory=dict)
    arms: dict[str, tuple[SharedModel, BuiltDefense]] = field(default_factory=dict)


_run = _Run()


@contextmanager
def serving(judges: Mapping[str, SharedJudge]) -> Iterator[None]:
    """Let ``shared_judge`` and ``arm`` find what a run has loaded, while it runs."""
    global _run
    before, _run = _run, _Run(judges)
    try:
        yield
    finally:
        _run = before


def shared_judge(spec: str) -> SharedJudge:
    """The judge of the current run, or one of ``POOL``.

    Raises:
        JudgeError: ``spec`` names no judge, or it cannot be created.

    """
    return _run.judges[spec] if spec in _run.judges else POOL.judge(spec, parse_judge(spec))


def put_arm(shared: SharedModel, defense: BuiltDefense) -> str:
    """Store a model and its defense for the provider; returns their key, equal for equal settings in any process.

    The key is in the log, so a run can resume after files have moved or with another batch size.
    """
    key = hashlib.sha256(defense.key.encode()).hexdigest()[:16]
    _run.arms[key] = shared, defense
    return key


def arm(key: str) -> tuple[SharedModel, BuiltDefense]:
    """What ``put_arm`` stored.

    Raises:
        EvaluationError: this process has no arm with that key.

    """
    if key not in _run.arms:
        raise EvaluationError(f"arm {key} belongs to a run of sarsteer evaluate; continue it with that command")
    return _run.arms[key]
