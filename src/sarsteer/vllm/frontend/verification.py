"""Ask the workers of a running engine whether they are steered as configured."""

from __future__ import annotations

from typing import Any

from sarsteer.vllm.engine.handshake import check_confirmed
from sarsteer.vllm.settings import settings_of

_VERIFIED = "_sarsteer_verified"


async def verify(engine: Any) -> None:
    """Raise ``SteeringError`` unless every worker is attached and confirmed. An engine is asked once."""
    settings = settings_of(engine.vllm_config)
    if settings is None or getattr(engine, _VERIFIED, False):
        return
    for workers in await engine_statuses(engine):
        check_confirmed(workers, settings)
    setattr(engine, _VERIFIED, True)


async def engine_statuses(engine: Any) -> list[list[dict[str, Any]]]:
    """Statuses of the workers of every data-parallel engine; ``collective_rpc`` would return only the first one's."""
    statuses: list[list[dict[str, Any]]] = await engine.engine_core.call_utility_all_async(
        "collective_rpc", "sarsteer_status", None, (), None
    )
    return statuses
