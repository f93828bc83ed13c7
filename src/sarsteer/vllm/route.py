"""``GET /sarsteer``: what is attached where, and what was checked. An endpoint plugin in vLLM's own form.

vLLM loads endpoint plugins only where ``VLLM_PLUGINS`` names them, to keep routes from appearing unasked. A steered
server is asked: it gets this one.
"""

from __future__ import annotations

import os
from typing import Any

from sarsteer.vllm.front_end import engine_statuses, verify
from sarsteer.vllm.patching import wrap
from sarsteer.vllm.settings import settings_of


def install() -> None:
    """Offer the route to the server that this process may become."""
    from vllm import plugins

    wrap(plugins, "load_endpoint_plugins", _load)


def _load(original: Any, *args: Any, **kwargs: Any) -> list[Any]:
    found: list[Any] = original(*args, **kwargs)
    return [*found, SteeringEndpoint()] if os.environ.get("SARSTEER_STEERING", "").strip() else found


class SteeringEndpoint:
    """The route, and the last check before the server opens its port."""

    name = "sarsteer"
    required_tasks = None

    def attach_router(self, app: Any) -> None:
        """Add ``GET /sarsteer``."""
        from fastapi import Request

        async def status(request: Request) -> dict[str, Any]:
            engine = request.app.state.sarsteer_engine
            return describe(engine.vllm_config, await engine_statuses(engine))

        status.__annotations__["request"] = Request
        app.get("/sarsteer")(status)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Verify every worker; an error here ends the start."""
        if engine_client is not None:
            await verify(engine_client)
        state.sarsteer_engine = engine_client


def describe(vllm_config: Any, engines: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Settings, and the workers of each engine, as JSON; files by their names only, since a route may be public."""
    from pathlib import Path

    from sarsteer import __version__
    from sarsteer.vllm.versions import vllm_version

    settings = settings_of(vllm_config)
    assert settings is not None
    return {
        "sarsteer": __version__,
        "vllm": vllm_version(),
        "digest": settings.digest,
        "sets": [
            {
                "name": one.name,
                "file": Path(one.source).name,
                "digest": one.digest,
                "alpha": one.alpha,
                "k": one.k,
                "lambda": one.lambda_,
                "gate_layer": one.gate_layer,
            }
            for one in settings.sets
        ],
        "override": {
            "alpha": list(settings.bounds) if settings.bounds else None,
            "refused": "ignored" if settings.ignore_refused else "HTTP 400",
        },
        "allow_other_model": settings.allow_other_model,
        "workers": [{"engine": number, **worker} for number, workers in enumerate(engines) for worker in workers],
    }
