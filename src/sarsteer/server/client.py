"""The other end of a request: receives its body within limits, and notices when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request

from sarsteer.server.errors import ApiError
from sarsteer.server.limits import MIB, Limits

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection; nobody reads a response."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        ApiError: it is too large, or comes too slowly.
        ClientGone: the connection was closed.

    """
    most = _DISCARDED * limits.body_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise _too_large(limits)
    body, size = bytearray(), 0
    try:
        with anyio.fail_after(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(limits)
                if size <= limits.body_bytes:
                    body += part
                else:
                    body.clear()
    except TimeoutError:
        raise ApiError(
            408, f"the body did not arrive within {limits.body_seconds:g} s", code="timeout", headers=_CLOSE
        ) from None
    except ClientDisconnect:
        raise ClientGone from None
    if size > limits.body_bytes:
        raise _too_large(limits)
    return bytes(body)


_DISCARDED = 4
"""A body of up to this many times the limit is read to its end and discarded: a client that is still sending would
otherwise get a reset connection in place of the error."""

_CLOSE = {"Connection": "close"}
"""The rest of the body is still coming: the connection cannot be used again."""


def _too_large(limits: Limits) -> ApiError:
    return ApiError(
        413, f"the body has more than {limits.body_bytes / MIB:g} MiB", code="request_too_large", headers=_CLOSE
    )


class Client:
    """Watches the connection of a request whose body has been received."""

    def __init__(self, request: Request) -> None:
        self._gone = asyncio.ensure_future(_disconnected(request))

    async def wait(self, result: Awaitable[T]) -> T:
        """``result``, unless the client leaves before.

        Raises:
            ClientGone: it left.

        """
        task = asyncio.ensure_future(result)
        try:
            await asyncio.wait({task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise ClientGone
        finally:
            task.cancel()

    def close(self) -> None:
        """Stop watching."""
        self._gone.cancel()


async def _disconnected(request: Request) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await request.receive()
