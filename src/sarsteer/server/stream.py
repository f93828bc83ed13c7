"""A response of server-sent events that ends when its client leaves, or stops reading."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import anyio
from starlette.responses import Response

from sarsteer.server.client import ClientGone


class EventStream(Response):  # type: ignore[misc]
    """Sends events as they come.

    Args:
        events: encoded events. ``ClientGone`` ends the response.
        ended: called at the end, whatever happens: also if no event was sent.
        headers: further headers.
        send_seconds: how long the client may leave a part unread.

    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        ended: Callable[[], None],
        headers: Mapping[str, str],
        send_seconds: float,
    ) -> None:
        super().__init__(headers={**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._ended, self._send_seconds = events, ended, send_seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the response."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for part in self._events:
                with anyio.fail_after(self._send_seconds):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientGone, TimeoutError, OSError):
            return  # the server closes the connection of an unfinished response
        finally:
            self._ended()
            await self._events.aclose()
