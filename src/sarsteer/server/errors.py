"""Errors of the HTTP API, in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sarsteer.errors import AudioError, MessageError, SarsteerError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An error that a client receives. Its message contains no secret, no path and nothing of other requests.

    Attributes:
        status: the HTTP status.
        message: what is wrong and what to do.
        code: a short name for programs, such as ``"invalid_api_key"``.
        param: the request's field that is wrong.
        headers: further response headers.

    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The response as JSON."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        kind = _TYPES.get(self.status, default)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def api_error(error: Exception) -> ApiError:
    """What a client receives for ``error``. Only errors about the request itself keep their message."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (MessageError, AudioError)):
        named = error.at(None) if error.index is not None else error
        return ApiError(400, str(named), code="invalid_value", param="messages")
    if isinstance(error, SarsteerError):
        return ApiError(500, "the defense could not be applied, so nothing was answered", code="defense_failed")
    return ApiError(500, "internal error; the server's log says more", code="internal_error")


def overloaded(retry_after: int) -> ApiError:
    """The queue is full."""
    return ApiError(
        429,
        f"the queue is full; try again in {retry_after} s",
        code="queue_full",
        headers={"Retry-After": str(retry_after)},
    )


def not_ready(reason: str) -> ApiError:
    """The server cannot answer yet, or no longer."""
    return ApiError(503, reason, code="not_ready", headers={"Retry-After": "5"})
