"""Merge a list of harmful requests and a list of their safe twins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sarsteer.data.manifest import Item


def interleave_twins(harmful: Iterable[Item], safe: Iterable[Item]) -> Iterator[Item]:
    """Each harmful request followed by its twin, so that a limit keeps pairs together."""
    twins = {item.pair: item for item in safe}
    for item in harmful:
        twin = twins.pop(item.pair, None)
        yield item
        if twin is not None:
            yield twin
    yield from twins.values()
