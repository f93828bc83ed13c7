"""Batches: by key, of similar length, with errors where they belong."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from sarsteer.runtime.batcher import Batcher


def ask(batcher: Batcher[int, int], requests: list[tuple[int, Hashable]]) -> list[int | BaseException]:
    async def all_of_them() -> list[int | BaseException]:
        asked = [batcher.ask(request, key) for request, key in requests]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    return asyncio.run(all_of_them())


def test_a_batch_has_one_key_and_at_most_its_size() -> None:
    batches: list[tuple[Hashable, list[int]]] = []

    def work(key: Hashable, requests: list[int]) -> list[int]:
        batches.append((key, requests))
        return [10 * request for request in requests]

    requests: list[tuple[int, Hashable]] = [(i, i % 2) for i in range(20)]
    assert ask(Batcher(work, 4), requests) == [10 * i for i in range(20)]
    assert sum(len(batch) for _, batch in batches) == 20
    for key, batch in batches:
        assert len(batch) <= 4
        assert {i % 2 for i in batch} == {key}


def test_a_batch_prefers_requests_of_similar_length() -> None:
    batches: list[list[int]] = []

    def work(_: Hashable, requests: list[int]) -> list[int]:
        batches.append(requests)
        return requests

    lengths = [1, 100, 2, 101, 3, 102, 4, 103]
    ask(Batcher(work, 4, float), [(length, None) for length in lengths])
    assert [sorted(batch) for batch in batches] == [[1, 2, 3, 4], [100, 101, 102, 103]]


def test_errors_reach_the_request_that_they_concern() -> None:
    def work(_: Hashable, requests: list[int]) -> list[int | Exception]:
        if -1 in requests:
            raise ValueError("the whole batch")
        return [KeyError(request) if request == 2 else request for request in requests]

    first, second, third = ask(Batcher(work, 4), [(1, None), (2, None), (3, None)])
    assert (first, third) == (1, 3)
    assert isinstance(second, KeyError)
    for error in ask(Batcher(work, 4), [(-1, None), (5, None)]):
        with pytest.raises(ValueError, match="the whole batch"):
            raise error  # type: ignore[misc]
