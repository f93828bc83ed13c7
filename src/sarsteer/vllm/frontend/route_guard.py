"""An ASGI middleware: a steered server answers only on routes whose requests are checked."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sarsteer.vllm.request_options import OPTIONAL, ROUTES, parse_allowed

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

_READING = ("GET", "HEAD", "OPTIONS")


class RouteGuard:
    """Responds with HTTP 403 on routes other than ``ROUTES`` and those in ``SARSTEER_ALLOW_REQUEST``.

    Requests that only read (GET) pass. WebSockets are closed: they stream their input.
    """

    def __init__(self, app: App) -> None:
        allowed = parse_allowed(os.environ.get("SARSTEER_ALLOW_REQUEST", ""))
        self._app = app
        self._routes = ROUTES | {name for name in allowed if name.startswith("/")}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "this server is steered"})
            return
        if scope["type"] != "http" or scope["method"] in _READING or self._route(scope) in self._routes:
            await self._app(scope, receive, send)
            return
        route = self._route(scope)
        message = f"this server is steered, and {route} is not open"
        if route in OPTIONAL:
            message += f" because {OPTIONAL[route]}; the operator can allow it by SARSTEER_ALLOW_REQUEST={route}"
        body = json.dumps({"error": {"message": message, "type": "PermissionDeniedError", "code": 403}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    def _route(scope: Scope) -> str:
        """The path without the prefix of a reverse proxy, as the router matches it."""
        path: str = scope["path"]
        root: str = scope.get("root_path", "").rstrip("/")
        return path[len(root) :] if root and path.startswith(f"{root}/") else path
