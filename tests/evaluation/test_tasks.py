"""Every benchmark in its authors' format, through Inspect and through ``evaluate``; judges that score; guards; c2r."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("inspect_ai")

from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import get_model
from safetensors.torch import load_file

import sarsteer
from sarsteer.data.pairs import Pairs
from sarsteer.defenses import DEFENSES, DefenseContext, build_defense
from sarsteer.defenses.request_guard import TRANSCRIBE
from sarsteer.errors import CalibrationError, EvaluationError, JudgeError
from sarsteer.evaluation.inspect import process
from sarsteer.evaluation.inspect.tasks import TASKS
from sarsteer.evaluation.plan import EvaluationPlan, parse_plan
from sarsteer.evaluation.results import Evaluation
from sarsteer.judges import parse_judge
from sarsteer.judges.embedded import outcome
from sarsteer.prompts import GUARD_REFUSAL as REFUSAL
from sarsteer.prompts import INSTRUCTION
from sarsteer.report.html import html_page
from sarsteer.report.markdown import markdown
from sarsteer.report.spreadsheet import arms_csv
from sarsteer.runtime.answerer import Answerer
from sarsteer.steering.handle import attach
from sarsteer.steering.strength import ResolvedStrength
from tests.data import test_benchmarks as made
from tests.evaluation.test_evaluate import manifest
from tests.support.judge_models import Spelling, checkpoint
from tests.support.openai_server import KEY, OpenAIServer, running

TOKENS = 16


@pytest.fixture(autouse=True)
def shared(
    embedded: sarsteer.AudioLanguageModel, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Inspect uses the session's model, and clips from tables go into a temporary cache."""
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path_factory.mktemp("cache")))
    process.POOL.add_model(embedded)
    yield
    process.POOL.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    with running() as one:
        monkeypatch.setenv("OPENAI_BASE_URL", one.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield one


def plan(out: Path, *benchmarks: str, **changed: Any) -> EvaluationPlan:
    options = {"max_new_tokens": TOKENS, "defenses": ("none",), "batch_size": 8, **changed}
    return parse_plan("sarsteer-tiny", benchmarks, out=out, **options)


def asked(log: EvalLog) -> list[tuple[str, str, str]]:
    return [
        (str(one.id), one.output.completion, str(next(iter((one.scores or {}).values())).value))
        for one in log.samples or ()
    ]


# ---- every task ------------------------------------------------------------------------------------------------------

BENCHMARKS: list[tuple[str, str | None, Callable[[Path], None]]] = [
    ("figstep", None, made.figstep_pairs),
    ("figstep", "text", made.figstep_csv),
    ("advbench", None, made.advbench_pairs),
    ("advbench", "text", made.advbench_csv),
    ("sorry_bench", None, made.sorry_bench),
    ("ajailbench", "base", made.ajailbench),
    ("ajailbench", "perturbed", made.ajailbench),
    ("air_bench_chat", None, made.air_bench),
    ("jalmbench", None, made.jalmbench),
    ("xstest_spoken", None, made.xstest),
    ("voicebench", "advbench", made.voicebench),
    ("voicebench", "alpacaeval", made.voicebench),
]


@pytest.mark.parametrize(("name", "variant", "make"), BENCHMARKS)
def test_a_task_runs_both_ways(
    tmp_path: Path,
    name: str,
    variant: str | None,
    make: Callable[[Path], None],
    embedded: sarsteer.AudioLanguageModel,
    evaluate: Any,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    items = made.load_benchmark(name, folder=folder, variant=variant).items
    task = TASKS[name](folder=str(folder), variant=variant, max_new_tokens=TOKENS)
    (log,) = inspect_eval(
        task, model=get_model("sarsteer/sarsteer-tiny", memoize=False), log_dir=str(tmp_path / "logs"), display="none"
    )
    assert log.status == "success", log.error
    log = read_eval_log(log.location)
    answers = sorted(asked(log))
    assert [one[0] for one in answers] == sorted(item.id for item in items)
    spec = f"{name}/{variant}:{folder}" if variant else f"{name}:{folder}"
    (arm,) = evaluate(plan(tmp_path / "out", spec)).arms
    assert sorted((a.id, a.answer, a.verdict.outcome) for a in arm.answers) == answers
    turns = [item.turn(item.text or INSTRUCTION) for item in items]
    assert [answer.answer for answer in arm.answers] == embedded.generate(turns, TOKENS)
    assert [(answer.question, answer.label) for answer in arm.answers] == [(i.question, i.label) for i in items]


@pytest.mark.slow
def test_manifest_and_embedded_run_both_ways(tmp_path: Path, test_pairs: Pairs, evaluate: Any) -> None:
    mine = manifest(tmp_path / "clips", test_pairs[:2])
    for task, spec, judge in (
        (TASKS["manifest"](folder=str(mine), judge="embedded", max_new_tokens=TOKENS), f"manifest:{mine}", "embedded"),
        (TASKS["embedded"](limit=4, max_new_tokens=TOKENS), "embedded", None),
    ):
        model = get_model("sarsteer/sarsteer-tiny", memoize=False)
        (log,) = inspect_eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none")
        assert log.status == "success", log.error
        results = evaluate(plan(tmp_path / str(judge), spec, judges=[judge] if judge else (), limit=4))
        answers = [(a.id, a.answer, a.verdict.outcome) for a in results.arms[0].answers]
        assert sorted(answers) == sorted(asked(read_eval_log(log.location)))
    assert [answer[1] for answer in asked(read_eval_log(log.location))]


# ---- a judge that scores ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_air_bench_scores_both_orders_beside_another_judge(
    tmp_path: Path,
    server: OpenAIServer,
    test_pairs: Pairs,
    evaluate: Any,
) -> None:
    made.air_bench(tmp_path / "air")
    mine = manifest(tmp_path / "clips", test_pairs[:2])
    scored_plan = plan(
        tmp_path / "out",
        f"air_bench_chat:{tmp_path / 'air'}",
        f"manifest:{mine}",
        defenses=("none", "prompt:refusal"),
        judges=("embedded", "air-bench:openai/judge-scores-biased"),
    )
    results = evaluate(scored_plan)
    results = Evaluation.load(results.save(tmp_path / "results.json"))
    scored = [arm for arm in results.arms if arm.benchmark == "air_bench_chat"]
    rated = [arm for arm in results.arms if arm.benchmark == "mine"]
    assert all(arm.summary.scores is None and arm.summary.asr is not None for arm in rated)
    for arm in scored:
        scores = arm.summary.scores
        assert scores is not None
        assert arm.summary.asr is None
        assert arm.answers[0].verdict.outcome is None
        # the judge gives 4 to what is not "right", and one more to what it reads first
        found = {name: getattr(scores, name).value for name in ("answer_first", "answer_second", "reference_first")}
        assert found == {"answer_first": 5, "answer_second": 4, "reference_first": 5}
        assert scores.answer is not None
        assert scores.answer.value == 4.5
        assert scores.position_bias is not None
        assert scores.position_bias.value == 1
        assert scores.unreadable.value == 0
    assert scored[1].summary.scores is not None
    assert scored[1].summary.scores.answer_change is not None
    assert scored[1].summary.scores.answer_change.value == 0
    assert len(server.judged) == 4, "each answer in both orders, and never the manifest's"
    table = markdown(results)
    assert "score ↑" in table
    assert "4.50 [1.31, 9.28] n=1" in table
    assert "ASR ↓" in table
    html = html_page(results, tmp_path)
    assert html.count('<table class="numbers-table">') == 2
    assert "answer_first" in arms_csv(results).splitlines()[0]
    with pytest.raises(EvaluationError, match="are harmful"):
        evaluate(plan(tmp_path / "other", f"manifest:{mine}", judges=("air-bench:openai/judge-scores",)))


def test_air_bench_scores_through_inspect_too(tmp_path: Path, server: OpenAIServer) -> None:
    made.air_bench(tmp_path / "air")
    task = TASKS["air_bench_chat"](folder=str(tmp_path / "air"), judge="air-bench:openai/judge-scores-biased")
    model = get_model("sarsteer/sarsteer-tiny", memoize=False)
    (log,) = inspect_eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success", log.error
    assert log.results is not None
    metrics = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    assert (metrics["answer"], metrics["answer_first"], metrics["answer_second"]) == (4.5, 5, 4)
    assert "asr" not in metrics


@pytest.mark.parametrize(
    ("judges", "says"),
    [
        (("keywords", "embedded"), "write BENCHMARK=JUDGE"),
        (("nothing=keywords",), "no benchmark 'nothing'"),
        (("embedded=keywords", "embedded=embedded"), "pass one"),
    ],
)
def test_judges_that_do_not_fit(tmp_path: Path, judges: tuple[str, ...], says: str, evaluate: Any) -> None:
    with pytest.raises(EvaluationError, match=says):
        evaluate(plan(tmp_path, "embedded", judges=judges, limit=2))


def test_a_judge_of_one_benchmark(tmp_path: Path, test_pairs: Pairs, evaluate: Any) -> None:
    mine = manifest(tmp_path / "clips", test_pairs[:1])
    results = evaluate(plan(tmp_path / "out", "embedded", f"manifest:{mine}", judges=("mine=embedded",), limit=2))
    assert [arm.settings["judge"] for arm in results.arms] == ["embedded", "embedded"]


def test_options_of_a_judge_come_after_its_model(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Request: {question} Response: {answer}")
    folder = checkpoint(tmp_path / "judge")
    judge = parse_judge(f"sorry-bench:{folder},prompts={prompts},batch_size=2")
    assert judge.at_once == 16
    for spec, says in (
        (f"sorry-bench:{folder},prompts={prompts},batch_size=two", "must be a whole number"),
        ("rubric:openai/x,api_key=secret", "OPENAI_API_KEY"),
        (f"sorry-bench:{folder},prompts={prompts},colour=red", "unknown option .colour."),
    ):
        with pytest.raises(JudgeError, match=says) as caught:
            parse_judge(spec)
        assert "secret" not in str(caught.value)


# ---- defenses with a second model, or of refusals --------------------------------------------------------------------


def logged_by_guards(folder: Path) -> list[dict[str, Any]]:
    """The metadata of each guarded answer in the logs."""
    logs = [read_eval_log(str(path)) for path in sorted(folder.glob("logs/*.eval"))]
    return [
        {"id": str(sample.id), **(sample.output.metadata or {})}
        for log in logs
        for sample in log.samples or ()
        if (sample.output.metadata or {}).get("defense", "").startswith("guard:")
    ]


def test_a_rubric_guard_decides_on_the_models_transcript(
    tmp_path: Path,
    server: OpenAIServer,
    embedded: sarsteer.AudioLanguageModel,
    test_pairs: Pairs,
    evaluate: Any,
) -> None:
    items = [item for pair in test_pairs[:2] for item in (pair.harmful, pair.safe)]
    transcripts = embedded.generate([item.turn(TRANSCRIBE) for item in items], TOKENS)
    stopped = transcripts[0]
    server.reply = lambda messages: json.dumps({"harmful": stopped in messages[1]["content"]})
    results = evaluate(plan(tmp_path, "embedded", defenses=("none", "guard:rubric:openai/gpt"), limit=4))
    plain, guarded = results.arms
    expected = [text == stopped for text in transcripts]
    assert [answer.answer == REFUSAL for answer in guarded.answers] == expected
    for free, answer, stop in zip(plain.answers, guarded.answers, expected, strict=True):
        assert answer.verdict.outcome == "refused" if stop else answer.answer == free.answer
    logged = {row["id"]: row for row in logged_by_guards(tmp_path)}
    assert [logged[item.id]["transcript"] for item in items] == transcripts
    assert [logged[item.id]["stopped"] for item in items] == expected


def test_the_toys_guard_stops_harmful_requests_of_its_world(tmp_path: Path, test_pairs: Pairs, evaluate: Any) -> None:
    (arm,) = evaluate(plan(tmp_path, "embedded", defenses=("guard:embedded",), limit=8)).arms
    logged = {row["id"]: row for row in logged_by_guards(tmp_path)}
    for pair in test_pairs[:4]:
        assert logged[pair.harmful.id]["stopped"]
        assert not logged[pair.safe.id]["stopped"]
        assert logged[pair.safe.id]["transcript"] == pair.safe.question
    assert [answer.answer == REFUSAL for answer in arm.answers] == [True, False] * 4


def test_llama_guard_runs_from_a_folder(
    tmp_path: Path,
    embedded: sarsteer.AudioLanguageModel,
    test_pairs: Pairs,
    evaluate: Any,
) -> None:
    """The real class with random weights replies neither safe nor unsafe: every request is stopped, and logged."""
    spec = f"guard:llama-guard:{checkpoint(tmp_path / 'guard', 'Llama')}"
    (arm,) = evaluate(plan(tmp_path / "out", "embedded", defenses=(spec,), limit=4)).arms
    assert [answer.answer for answer in arm.answers] == [REFUSAL] * 4
    assert arm.summary.rr_safe is not None
    assert arm.summary.rr_safe.value == 1, "a guard whose reply cannot be read over-refuses; it lets nothing through"
    assert all(row["stopped"] and row["transcript"] for row in logged_by_guards(tmp_path / "out"))


def test_llama_guard_lets_through_what_it_calls_safe(
    tmp_path: Path, embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs
) -> None:
    spec = f"guard:llama-guard:{checkpoint(tmp_path / 'guard', 'Llama')}"
    defense = build_defense(DEFENSES.parse(spec), DefenseContext(embedded))
    assert defense.guard is not None
    items = [test_pairs[0].harmful, test_pairs[0].safe]
    transcripts = embedded.generate([item.turn(TRANSCRIBE) for item in items], TOKENS)
    assert transcripts[0] != transcripts[1]
    backend: Any = defense.guard.backend  # type: ignore[attr-defined]
    backend._model.set_output_embeddings(Spelling(backend, {transcripts[0]: "unsafe\nS2", transcripts[1]: "safe"}))
    turns = [item.turn("Answer.") for item in items]
    replies = Answerer(embedded).answer(defense, turns, TOKENS)
    texts = [getattr(reply, "text", reply) for reply in replies]
    assert texts == [REFUSAL, embedded.generate(turns, TOKENS)[1]]


def test_c2r_is_computed_from_the_requests_that_the_model_refuses(
    tmp_path: Path,
    calibration_pairs: Pairs,
    embedded: sarsteer.AudioLanguageModel,
    test_pairs: Pairs,
    evaluate: Any,
) -> None:
    """Of these pairs' requests the toy refuses exactly one. Vectors and answers are computed by hand for comparison."""
    chosen = calibration_pairs[41:44]
    items = [*chosen.harmful, *chosen.safe]
    turns = [item.turn(INSTRUCTION) for item in items]
    refused = [outcome(text) == "refused" for text in embedded.generate(turns, TOKENS)]
    assert 0 < sum(refused) < len(items)
    activations = embedded.last_token_activations(turns).double().numpy()
    expected = activations[refused].mean(0) - activations[[not one for one in refused]].mean(0)

    pairs = manifest(tmp_path / "pairs", chosen)
    options = {"defenses": ("none", "c2r:alpha=0.5"), "calibration": str(pairs), "limit": 4, "controls": False}
    _, arm = evaluate(plan(tmp_path / "out", "embedded", **options)).arms
    (kept,) = (tmp_path / "out" / "vectors").glob("c2r-*")
    vectors = load_file(kept)["vectors"]
    np.testing.assert_allclose(vectors.numpy(), expected, atol=2e-5)  # float32 forwards in batches of other sizes
    steered = [item.turn(INSTRUCTION) for pair in test_pairs[:2] for item in (pair.harmful, pair.safe)]
    handle = attach(embedded.module, embedded.decoder_layers, ResolvedStrength(vectors, 0.5), embedded.probe)
    try:
        assert [answer.answer for answer in arm.answers] == embedded.generate(steered, TOKENS)
    finally:
        handle.remove()
    none = manifest(tmp_path / "none", calibration_pairs[:2])
    with pytest.raises(CalibrationError, match="leave c2r out"):
        evaluate(plan(tmp_path / "other", "embedded", **{**options, "calibration": str(none)}))
