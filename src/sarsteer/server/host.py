"""Refuse requests to a server without keys that a web page made: their Host header names the page's own domain."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from sarsteer.server.errors import ApiError

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class LocalHostOnly:
    """Middleware: only requests whose Host header names this machine."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "http":
            host = Request(scope).headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name.lower() not in _LOCAL:
                error = ApiError(
                    403, "without an API key, this server answers only requests to localhost", code="foreign_host"
                )
                await JSONResponse(error.body, status_code=error.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)
