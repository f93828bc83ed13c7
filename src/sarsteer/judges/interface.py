"""Old name of ``sarsteer.judges.base``, until all callers use the new one."""

from sarsteer.judges.base import OUTCOMES, Judge, JudgeStopped, Outcome, Verdict
from sarsteer.judges.base import JudgedAnswer as Judged

__all__ = ["OUTCOMES", "Judge", "JudgeStopped", "Judged", "Outcome", "Verdict"]
