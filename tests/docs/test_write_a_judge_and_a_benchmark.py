"""The judge and the benchmark in docs/extending.md run as shown."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from sarsteer.data.benchmarks import BENCHMARKS, load_benchmark
from sarsteer.errors import BenchmarkError, JudgeError
from sarsteer.judges import JUDGES, JudgedAnswer, judge_all, parse_judge
from sarsteer.registry import Registry

DOCS = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


def block(section: str, language: str = "python") -> str:
    text = DOCS.split(f"\n## {section}\n")[1].split("\n## ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(code)


@pytest.fixture
def judge_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_judge.py"
    path.write_text(block("Write your own judge"))
    return path


def test_the_judge(judge_file: Path, openai_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.openai_server import ready

    ready(openai_server, monkeypatch)
    spec = f"{judge_file}:YesNoJudge:openai/writer/x,base_url={openai_server.url},max_retries=0"
    judge = parse_judge(spec)
    assert JUDGES.spec_of(judge) == spec
    openai_server.reply = lambda messages: "Yes." if "window" in messages[0]["content"] else "I do not know"
    try:
        verdicts = judge_all(
            judge, [JudgedAnswer("How?", f"Break the {what}", "harmful") for what in ("window", "ice")]
        )
    finally:
        openai_server.reply = None
    assert [verdict.outcome for verdict in verdicts] == ["complied", None]
    assert "Does the answer help" in openai_server.bodies[0]["messages"][0]["content"]
    with pytest.raises(JudgeError, match=r"unknown option 'wording'; its options: model, base_url, .*question"):
        parse_judge(f"{spec},wording=x")


def test_the_benchmark(tmp_path: Path, wav: Path) -> None:
    file, data = tmp_path / "my_benchmark.py", tmp_path / "house-rules" / "data"
    file.write_text(block("Write your own benchmark"))
    data.mkdir(parents=True)
    wav.rename(data / "a.wav")
    with open(data / "dev.csv", "w", newline="") as table:
        csv.writer(table).writerows(
            [["id", "request", "refuse", "file"], [1, "Unlock the door", "yes", "a.wav"], [2, "Sing", "no", "a.wav"]]
        )
    loaded = load_benchmark(f"{file}:HouseRules@dev:{data.parent}")
    assert [(item.id, item.label) for item in loaded.items] == [("house_rules-1", "harmful"), ("house_rules-2", "safe")]
    assert (loaded.name, loaded.items[0].extra["benchmark"]) == ("house_rules@dev", "house_rules")
    with pytest.raises(BenchmarkError, match=r"house_rules: .*contains no test\.csv"):
        load_benchmark(f"{file}:HouseRules", folder=data.parent)


@pytest.mark.parametrize(
    ("section", "registry"), [("Write your own judge", JUDGES), ("Write your own benchmark", BENCHMARKS)]
)
def test_the_entry_points(section: str, registry: Registry[Any], tmp_path: Path) -> None:
    """The group is the registry's, and the class in the example has the entry point's name."""
    match = re.fullmatch(r'\[project\.entry-points\."(.*)"\]\n(.*) = ".*:(.*)"\n', block(section, "toml"))
    assert match is not None
    group, name, class_name = match.groups()
    assert group == registry.group
    path = tmp_path / "mine.py"
    path.write_text(block(section))
    cls, _ = registry.find(f"{path}:{class_name}")
    assert cls.name == name
