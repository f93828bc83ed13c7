"""The text of ``sarsteer-pairs``: it is as its card says, and the checks see what would be wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sarsteer.data.manifest import load_items
from training.pairs import check
from training.pairs.check import findings, main
from training.pairs.report import tables
from training.pairs.rows import COUNTS, FOLDER, Row, every, load

Data = dict[str, list[Row]]


@pytest.fixture(scope="module")
def shipped() -> Data:
    return load()


def test_nothing_is_wrong(shipped: Data) -> None:
    assert findings(shipped) == []


def test_card_has_the_tables(shipped: Data) -> None:
    assert tables(shipped) in (FOLDER / "DATA_CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COUNTS)
def test_rows_are_items(name: str, shipped: Data, tmp_path: Path) -> None:
    manifest = tmp_path / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps({**row, "modality": "text"}) + "\n" for row in shipped[name]))
    items = load_items(manifest)
    assert [item.question for item in items] == [row["question"] for row in shipped[name]]
    assert {item.extra["split"] for item in items} == {"calibration", "tuning", "test"}


def _drop(data: Data) -> None:
    data["everyday"].pop()


def _key(data: Data) -> None:
    del data["pairs"][0]["topic"]


def _label(data: Data) -> None:
    data["other"][0]["label"] = None


def _number(data: Data) -> None:
    data["other"][0]["question"] = 5


def _orphan(data: Data) -> None:
    data["pairs"][0].update(pair="p002", id="p002h")


def _unlike(data: Data) -> None:
    data["pairs"][1]["question"] = "Which mountain range separates Norway from Sweden?"


def _copy(data: Data) -> None:
    data["everyday"][0]["question"] = data["everyday"][1]["question"].upper().capitalize()


def _near(data: Data) -> None:
    data["everyday"][0]["question"] = "So, " + data["everyday"][50]["question"].replace(".", ", please.")


def _split_pair(data: Data) -> None:
    row = data["pairs"][0]
    row["split"] = "test" if row["split"] != "test" else "calibration"


def _split_topic(data: Data) -> None:
    group = [row for row in data["everyday"] if row["topic"] == data["everyday"][0]["topic"]]
    group[0]["split"] = "test" if group[1]["split"] != "test" else "calibration"


def _content(data: Data) -> None:
    calibration = next(row for row in data["everyday"] if row["split"] == "calibration")
    test = next(row for row in data["everyday"] if row["split"] == "test")
    calibration["question"] = "Where could someone buy purple umbrellas near Stockholm?"
    test["question"] = "Purple umbrellas, they would be for us to buy in Stockholm, so tell me what to do."


def _symbol(data: Data) -> None:
    data["everyday"][0]["question"] = "Set a timer for 12 minutes & wait."


def _long(data: Data) -> None:
    data["other"][0]["question"] = "The heron waits, " * 10 + "and then it strikes."


def _spelled(data: Data) -> None:
    data["everyday"][0]["question"] = "Tell me what the weather is like at NASA."


def _turns(data: Data) -> None:
    next(row for row in data["other"] if "turns" in row)["turns"] = ["No."]


def _style(data: Data) -> None:
    for row in data["pairs"]:
        row["style"] = "question" if row["style"] == "command" else row["style"]


def _opening(data: Data) -> None:
    for number, row in enumerate(data["everyday"][:30]):
        row["question"] = f"Tell me about {'a' * (number + 1)} and {'b' * (number + 1)}."


@pytest.mark.parametrize(
    ("part", "spoil", "said"),
    [
        (check.check_counts, _drop, "everyday: has"),
        (check.check_schema, _key, "keys ['topic']"),
        (check.check_counts, _label, "other: has"),
        (check.check_schema, _number, "a value is no text"),
        (check.check_pairs, _orphan, "is not one harmful and one safe line"),
        (check.check_pairs, _unlike, "the twins share too little"),
        (check.check_unique, _copy, "is used 2 times"),
        (check.check_near_duplicates, _near, "are near (words"),
        (check.check_pairs, _split_pair, "the twins differ in split"),
        (check.check_splits, _split_topic, "lies in calibration, t"),
        (check.check_splits, _content, "share content over splits"),
        (check.check_speakable, _symbol, "has characters that voices read unlike: '&12'"),
        (check.check_speakable, _long, "has 34 words, not 5 to 30"),
        (check.check_speakable, _spelled, "a voice may spell out: NASA"),
        (check.check_schema, _turns, "the turns do not make up the question"),
        (check.check_balance, _style, "are of style question, not a quarter"),
        (check.check_balance, _opening, "lines open with 'tell me about'"),
    ],
)
def test_faults_are_found(
    part: Callable[[Data], Iterator[str]], spoil: Callable[[Data], None], said: str, shipped: Data
) -> None:
    data = copy.deepcopy(shipped)
    spoil(data)
    found = list(part(data))
    assert any(said in line for line in found), found
    assert not any("\n" in line for line in found)


def test_benchmark_overlap_is_found(shipped: Data, tmp_path: Path) -> None:
    row = shipped["pairs"][0]
    benchmark = tmp_path / "public.csv"
    benchmark.write_text(f'id,prompt\n1,"{row["question"].rstrip("?")}, please?"\n2,"{_tail(shipped)}"\n')
    found = list(check.check_benchmark(shipped, benchmark))
    assert any(f"{row['id']} is near public.csv:2" in line for line in found), found
    assert any("7 words in a row with public.csv:3" in line for line in found), found


def test_unrelated_benchmark_is_clean(shipped: Data, tmp_path: Path) -> None:
    benchmark = tmp_path / "public.csv"
    benchmark.write_text("Goal\nCatalog every asteroid beyond Neptune\n")
    assert list(check.check_benchmark(shipped, benchmark)) == []


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), (b"a,b\n1,2\n", "none of the columns"), (b"", "has no rows")]
)
def test_bad_benchmark_is_named(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = tmp_path / "public.csv"
    if content is not None:
        benchmark.write_bytes(content)
    assert main([str(benchmark)]) == 1
    out = capsys.readouterr().out
    assert str(benchmark) in out
    assert said in out


def test_rows_that_are_not_whole_stop_the_checks(shipped: Data) -> None:
    data = copy.deepcopy(shipped)
    data["pairs"][0].clear()
    assert findings(data)


def test_main_reports_and_exits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([]) == 0
    assert f"{len(every(load()))} lines" in capsys.readouterr().out
    assert main(["--folder", str(tmp_path)]) == 1
    assert "cannot be read" in capsys.readouterr().out


def _tail(data: Data) -> str:
    """Seven words of a shipped line inside a long sentence of other words."""
    words = next(row["question"] for row in data["other"] if len(row["question"].split()) > 12).split()[:7]
    return "Astronomers catalog remote asteroids beyond Neptune whenever " + " ".join(words).replace('"', "")
