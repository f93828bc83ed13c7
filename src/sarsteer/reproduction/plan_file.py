"""A plan in a file, so that a folder tells what it is of, and is gone on with by no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sarsteer.errors import EvaluationError
from sarsteer.files import write_text
from sarsteer.reproduction.plan import Plan, Setup, Step, by_hand

FILE = "plan.json"


def keep_plan(plan: Plan, out: Path) -> Plan:
    """Write the plan; where the folder has one of the same setup, its other steps stay in it.

    Raises:
        EvaluationError: the folder holds a run with another setup, or a plan that cannot be read.

    """
    file = out / FILE
    if file.exists():
        old = read_plan(out)
        before, now = _json(old.setup), _json(plan.setup)
        differ = [f"{key} {_short(before[key])}, now {_short(now[key])}" for key in now if before[key] != now[key]]
        if differ:
            raise EvaluationError(
                f"{out}: was begun with another setup: {'; '.join(differ)}; give the same, or name another --out"
            )
        kept = [step for step in old.steps if step not in plan.steps]
        plan = Plan(plan.setup, (*kept, *plan.steps))
    out.mkdir(parents=True, exist_ok=True)
    steps = [{**vars(step), "by_hand": by_hand(step, plan.setup, out)} for step in plan.steps]
    write_text(file, json.dumps({"setup": _json(plan.setup), "steps": steps}, ensure_ascii=False, indent=1) + "\n")
    return plan


def read_plan(out: Path) -> Plan:
    """The plan that a folder keeps.

    Raises:
        EvaluationError: it is damaged.

    """
    file = out / FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        setup = Setup(**{**data["setup"], "judges": tuple(data["setup"]["judges"])})
        steps = [{key: value for key, value in row.items() if key != "by_hand"} for row in data["steps"]]
        return Plan(
            setup,
            tuple(Step(**{**r, "benchmarks": tuple(r["benchmarks"]), "defenses": tuple(r["defenses"])}) for r in steps),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"{file}: cannot be read ({error}); delete it and run the same command again") from None


def _json(setup: Setup) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(vars(setup)))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}…{text[-16:]}"
