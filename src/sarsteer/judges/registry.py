"""The registry of judges."""

from __future__ import annotations

from sarsteer.errors import JudgeError
from sarsteer.judges.base import Judge
from sarsteer.registry import Registry

JUDGES: Registry[Judge] = Registry("judge", Judge, "sarsteer.judges", JudgeError)  # type: ignore[type-abstract]
"""Every judge, by name; other packages add theirs through the entry-point group ``sarsteer.judges``."""


def parse_judge(spec: str) -> Judge:
    """The judge that ``spec`` names, such as ``"keywords"``, ``"rubric:openai/gpt-x,timeout=30"`` or
    ``"path/to/file.py:MyJudge"``. Nothing is loaded yet.

    Raises:
        JudgeError: there is no such judge, or an option is unknown, missing or invalid.

    """
    return JUDGES.parse(spec)
