"""Check what workers report: no request is answered unless every worker is steered as configured."""

from __future__ import annotations

from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.vllm.settings import ServerSettings


def check_workers(statuses: list[dict[str, Any]], settings: ServerSettings) -> None:
    """Raise ``SteeringError`` unless every worker attached and proved these vectors, and all layers are covered."""
    covered: set[int] = set()
    for number, status in enumerate(statuses):
        worker = f"worker {status.get('rank', number)}" if isinstance(status, dict) else f"worker {number}"
        if not isinstance(status, dict) or status.get("digest") != settings.digest:
            raise SteeringError(f"{worker} did not attach the steering vectors; nothing was answered")
        if not status["proven"]:
            raise SteeringError(f"{worker} did not prove its steering; nothing was answered")
        covered |= set(status["layers"])
    missing = sorted(set(range(settings.sets[0].layers)) - covered)
    if missing or not statuses:
        raise SteeringError(f"no worker steers decoder layers {missing[:4]}; nothing was answered")


def check_confirmed(statuses: list[dict[str, Any]], settings: ServerSettings) -> None:
    """As ``check_workers``; also raise unless each worker's engine core checked it."""
    check_workers(statuses, settings)
    if not all(status["confirmed"] for status in statuses):
        raise SteeringError("an engine core runs without sarsteer's plugin; check VLLM_PLUGINS on every node")
