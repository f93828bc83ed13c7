"""README.md is short, its figures are those of the demo's results, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import readme
from sarsteer.evaluation.results import Evaluation

ROOT = Path(__file__).parents[2]
GENERATED = {"reference/commands.md", "reference/errors.md"}  # by docs/site_hooks.py; the site checks them
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation.load(readme.RESULTS)


@pytest.fixture(scope="module")
def in_text() -> Evaluation:
    return Evaluation.load(readme.TEXT_RESULTS)


def test_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_figures_are_those_of_the_results(page: Path, evaluation: Evaluation, in_text: Evaluation) -> None:
    text = page.read_text(encoding="utf-8")
    assert readme.BLOCK.search(text)
    assert readme.rendered(text, evaluation, in_text) == text, "run: python -m benchmarks.readme"


@pytest.mark.parametrize("mode", readme.CHARTS)
def test_the_chart_shows_the_results(mode: str, evaluation: Evaluation) -> None:
    data = readme.CHARTS[mode].read_bytes()
    assert readme.digest(evaluation).encode() in data, "run: python -m benchmarks.readme"
    assert len(data) < 200_000


def test_the_results_are_counted_from_their_verdicts(evaluation: Evaluation, in_text: Evaluation) -> None:
    for results, option in ((evaluation, ""), (in_text, " --text")):
        arms = readme.arms_of(results)
        for arm in arms:
            again = readme.recount(arm, arms).summary
            assert again == arm.summary, arm.defense
        assert results.command == f"sarsteer demo --model sarsteer-small{option}", "at full size"


def test_both_results_are_of_the_same_model_and_requests(evaluation: Evaluation, in_text: Evaluation) -> None:
    spoken, written = ([answer.id for answer in readme.arms_of(one)[0].answers] for one in (evaluation, in_text))
    assert spoken == written
    assert evaluation.model == in_text.model


def test_no_local_path_is_published(evaluation: Evaluation) -> None:
    assert all(answer.audio is None for arm in evaluation.arms for answer in arm.answers)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for target in targets:
        if not target.startswith(("http://", "https://", "mailto:")) and target not in GENERATED:
            assert (page.parent / target).exists(), target
