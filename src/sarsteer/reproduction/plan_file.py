"""The plan of a folder, in a file: another setup cannot continue it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from sarsteer.errors import EvaluationError
from sarsteer.files import write_text
from sarsteer.reproduction.plan import Plan, Setup, Step, command_of

FILE = "plan.json"


def save_plan(plan: Plan, out: Path) -> Plan:
    """Write the plan into ``out``; other steps of an earlier plan with the same setup stay in it.

    Raises:
        EvaluationError: the folder has another setup, or its plan cannot be read.

    """
    file = out / FILE
    if file.exists():
        old = load_plan(out)
        before, now = _json(old.setup), _json(plan.setup)
        differ = [f"{key} {_short(before[key])}, now {_short(now[key])}" for key in now if before[key] != now[key]]
        if differ:
            raise EvaluationError(
                f"has another setup: {'; '.join(differ)}; use the same setup or another --out", place=str(out)
            )
        others = [step for step in old.steps if step not in plan.steps]
        plan = Plan(plan.setup, (*others, *plan.steps))
    out.mkdir(parents=True, exist_ok=True)
    steps = [{**vars(step), "command": command_of(step, plan.setup, out)} for step in plan.steps]
    write_text(file, json.dumps({"setup": _json(plan.setup), "steps": steps}, ensure_ascii=False, indent=1) + "\n")
    return plan


def load_plan(out: Path) -> Plan:
    """The plan in the folder ``out``.

    Raises:
        EvaluationError: it is damaged.

    """
    file = out / FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        setup = Setup(**{**data["setup"], "judges": tuple(data["setup"]["judges"])})
        rows = [{f.name: row[f.name] for f in fields(Step) if f.name in row} for row in data["steps"]]
        steps = (Step(**{**r, "benchmarks": tuple(r["benchmarks"]), "defenses": tuple(r["defenses"])}) for r in rows)
        return Plan(setup, tuple(steps))
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"cannot be read ({error}); delete it and run the same command again"
        raise EvaluationError(message, place=str(file)) from None


def _json(setup: Setup) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(vars(setup)))
    return data


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}…{text[-16:]}"
