"""What a steering file was made from, for its record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sarsteer.data.manifest import Item


def provenance(items: Sequence[Item], sources: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Groups, sets, voices and speech engines of calibration's requests, with the number of requests of each.

    Args:
        items: the requests.
        sources: where they are from, as the user named it, such as ``{"pairs": "sarsteer-pairs"}``.

    """
    record: dict[str, Any] = {"sources": dict(sources or {}), "groups": dict(Counter(item.group for item in items))}
    for name, key in (("sets", "set"), ("voices", "voice"), ("engines", "engine")):
        values = Counter(part for item in items for part in str(item.extra.get(key) or "").split(", ") if part)
        if values:
            record[name] = dict(sorted(values.items()))
    return record


def described(record: Mapping[str, Any]) -> dict[str, str]:
    """The record in words: what it was made from, and its voices; nothing for a file without a record."""
    if not record:
        return {}
    lines = {}
    sets = list(record.get("sets", ()))
    others = [name for name in record.get("sources", {}).values() if not any(known.startswith(name) for known in sets)]
    named = ", ".join(dict.fromkeys([*sets, *others]))
    counts = ", ".join(f"{count} {group}" for group, count in record.get("groups", {}).items())
    lines["made from"] = f"{named}: {counts}" if named else counts
    if voices := record.get("voices"):
        lines["voices"] = f"{', '.join(voices)} ({', '.join(record.get('engines', ()))})"
    return lines
