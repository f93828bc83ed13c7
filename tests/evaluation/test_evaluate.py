"""``sarsteer evaluate`` as a user runs it: real processes, killed and resumed, and every error in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai")

import sarsteer
import sarsteer.audio
from sarsteer import Steering
from sarsteer.data.benchmarks import load_benchmark
from sarsteer.data.pairs import Pairs
from sarsteer.errors import ArtifactError, EvaluationError, SarsteerError
from sarsteer.evaluation.judge_choice import PlannedJudge
from sarsteer.evaluation.plan import EvaluationPlan, parse_plan
from sarsteer.evaluation.results import Evaluation
from sarsteer.evaluation.run import run
from sarsteer.judges import JudgedAnswer, JudgeStopped, Verdict
from sarsteer.judges.keywords import KeywordJudge
from sarsteer.runtime.answerer import Answerer
from sarsteer.runtime.pool import Pool
from sarsteer.steering.strength import Strength
from tests.support.openai_server import KEY, running

LIMIT = 8


@pytest.fixture(scope="module")
def file(steering: Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steering.save(tmp_path_factory.mktemp("evaluate") / "steering.safetensors")


def plan(out: Path, **changed: Any) -> EvaluationPlan:
    defaults: dict[str, Any] = {
        "benchmarks": ("embedded",),
        "defenses": ("none",),
        "limit": LIMIT,
        "batch_size": 4,
        "max_new_tokens": 24,
    }
    return parse_plan(**{"model": "sarsteer-tiny", "out": out, "controls": False, **defaults, **changed})


def numbers(results: Evaluation) -> list[Any]:
    return [(arm.benchmark, arm.defense, arm.summary, arm.answers) for arm in results.arms]


def samples(folder: Path) -> int:
    """The number of answers in the logs."""
    found = 0
    for path in folder.glob("logs/*.eval"):
        try:
            found += sum(name.startswith("samples/") for name in zipfile.ZipFile(path).namelist())
        except (OSError, zipfile.BadZipFile):
            continue
    return found


DEFENSES = ("none", "prompt:refusal", "sarsteer:alpha=0.3")


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_like_one_that_was_not_killed(tmp_path: Path, file: Path, evaluate: Any) -> None:
    # settings of a prompt contain a tuple, which becomes a list in a log
    command = [
        *(sys.executable, "-m", "sarsteer.cli.main", "evaluate", "sarsteer-tiny", "--benchmark", "embedded"),
        *(
            "--defense",
            "none",
            "--defense",
            "prompt:refusal",
            "--defense",
            "sarsteer:alpha=0.3",
            "--steering",
            str(file),
            "--limit",
            "12",
            "--no-controls",
        ),
        *("--batch-size", "2", "--max-new-tokens", "24", "--out", str(tmp_path / "killed"), "--json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    patience = time.monotonic() + 120
    while samples(tmp_path / "killed") < 4 and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = finished(tmp_path / "killed")
    assert 4 <= len(kept) < 36

    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    after = finished(tmp_path / "killed")
    assert len(after) == 36
    assert kept.items() <= after.items(), "answers from before the kill are kept"
    whole = evaluate(plan(tmp_path / "whole", limit=12, defenses=DEFENSES, steering=file))
    resumed = Evaluation.load(tmp_path / "killed" / "results.json")
    assert numbers(resumed) == numbers(whole)
    assert all(len({answer.id for answer in arm.answers}) == len(arm.answers) == 12 for arm in resumed.arms)
    printed = json.loads(done.stdout)
    assert [arm["defense"] for arm in printed["arms"]] == list(DEFENSES)
    assert printed["arms"][2]["summary"]["asr_change"]["n"] == 6
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert json.loads(again.stdout) == printed, "a finished run prints its results again, and nothing else"
    assert finished(tmp_path / "killed") == after


def finished(folder: Path) -> dict[tuple[str, str], str]:
    """When each request was answered."""
    from inspect_ai.log import read_eval_log

    found: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("logs/*.eval")):
        log = read_eval_log(str(path))
        for sample in log.samples or ():
            found[log.eval.task, str(sample.id)] = str(sample.completed_at)
    return found


@pytest.mark.slow
def test_the_numbers_are_those_of_the_model_and_the_judge(
    tmp_path: Path,
    file: Path,
    steering: Steering,
    embedded: sarsteer.AudioLanguageModel,
    test_pairs: Pairs,
    calibration_pairs: Pairs,
    evaluate: Any,
) -> None:
    pairs = manifest(tmp_path / "calibration", calibration_pairs[:6])
    defenses = ("sarsteer", "none", "prompt:refusal", "h2s:alpha=0.01")
    results = evaluate(
        plan(
            tmp_path,
            defenses=defenses,
            steering=file,
            strength=Strength(alpha=0.2, k=3),
            alpha_sweep=(0.05,),
            calibration=str(pairs),
        )
    )
    results = Evaluation.load(results.save(tmp_path / "results.json"))
    assert [arm.defense for arm in results.arms] == ["none", *(d for d in defenses if d != "none")]
    assert {(point.defense, point.alpha) for point in results.curve} == {
        ("sarsteer", 0.05),
        ("h2s:alpha=0.01", 0.05),
    }
    items = [item for pair in test_pairs[: LIMIT // 2] for item in (pair.harmful, pair.safe)]
    turns = [item.turn(item.text or "") for item in items]
    with steering.on(embedded, alpha=0.2, k=3):
        steered = embedded.generate(turns, 24)
    by_name = {arm.defense: arm for arm in results.arms}
    assert [answer.answer for answer in by_name["sarsteer"].answers] == steered
    assert [answer.answer for answer in by_name["none"].answers] == embedded.generate(turns, 24)
    assert [answer.id for answer in by_name["none"].answers] == [item.id for item in items]
    arm = by_name["sarsteer"]
    assert arm.steering == steering.digest
    assert (arm.settings["alpha"], arm.settings["k"], arm.settings["lambda"]) == (0.2, 3, 1.0)
    assert arm.settings["model"]["fingerprint"] == embedded.fingerprint.digest == results.model["fingerprint"]
    assert arm.settings["decoding"] == by_name["none"].settings["decoding"]
    assert len(results.layers) == 8
    assert list((tmp_path / "vectors").glob("h2s-*"))
    assert any("toy" in note.text for note in results.notes)
    assert not embedded.steered


@pytest.mark.slow
def test_a_gated_defense_beside_others(
    tmp_path: Path,
    file: Path,
    steering: Steering,
    embedded: sarsteer.AudioLanguageModel,
    test_pairs: Pairs,
    evaluate: Any,
) -> None:
    """The gate changes between batches of one model, and each answer's decision is logged."""
    from inspect_ai.log import read_eval_log

    hard, soft = "sarsteer:alpha=0.5,gate=hard", "sarsteer:alpha=0.5,gate=logistic"
    results = evaluate(plan(tmp_path, defenses=("none", hard, "sarsteer:alpha=0.05", soft), steering=file))
    arms = {arm.defense: arm for arm in results.arms}
    items = [item for pair in test_pairs[: LIMIT // 2] for item in (pair.harmful, pair.safe)]
    turns = [item.turn(item.text or "") for item in items]
    gate = steering.gate
    assert gate is not None
    for name, chosen in ((hard, gate), (soft, gate.with_mode("logistic"))):
        with steering.on(embedded, alpha=0.5, gate=chosen) as handle:
            assert [answer.answer for answer in arms[name].answers] == embedded.generate(turns, 24)
            decisions = handle.decisions
        assert arms[name].settings["gate"]["mode"] == chosen.mode
        log = read_eval_log(str(arms[name].log))
        logged = {str(sample.id): sample.output.metadata["gate"] for sample in log.samples or ()}
        for item, decision in zip(items, decisions, strict=True):
            assert logged[item.id]["score"] == pytest.approx(decision.score, abs=1e-3)
            assert logged[item.id]["strength"] == pytest.approx(decision.strength, abs=1e-3)
    with steering.on(embedded, alpha=0.05):
        assert [answer.answer for answer in arms["sarsteer:alpha=0.05"].answers] == embedded.generate(turns, 24)
    assert [answer.answer for answer in arms["none"].answers] == embedded.generate(turns, 24)
    assert "gate" not in arms["sarsteer:alpha=0.05"].settings


@pytest.mark.slow
def test_controls_are_added_and_the_gain_is_over_the_random_one(
    tmp_path: Path, file: Path, calibration_pairs: Pairs, evaluate: Any
) -> None:
    pairs = manifest(tmp_path / "pairs", calibration_pairs[:4])
    given = {"steering": file, "calibration": str(pairs), "controls": True}
    results = evaluate(plan(tmp_path / "out", defenses=("none", "sarsteer:alpha=0.3"), **given))
    name = "sarsteer:alpha=0.3"
    controls = [f"{kind} control of {name}" for kind in ("random", "reversed", "shuffled")]
    assert [arm.defense for arm in results.arms] == ["none", name, *controls]
    assert [arm.control_of for arm in results.arms] == [None, None, name, name, name]
    assert all(arm.settings["alpha"] == 0.3 for arm in results.arms[1:])
    ours, random = results.arms[1:3]
    assert {answer.direction for answer in random.answers} <= set(range(5))
    assert len({answer.direction for answer in random.answers}) > 1
    assert [arm.defense for arm in results.arms if arm.summary.gain is not None] == [name]

    def refused(arm: Any, label: str) -> float:
        hits = [answer.verdict.outcome == "refused" for answer in arm.answers if answer.label == label]
        return float(sum(hits)) / len(hits)

    assert ours.summary.gain.value == pytest.approx(refused(ours, "harmful") - refused(random, "harmful"))
    assert ours.summary.gain_safe.value == pytest.approx(refused(ours, "safe") - refused(random, "safe"))
    (note,) = [note for note in random.summary.notes if note.kind == "directions"]
    assert note.subject == controls[0]
    saved = Evaluation.load(results.save(tmp_path / "results.json"))
    assert numbers(saved) == numbers(results)
    again = evaluate(plan(tmp_path / "out", defenses=("none", "sarsteer:alpha=0.3"), **given))
    assert numbers(again) == numbers(results)
    without = evaluate(plan(tmp_path / "out", defenses=("none", "sarsteer:alpha=0.3"), steering=file))
    assert "controls" in {note.kind for note in without.notes}


def test_other_settings_are_refused_and_arms_can_be_added(tmp_path: Path, file: Path, evaluate: Any) -> None:
    first = evaluate(plan(tmp_path, limit=4))
    again = evaluate(plan(tmp_path, limit=4, batch_size=2))
    assert numbers(again) == numbers(first), "neither another batch size nor a finished run changes anything"
    more = evaluate(plan(tmp_path, limit=4, defenses=("none", "sarsteer"), steering=file))
    assert numbers(more)[0] == numbers(first)[0]
    for changed, says in (
        ({"judges": ("keywords",)}, "judge 'embedded', now 'keywords'"),
        ({"limit": 6}, "limit 4, now 6"),
        ({"max_new_tokens": 8}, "max_new_tokens 24, now 8"),
        ({"defenses": ("sarsteer",), "steering": file, "strength": Strength(alpha=0.3)}, "alpha 0.1, now 0.3"),
    ):
        with pytest.raises(EvaluationError, match="other settings") as caught:
            evaluate(plan(tmp_path, **{"limit": 4, **changed}))
        assert says in str(caught.value)


def test_a_damaged_log_is_named(tmp_path: Path, evaluate: Any) -> None:
    evaluate(plan(tmp_path, limit=2))
    (log,) = tmp_path.glob("logs/*.eval")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    with pytest.raises(EvaluationError, match="cut off or damaged") as caught:
        evaluate(plan(tmp_path, limit=2))
    assert log.name in str(caught.value)
    log.unlink()
    assert len(evaluate(plan(tmp_path, limit=2)).arms[0].answers) == 2


def test_calibration_and_test_must_be_disjoint(tmp_path: Path, file: Path, evaluate: Any) -> None:
    with pytest.raises(EvaluationError, match="calibration and test share"):
        evaluate(plan(tmp_path, benchmarks=("embedded@calibration",), calibration="sarsteer-tiny"))
    with pytest.raises(EvaluationError, match="calibrated on these very requests"):
        evaluate(
            plan(tmp_path, benchmarks=("embedded@calibration",), limit=None, steering=file, defenses=("sarsteer",))
        )


def manifest(folder: Path, pairs: Pairs) -> Path:
    folder.mkdir(exist_ok=True)
    rows = []
    for pair in pairs:
        for item in (pair.harmful, pair.safe):
            (folder / item.audio.name).write_bytes(item.audio.read_bytes())
            rows.append({"id": item.id, "audio": item.audio.name, "question": item.question, "label": item.label})
            rows[-1]["pair"] = pair.id
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_bad_clip_is_reported_before_the_first_answer(tmp_path: Path, test_pairs: Pairs, evaluate: Any) -> None:
    mine = manifest(tmp_path / "clips", test_pairs[:2])
    (mine.parent / test_pairs[1].safe.audio.name).write_bytes(b"not audio")
    with pytest.raises(EvaluationError, match="is not a readable audio file") as caught:
        evaluate(plan(tmp_path / "out", benchmarks=(f"manifest:{mine}",), judges=("embedded",)))
    assert repr(test_pairs[1].safe.id) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_judge_that_stops_ends_the_run_and_verdicts_are_kept(
    tmp_path: Path, embedded: sarsteer.AudioLanguageModel
) -> None:
    class Failing(KeywordJudge):
        name = signature = "failing"
        at_once = 2
        left = 4

        def judge(self, items: Sequence[JudgedAnswer]) -> list[Verdict]:
            Failing.left -= len(items)
            if Failing.left < 0:
                raise JudgeStopped("the server is gone; start it again", {})
            return super().judge(items)

    failing = replace(plan(tmp_path), judges=(PlannedJudge("failing", Failing()),))

    def evaluate() -> Evaluation:
        pool = Pool()
        pool.add_model(embedded)
        return run(failing, pool=pool)

    with pytest.raises(EvaluationError, match="the server is gone"):
        evaluate()
    kept = {key: when for key, when in finished(tmp_path).items() if when}
    Failing.left = 100
    assert len(evaluate().arms[0].answers) == LIMIT
    assert 100 - Failing.left < LIMIT, "verdicts are not requested twice"
    assert kept


def test_a_model_behind_an_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate: Any) -> None:
    with running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        api_plan = plan(
            tmp_path, model="openai/gpt-audio", defenses=("none", "prompt:harm-check"), judges=("keywords",), limit=2
        )
        results = evaluate(api_plan)
        with pytest.raises(SarsteerError, match="not steered"):
            evaluate(plan(tmp_path, model="openai/gpt-audio", defenses=("h2s",), calibration="sarsteer-tiny", limit=2))
    assert [len(arm.answers) for arm in results.arms] == [2, 2]
    assert results.model == {"name": "openai/gpt-audio", "address": server.url}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"defenses": ("sarsteer",)}, "needs a steering file"),
        ({"defenses": ("h2s",)}, "needs calibration pairs"),
        ({"defenses": ("none", "none")}, "occurs twice"),
        ({"defenses": ("magic",)}, "unknown defense 'magic'"),
        ({"defenses": ("prompt:nothing",)}, "neither a built-in prompt nor a file"),
        ({"defenses": ("sarsteer:alpha=much",), "steering": Path("x")}, "alpha must be a finite number"),
        ({"defenses": ("sarsteer:gate=maybe",), "steering": Path("x")}, "gate must be one of off, on, hard, logistic"),
        ({"defenses": ("h2s:gate=on",), "calibration": "sarsteer-tiny"}, "unknown option 'gate'; its options: alpha"),
        ({"defenses": ("guard:keywords",)}, "unknown guard"),
        ({"benchmarks": ("nowhere",)}, "unknown benchmark 'nowhere'"),
        ({"benchmarks": ("figstep:/nowhere",)}, "there is no folder"),
        ({"benchmarks": ("embedded", "embedded")}, "two benchmarks"),
        ({"judges": ("oracle",)}, "unknown judge"),
        ({"judges": ("air-bench:openai/x",)}, "does not recognize refusals"),
        ({"model": "nothing/at-all"}, "unknown model"),
    ],
)
def test_mistakes(tmp_path: Path, changed: dict[str, Any], says: str, evaluate: Any) -> None:
    with pytest.raises(SarsteerError) as caught:
        evaluate(plan(tmp_path / "out", **changed))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.eval"))


def test_another_models_steering_is_refused(tmp_path: Path, steering: Steering, evaluate: Any) -> None:
    other = Steering(
        **{name: getattr(steering, name) for name in ("refusal", "safe_basis", "singular_values", "safe_mean")},
        harmful_mean=steering.harmful_mean,
        activation_norms=steering.activation_norms,
        metadata={**steering.metadata, "fingerprint": {**steering.metadata["fingerprint"], "digest": "0" * 64}},
    )
    path = other.save(tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match="another model"):
        evaluate(plan(tmp_path / "out", defenses=("sarsteer",), steering=path))


def test_the_judge_works_while_the_model_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate: Any
) -> None:
    """The judge's first reply waits until the model has answered a later batch, or the test fails."""
    begun, beside = threading.Event(), threading.Event()
    held: list[bool] = []
    answer = Answerer.answer

    def watched(self: Answerer, *given: Any, **options: Any) -> Any:
        asked_before = begun.is_set()
        replies = answer(self, *given, **options)
        if asked_before:
            beside.set()
        return replies

    def reply(_messages: list[dict[str, Any]]) -> str:
        if not begun.is_set():
            begun.set()
            held.append(beside.wait(60))
        return '{"reason": "it declines", "outcome": "refused"}'

    monkeypatch.setattr(Answerer, "answer", watched)
    with running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        server.reply = reply
        results = evaluate(plan(tmp_path, judges=("rubric:openai/slow",), batch_size=2, limit=12))
    assert held == [True], "a batch was answered before the judge's first reply"
    assert results.arms[0].summary.rr_harmful is not None
    assert results.arms[0].summary.rr_harmful.value == 1.0


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ("rubric:openai/judge-mute", None),
        ("rubric:openai/down", "The server is being restarted"),
        ("rubric:openai/missing", "does not exist"),
    ],
)
def test_judges_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: str, says: str | None, evaluate: Any
) -> None:
    """Unreadable replies are counted; a server that is down ends the run with one line. No answer is lost."""
    with running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        if says is None:
            results = evaluate(plan(tmp_path, judges=(judge,), limit=4))
            assert results.arms[0].summary.unreadable.value == 1.0
            assert any("cannot be read" in note.text for note in results.arms[0].summary.notes)
            assert all(answer.answer for answer in results.arms[0].answers)
            return
        with pytest.raises(EvaluationError) as caught:
            evaluate(plan(tmp_path, judges=(judge,), limit=4))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not re.search(r"Error\(|conversation \d", str(caught.value))


def test_batches_have_similar_lengths_and_results_are_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate: Any
) -> None:
    batches: list[list[int]] = []
    answer = Answerer.answer

    def watched(self: Answerer, defense: Any, conversations: list[Any], *given: Any, **options: Any) -> Any:
        clips = [conversation[0]["content"][0]["url"] for conversation in conversations]
        batches.append([len(sarsteer.audio.load_clip(clip).samples) for clip in clips])
        return answer(self, defense, conversations, *given, **options)

    monkeypatch.setattr(Answerer, "answer", watched)
    results = evaluate(plan(tmp_path, limit=24))
    items = load_benchmark("embedded", limit=24).items
    assert [answer.id for answer in results.arms[0].answers] == [item.id for item in items]
    as_filed = [len(sarsteer.audio.load_clip(item.audio).samples) for item in items]
    assert sum(map(len, batches)) == 24
    unsorted = [as_filed[start : start + 4] for start in range(0, 24, 4)]
    # requests that wait at the same time may overtake each other, so the order is not exact
    assert padding(batches) < padding(unsorted), batches


def padding(batches: list[list[int]]) -> int:
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)
