"""The routes of a server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sarsteer import __version__
from sarsteer.server import metrics
from sarsteer.server.auth import bearer
from sarsteer.server.chat import ChatEndpoint
from sarsteer.server.errors import ApiError, not_ready
from sarsteer.server.host import LocalHostOnly
from sarsteer.server.openapi import document
from sarsteer.server.service import Service


def create_app(service: Service) -> FastAPI:
    """The application of a service."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        loop = asyncio.get_running_loop()
        reloads: set[asyncio.Task[bool]] = set()

        def reload() -> None:
            task = loop.create_task(service.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        with contextlib.suppress(NotImplementedError, RuntimeError, AttributeError):  # not on Windows, nor in a thread
            loop.add_signal_handler(signal.SIGHUP, reload)
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop)

    app = FastAPI(title="sarsteer", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _internal_error)
    chat = ChatEndpoint(service)
    if not service.policy.keys:
        app.add_middleware(LocalHostOnly)
    _add_routes(app, service, chat)
    app.openapi = lambda: document(get_openapi(title=app.title, version=app.version, routes=app.routes))
    return app


def _add_routes(app: FastAPI, service: Service, chat: ChatEndpoint) -> None:
    def model() -> dict[str, Any]:
        name = service.settings.model_name
        return {"id": name, "object": "model", "created": service.created, "owned_by": "sarsteer"}

    async def complete(request: Request) -> Response:
        """Answer a conversation with text and audio."""
        return await chat(request)

    async def models(request: Request) -> dict[str, Any]:
        """The model that is served."""
        service.tenant_for(request.headers.get("authorization"))
        return {"object": "list", "data": [model()]}

    async def one_model(request: Request, name: str) -> dict[str, Any]:
        """The model, if it has this name."""
        service.tenant_for(request.headers.get("authorization"))
        if name != service.settings.model_name:
            raise ApiError(404, "this server has no such model", code="model_not_found")
        return model()

    async def health() -> dict[str, str]:
        """Whether the process works: also while it loads the model."""
        if service.failure is not None or not service.scheduler.alive:
            raise not_ready(service.scheduler.error or "the model's thread ended")
        return {"status": "ok"}

    async def ready() -> dict[str, str]:
        """Whether requests are answered: only after the steering has been proven."""
        if service.scheduler.error is not None:
            raise not_ready(service.scheduler.error)
        return {"status": "ready"}

    async def prometheus(request: Request) -> Response:
        """Metrics in Prometheus' format."""
        service.policy.check_monitor(bearer(request.headers.get("authorization")))
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def status(request: Request) -> dict[str, Any]:
        """What is attached, and how the requests with this key are defended."""
        tenant = service.tenant_for(request.headers.get("authorization"))
        return service.status((tenant,))

    app.add_api_route("/v1/chat/completions", complete, methods=["POST"], response_class=JSONResponse)
    app.add_api_route("/v1/models", models)
    app.add_api_route("/v1/models/{name:path}", one_model)
    app.add_api_route("/health", health)
    app.add_api_route("/ready", ready)
    app.add_api_route("/metrics", prometheus, response_class=PlainTextResponse)
    app.add_api_route("/sarsteer", status)


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def _http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: "no such address", 405: "this address does not take this method"}
    refused = ApiError(error.status_code, known.get(error.status_code, str(error.detail)), code="http_error")
    return JSONResponse(refused.body, status_code=error.status_code, headers=error.headers)


async def _internal_error(_request: Request, _error: Exception) -> Response:
    return JSONResponse(ApiError(500, "internal error", code="internal_error").body, status_code=500)
