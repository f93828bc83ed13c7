"""The lines of ``sarsteer-pairs``: which files, labels, styles, categories and splits there are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FOLDER = Path(__file__).parents[2] / "src" / "sarsteer" / "data" / "sarsteer_pairs"

COUNTS = {
    "pairs": {"harmful": 300, "safe": 300},
    "borderline": {"harmful": 200, "safe": 200},
    "everyday": {"safe": 400},
    "other": {"safe": 100},
}
PAIRED = ("pairs", "borderline")
SPLITS = {"calibration": 0.60, "tuning": 0.15, "test": 0.25}
STYLES = {
    "pairs": ("question", "command", "story", "conversation"),
    "borderline": ("question", "command", "story", "conversation"),
    "everyday": ("question", "command", "story", "conversation", "statement"),
    "other": ("reading_aloud", "lyrics", "two_speakers", "narration", "announcement"),
}
CATEGORIES = {
    "pairs": [
        "violent_crimes",
        "nonviolent_crimes",
        "sex_crimes",
        "child_safety",
        "defamation",
        "specialized_advice",
        "privacy",
        "intellectual_property",
        "indiscriminate_weapons",
        "hate",
        "suicide_self_harm",
        "sexual_content",
        "elections",
        "cyber_abuse",
    ],
    "borderline": [
        "homonyms",
        "figurative_language",
        "safe_targets",
        "safe_contexts",
        "games",
        "definitions",
        "history",
        "fiction",
        "public_information",
    ],
    "everyday": [
        "timers_alarms",
        "weather",
        "music",
        "small_talk",
        "calls_messages",
        "help",
        "numbers",
        "follow_ups",
        "cooking",
        "travel",
        "homework",
        "jokes_games",
        "device_control",
        "reminders_lists",
        "news_sports",
        "health_fitness",
        "shopping",
        "family_pets",
        "home_garden",
        "language_words",
    ],
    "other": ["not_a_request"],
}


def load(folder: Path = FOLDER) -> dict[str, list[Row]]:
    """The rows of each file, in order.

    Raises:
        OSError: a file cannot be read.
        ValueError: a line is not a JSON object.

    """
    data: dict[str, list[Row]] = {}
    for name in COUNTS:
        text = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
        data[name] = [json.loads(line) for line in text.splitlines()]
        if not all(isinstance(row, dict) for row in data[name]):
            raise ValueError(f"{name}.jsonl: a line is not a JSON object")
    return data


def every(data: dict[str, list[Row]]) -> list[Row]:
    return [row for rows in data.values() for row in rows]


def by(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups


def twins(a: Row, b: Row) -> bool:
    return a.get("pair") is not None and a.get("pair") == b.get("pair")
