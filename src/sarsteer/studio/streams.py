"""Follow several streams at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncGenerator[T, None]:
    """What the streams yield, as it comes. The first error of one is raised, and ends all."""
    news: asyncio.Queue[tuple[T | None, Exception | None, bool]] = asyncio.Queue()

    async def follow(stream: AsyncIterator[T]) -> None:
        try:
            async for item in stream:
                news.put_nowait((item, None, False))
            news.put_nowait((None, None, True))
        except Exception as error:
            news.put_nowait((None, error, True))

    tasks = [asyncio.create_task(follow(stream)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            item, error, ended = await news.get()
            if error is not None:
                raise error
            running -= ended
            if not ended:
                yield item  # type: ignore[misc]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
