"""``GET /sarsteer``: what is attached where, and what was checked. An endpoint plugin in vLLM's form.

vLLM loads only those endpoint plugins that ``VLLM_PLUGINS`` names, so that no route appears by accident. A steered
server was configured on purpose: it always gets this route.
"""

from __future__ import annotations

import os
from typing import Any

from sarsteer.vllm.frontend.route_guard import RouteGuard
from sarsteer.vllm.frontend.verification import engine_statuses, verify
from sarsteer.vllm.settings import settings_of
from sarsteer.vllm.wrapper import wrap


def install() -> None:
    """Add the route to the server that this process may become."""
    from vllm import plugins

    wrap(plugins, "load_endpoint_plugins", _load)


def _load(original: Any, *args: Any, **kwargs: Any) -> list[Any]:
    endpoints: list[Any] = original(*args, **kwargs)
    return [*endpoints, SteeringEndpoint()] if os.environ.get("SARSTEER_STEERING", "").strip() else endpoints


class SteeringEndpoint:
    """The route, and the last check before the server opens its port."""

    name = "sarsteer"
    required_tasks = None

    def attach_router(self, app: Any) -> None:
        """Add ``GET /sarsteer``, and close the routes whose requests are not checked."""
        from fastapi import Request

        async def status(request: Request) -> dict[str, Any]:
            engine = request.app.state.sarsteer_engine
            return describe(engine.vllm_config, await engine_statuses(engine))

        status.__annotations__["request"] = Request
        app.get("/sarsteer")(status)
        app.add_middleware(RouteGuard)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Verify every worker; an error stops the server."""
        if engine_client is not None:
            await verify(engine_client)
        state.sarsteer_engine = engine_client


def describe(vllm_config: Any, engines: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Settings, and each engine's workers, as JSON. Files appear by name only, because the route may be public."""
    from pathlib import Path

    from sarsteer import __version__
    from sarsteer.vllm.versions import vllm_version

    settings = settings_of(vllm_config)
    assert settings is not None
    return {
        "sarsteer": __version__,
        "vllm": vllm_version(),
        "digest": settings.digest,
        "defended": settings.defends,
        "sets": [
            {
                "name": vector_set.name,
                "file": Path(vector_set.source).name,
                "digest": vector_set.digest,
                "alpha": vector_set.alpha,
                "k": vector_set.k,
                "lambda": vector_set.lambda_,
                "gate_layer": vector_set.gate_layer,
                "shadow": vector_set.shadow,
            }
            for vector_set in settings.sets
        ],
        "override": {
            "alpha": list(settings.bounds) if settings.bounds else None,
            "refused": "ignored" if settings.ignore_refused else "HTTP 400",
        },
        "allow_request": list(settings.allowed),
        "allow_other_model": settings.allow_other_model,
        "workers": [{"engine": number, **worker} for number, workers in enumerate(engines) for worker in workers],
    }
