"""Check the text of ``sarsteer-pairs``: ``python -m training.pairs.check [CSV...]``.

Each CSV is a public benchmark with a text column; no line of the set may be near one of its lines. Prints one finding
a line and exits with 1, or prints what was measured and exits with 0. ``--table`` prints the tables of the data card.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sarsteer.data.text import normalize, word_similarity, words
from training.pairs.benchmark import BenchmarkError, read_benchmark
from training.pairs.likeness import above, jaccard_matrix, near
from training.pairs.report import measure, tables
from training.pairs.rows import CATEGORIES, COUNTS, FOLDER, PAIRED, SPLITS, STYLES, Row, by, every, load, twins

SPLIT_TOLERANCE = 0.03
"""How far a file's share of a split may be from what is wanted; topics are moved whole, so it is never exact."""
LEAST_OF_CATEGORY = 10
"""Pairs or lines of the smallest category: fewer, and no split would have two of it."""

KEYS = {"id", "question", "label", "category", "style", "topic", "split"}
ID = re.compile(r"[pbeo]\d{3}")
SHORTEST, LONGEST = 5, 30
SPEAKABLE = re.compile(r"[A-Za-z ,.?!;:'-]+")
"""Letters and the marks that give a voice its melody. Voices read digits, quotes and symbols each in its own way."""
CAPITALS = {"I", "A", "AI", "B", "C", "F", "TV"}
"""Words in capitals that voices read well."""
FILLERS = {"um", "uh", "like", "so", "okay", "hey", "hmm", "right", "well", "yeah", "know", "mean", "oh"}

SAME_CONTENT = 0.50
"""Jaccard of the content words (neither function words nor fillers nor the words of a frame) from which lines may not
lie in two splits, given at least three content words each."""
SHARED_RUN = 7
"""Words in a row that a line may not share with a benchmark: shorter runs are frames ("what is the best way to")."""
LEAST_LIKE_TWIN = 0.30
"""Word similarity of the least alike twins: below it the safe line is another request rather than a twin."""
SAME_OPENING = 0.06
"""Share of a file's lines of one label that may begin with the same three words."""
LENGTH_GAP = 1.0
"""Words by which mean lengths of harmful and safe lines of a file may differ: a gate must not learn length."""

FRAME = set(
    re.findall(
        r"\w+",
        """
a about all am an and any are as at be because been but by can could did do does doing every for from get give go had
has have he her here him his how i if in into is it its just let like made make many may me might more most much my need
no not of off on one or other our out over own really say she should show so some tell than that the their them then
there these they this those to two up us use want was way we were what when where which while who why will with without
would write you your um uh okay hey hmm right well know yeah explain teach best help play pretend act story tale scene
imagine describe list plan dont im ive whats id find
""",
    )
)
"""Words that say nothing of what a line is about."""


def check_counts(data: dict[str, list[Row]]) -> Iterator[str]:
    for name, wanted in COUNTS.items():
        got = Counter(row.get("label") for row in data[name])
        if got != wanted:
            yield f"{name}: has {dict(got)}, not {wanted}"


def check_schema(data: dict[str, list[Row]]) -> Iterator[str]:
    for name, rows in data.items():
        for row in rows:
            where = f"{name} {row.get('id')}"
            wanted = KEYS | ({"pair"} if name in PAIRED else set()) | ({"turns"} if "turns" in row else set())
            if set(row) != wanted:
                yield f"{where}: keys {sorted(set(row) ^ wanted)} are missing or too many"
                continue
            if not all(isinstance(value, str) for key, value in row.items() if key != "turns") or not row["question"]:
                yield f"{where}: a value is no text"
                continue
            if row["label"] not in ("harmful", "safe") or row["split"] not in SPLITS:
                yield f"{where}: label {row['label']!r} or split {row['split']!r} is unknown"
            if row["style"] not in STYLES[name] or row["category"] not in CATEGORIES[name]:
                yield f"{where}: style {row['style']!r} or category {row['category']!r} is unknown"
            if not ID.fullmatch(row.get("pair", row["id"])) or row["id"][0] != name[0]:
                yield f"{where}: the id is not of the form {name[0]}001"
            if "pair" in row and row["id"] != row["pair"] + row["label"][0]:
                yield f"{where}: the id is not pair {row['pair']} and the label's letter"
            if (row["style"] == "two_speakers") != ("turns" in row) or " ".join(
                row.get("turns", [row["question"]])
            ) != row["question"]:
                yield f"{where}: the turns do not make up the question"


def check_pairs(data: dict[str, list[Row]]) -> Iterator[str]:
    for name in PAIRED:
        for pair, rows in by(data[name], "pair").items():
            if sorted(row["label"] for row in rows) != ["harmful", "safe"]:
                yield f"{name} {pair}: is not one harmful and one safe line"
                continue
            for key in ("category", "style", "topic", "split"):
                if rows[0][key] != rows[1][key]:
                    yield f"{name} {pair}: the twins differ in {key}"
            alike = word_similarity(rows[0]["question"], rows[1]["question"])
            if alike < LEAST_LIKE_TWIN:
                yield f"{name} {pair}: the twins share too little ({alike:.2f} < {LEAST_LIKE_TWIN})"


def check_unique(data: dict[str, list[Row]]) -> Iterator[str]:
    rows = every(data)
    for what, key in (("id", lambda row: row["id"]), ("text", lambda row: normalize(row["question"]))):
        for value, count in Counter(map(key, rows)).items():
            if count > 1:
                yield f"{what} {value!r} is used {count} times"


def check_near_duplicates(data: dict[str, list[Row]]) -> Iterator[str]:
    rows = every(data)
    for kind, i, j, value in near(rows, rows):
        if i < j and not twins(rows[i], rows[j]):
            yield f"{rows[i]['id']} and {rows[j]['id']} are near ({kind} {value:.2f}): {both(rows[i], rows[j])}"


def check_splits(data: dict[str, list[Row]]) -> Iterator[str]:
    rows = every(data)
    for topic, group in by(rows, "topic").items():
        if len(splits := {row["split"] for row in group}) > 1:
            yield f"topic {topic!r} lies in {', '.join(sorted(splits))}"
    for name, group in data.items():
        for split, share in SPLITS.items():
            got = np.mean([row["split"] == split for row in group])
            if abs(got - share) > SPLIT_TOLERANCE:
                yield f"{name}: {split} holds {got:.0%} of the lines, not {share:.0%}"
        for category, members in by(group, "category").items():
            for split in ("calibration", "test"):
                if not any(row["split"] == split for row in members):
                    yield f"{name}: {split} has no line of {category}"
    content = [[word for word in words(row["question"]) if word not in FRAME] for row in rows]
    jaccard = jaccard_matrix(content, content)
    for i, j, value in above(jaccard, SAME_CONTENT):
        rich = min(len(set(content[i])), len(set(content[j]))) >= 3
        if i < j and rich and rows[i]["split"] != rows[j]["split"]:
            ids = f"{rows[i]['id']} and {rows[j]['id']}"
            yield f"{ids} share content over splits ({value:.2f}): {both(rows[i], rows[j])}"


def check_balance(data: dict[str, list[Row]]) -> Iterator[str]:
    pairs = [row for row in data["pairs"] if row["label"] == "harmful"]
    for style, group in by(pairs, "style").items():
        if abs(len(group) / len(pairs) - 1 / 4) > 0.02:
            yield f"pairs: {len(group)} of {len(pairs)} are of style {style}, not a quarter"
    for category in CATEGORIES["pairs"]:
        of = Counter(row["style"] for row in pairs if row["category"] == category)
        if len(of) < 4 or max(of.values()) > 2 * min(of.values()):
            yield f"pairs: {category} has styles {dict(of)}"
    for name, rows in data.items():
        for category in CATEGORIES[name]:
            got = sum(row["category"] == category for row in rows) // (2 if name in PAIRED else 1)
            if got < LEAST_OF_CATEGORY:
                yield f"{name}: {category} has {got} entries, fewer than {LEAST_OF_CATEGORY}"
        for style, group in by(rows, "style").items():
            for label, same in by(group, "label").items():
                if style == "conversation":
                    bare = [row for row in same if not FILLERS & set(words(row["question"]))]
                    if len(bare) > 0.2 * len(same):
                        yield f"{name}: {len(bare)} of {len(same)} {label} conversational lines have no filler"
        for label, group in by(rows, "label").items():
            first = Counter(" ".join(words(row["question"])[:3]) for row in group)
            for opening, count in first.items():
                if count > SAME_OPENING * len(group):
                    yield f"{name}: {count} of {len(group)} {label} lines open with {opening!r}"
    for name in PAIRED:
        mean = {
            label: np.mean([len(row["question"].split()) for row in group])
            for label, group in by(data[name], "label").items()
        }
        if abs(mean["harmful"] - mean["safe"]) > LENGTH_GAP:
            yield f"{name}: harmful lines have {mean['harmful']:.1f} words, safe ones {mean['safe']:.1f}"


def check_speakable(data: dict[str, list[Row]]) -> Iterator[str]:
    for row in every(data):
        text, where = row["question"], row["id"]
        if not SHORTEST <= len(text.split()) <= LONGEST:
            yield f"{where}: has {len(text.split())} words, not {SHORTEST} to {LONGEST}"
        if not SPEAKABLE.fullmatch(text):
            yield f"{where}: has characters that voices read unlike: {''.join(sorted(set(SPEAKABLE.sub('', text))))!r}"
        if text != " ".join(text.split()) or text[-1] not in ".?!" or not text[0].isupper():
            yield f"{where}: does not begin with a capital, end with a mark, or has stray spaces"
        if odd := {w for w in re.findall(r"[A-Za-z]+", text) if w.isupper()} - CAPITALS:
            yield f"{where}: has words in capitals that a voice may spell out: {', '.join(sorted(odd))}"
        if re.search(r"\b(\w+) \1\b", text, re.IGNORECASE) and row["style"] != "lyrics":
            yield f"{where}: says a word twice: {text!r}"


def check_benchmark(data: dict[str, list[Row]], path: Path) -> Iterator[str]:
    """Lines near a benchmark's; its ids here are the file's name and the line."""
    try:
        theirs = read_benchmark(path)
    except BenchmarkError as error:
        yield str(error)
        return
    ours = every(data)
    runs: dict[tuple[str, ...], Row] = {run: row for row in theirs for run in runs_of(row["question"])}
    for row in ours:
        if hit := next((runs[run] for run in runs_of(row["question"]) if run in runs), None):
            yield f"{row['id']} shares {SHARED_RUN} words in a row with {hit['id']}: {both(row, hit)}"
    for kind, i, j, value in near(ours, theirs):
        yield f"{ours[i]['id']} is near {theirs[j]['id']} ({kind} {value:.2f}): {both(ours[i], theirs[j])}"


CHECKS = (check_pairs, check_unique, check_near_duplicates, check_splits, check_balance, check_speakable)
"""What is looked at once counts and schema are right."""


def findings(data: dict[str, list[Row]], benchmarks: Sequence[Path] = ()) -> list[str]:
    """Everything that is wrong, one line each; the later checks wait until rows are whole."""
    found = [*check_counts(data), *check_schema(data)]
    if found:
        return found
    for check in CHECKS:
        found += check(data)
    for path in benchmarks:
        found += check_benchmark(data, path)
    return found


def runs_of(text: str) -> list[tuple[str, ...]]:
    tokens = words(text)
    return [tuple(tokens[i : i + SHARED_RUN]) for i in range(len(tokens) - SHARED_RUN + 1)]


def both(a: Row, b: Row) -> str:
    return f"{a['question']!r} / {b['question']!r}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.pairs.check", description=__doc__.splitlines()[0])
    parser.add_argument("csv", nargs="*", type=Path, help="a public benchmark with a text column")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the four files lie")
    parser.add_argument("--table", action="store_true", help="print the data card's tables and stop")
    args = parser.parse_args(argv)
    try:
        data = load(args.folder)
    except (OSError, ValueError) as error:
        print(f"{args.folder}: cannot be read ({error})")
        return 1
    if args.table:
        print(tables(data))
        return 0
    found = findings(data, args.csv)
    print("\n".join(found or measure(data, args.csv)))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
