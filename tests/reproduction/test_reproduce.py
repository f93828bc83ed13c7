"""``sarsteer reproduce`` lists what is missing first, resumes killed runs, and gives the numbers of ``evaluate``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai")

import torch

from sarsteer.cli.main import app
from sarsteer.data.pairs import Pairs
from sarsteer.errors import EvaluationError, SarsteerError
from sarsteer.evaluation.results import Evaluation
from sarsteer.evaluation.summary import summarize
from sarsteer.judges import JudgedAnswer, Verdict
from sarsteer.reproduction.paper_models import MODELS, key_of
from sarsteer.reproduction.plan import Plan, Setup, Step, command_of, make_plan
from sarsteer.reproduction.plan_file import load_plan, save_plan
from sarsteer.reproduction.published import FIGURES, MAIN_TABLE, UTILITY
from sarsteer.reproduction.report import write_report
from sarsteer.reproduction.requirements import Requirements, find_missing
from sarsteer.reproduction.weights import missing_weights
from tests.data.test_benchmarks import advbench_pairs, air_bench, ajailbench, figstep_pairs, sorry_bench
from tests.evaluation.test_evaluate import finished, manifest, samples
from tests.report.test_report import arm, rows
from tests.support.judge_models import checkpoint

MAIN = [sys.executable, "-m", "sarsteer.cli.main"]


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*MAIN, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=300
    )


# ---- what is missing -------------------------------------------------------------------------------------------------


def test_a_bare_machine_gets_the_whole_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {"HF_HOME": str(tmp_path / "hub"), "OPENAI_API_KEY": "", "CUDA_VISIBLE_DEVICES": ""}
    done = run("reproduce", "--json", cwd=tmp_path, **bare)
    assert done.returncode == 2
    missing = json.loads(done.stdout)["missing"]
    listed = {(row["kind"], row["what"].split()[0]) for row in missing}
    assert {
        ("hardware", "a"),
        ("software", "kimia_infer,"),
        ("checkpoint", "Qwen/Qwen2-Audio-7B-Instruct"),
        ("checkpoint", "moonshotai/Kimi-Audio-7B-Instruct"),
        ("data", "FigStep"),
        ("data", "SORRY-Bench"),
        ("data", "AJailBench"),
        ("data", "AdvBench"),
        ("data", "AIR-Bench"),
        ("data", "the"),
        ("judge", "sorry-bench/ft-mistral-7b-instruct-v0.2-sorry-bench-202406"),
        ("judge", "SORRY-Bench's"),
        ("judge", "a"),
    } <= listed
    assert all(row["how"] and row["why"] for row in missing)
    gated = [row["how"] for row in missing if "accept its terms" in row["how"]]
    assert len(gated) == 2, "the judge's and SORRY-Bench's"
    assert not (tmp_path / "reproduction").exists(), "nothing was started"
    for name, value in bare.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert app(["reproduce", "--only", "table2"], standalone_mode=False) == 2
    printed = capsys.readouterr()
    assert "requirements are missing; nothing was run" in printed.err
    assert printed.out == ""


def all_data(folder: Path) -> dict[str, str]:
    places = {}
    for name, make in (
        ("figstep", figstep_pairs), ("sorry_bench", sorry_bench), ("ajailbench", ajailbench),
        ("advbench", advbench_pairs), ("air_bench_chat", air_bench),
    ):  # fmt: skip
        (folder / name).mkdir(parents=True)
        make(folder / name)
        places[name] = str(folder / name)
    return places


def test_nothing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    model, judge = checkpoint(tmp_path / "model"), checkpoint(tmp_path / "judge")
    (tmp_path / "judge_prompts.txt").write_text("{question} {answer}")
    data = all_data(tmp_path / "data")
    given: dict[str, Any] = {
        "models": [str(model)],
        "benchmarks": list(data),
        "data": data,
        "judge": f"sorry-bench:{judge},prompts={tmp_path / 'judge_prompts.txt'}",
        "air_judge": "air-bench:openai/x",
        "device": "cpu",
    }
    assert find_missing(Requirements(**given)) == []
    for changed, says in (
        ({"data": {**data, "figstep": str(tmp_path / "nowhere")}}, "there is no folder"),
        ({"data": {k: v for k, v in data.items() if k != "ajailbench"}}, "no folder given"),
        ({"judge": f"sorry-bench:{judge}"}, "none is given"),
        ({"judge": "sorry-bench:nobody/nothing,prompts=x"}, "neither a folder nor"),
        ({"judge": "oracle"}, "unknown judge"),
        ({"air_judge": None}, "none is given"),
        ({"models": ["nobody/nothing"]}, "neither a folder nor"),
        ({"calibration": str(tmp_path / "none.jsonl")}, "no such manifest"),
    ):
        found = find_missing(Requirements(**{**given, **changed}))
        assert any(says in item.why for item in found), (changed, found)
    if not torch.cuda.is_available():
        (gpu,) = find_missing(Requirements(**{**given, "device": None}))
        assert gpu.kind == "hardware"


def test_missing_weights(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    assert missing_weights(str(folder)) == ""
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert missing_weights(str(folder)).startswith("2 of 3 weight files are missing, such as model-1")
    (folder / "model.safetensors.index.json").write_text("{")
    assert "cannot be read" in missing_weights(str(folder))
    (folder / "config.json").unlink()
    assert "no config.json" in missing_weights(str(folder))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--only", "table3"), "use one of table2, ablation, sensitivity"),
        (("--embedded", "--model", "x"), "remove those options"),
        (("--data", "figstep"), "write BENCHMARK=FOLDER"),
        (("--data", "figsteps=x"), "BENCHMARK one of figstep"),
        (("--without", "figsteps"), "use one of figstep"),
        (("--model", "a/x", "--model", "b/x"), "would share a folder"),
    ],
)
def test_errors(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(SarsteerError, match=says) as error:
        app(["reproduce", *arguments, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_the_plan_has_every_arm_of_the_paper() -> None:
    benchmarks = {name: f"{name}:/d" for name in ("figstep", "sorry_bench", "ajailbench", "advbench", "air_bench_chat")}
    setup = Setup(
        {"qwen2-audio": MODELS["qwen2-audio"].checkpoint}, benchmarks, "pairs", judges=("keywords", "air-bench:x")
    )
    plan = make_plan(setup)
    by_name = {step.name: step for step in plan.steps}
    assert key_of("models/Qwen2-Audio-7B-Instruct") == "qwen2-audio"
    assert set(FIGURES["qwen2-audio"]) == set(by_name["table2"].defenses), "every row has a reported figure"
    assert by_name["table2"].benchmarks == tuple(benchmarks)
    assert by_name["ablation"].benchmarks == ("figstep",)
    assert [step.pairs for step in plan.steps] == [100, 100, 100, 10, 25, 50, 75]
    shared = {("figstep", "none"), ("figstep", "sarsteer")}
    wanted = sum(len(s.benchmarks) * len(s.arms) for s in plan.steps)
    assert plan.arms == wanted - 2 * len(shared), "an arm that three steps need counts once"
    controls = [f"{kind} control of sarsteer" for kind in ("random", "reversed", "shuffled")]
    assert [step.name for step in plan.steps if set(controls) <= set(step.arms)] == ["table2"]
    assert make_plan(replace(setup, controls=False)).arms == plan.arms - len(benchmarks) * len(controls)
    for step in plan.steps:
        assert ("--no-controls" in command_of(step, setup, Path("out"))) == (step.name != "table2")
    assert "--judge air-bench:x" in command_of(by_name["table2"], setup, Path("out"))
    assert "air-bench" not in command_of(by_name["ablation"], setup, Path("out"))


def test_another_setup_is_refused_and_parts_accumulate(tmp_path: Path) -> None:
    setup = Setup({"m": "m"}, {"embedded": "embedded"}, "p", pairs=20)
    save_plan(make_plan(setup, ["table2"]), tmp_path)
    whole = save_plan(make_plan(setup, ["ablation"]), tmp_path)
    assert [step.name for step in whole.steps] == ["table2", "ablation"]
    assert load_plan(tmp_path) == whole
    with pytest.raises(EvaluationError, match="limit null, now 3"):
        save_plan(make_plan(Setup({"m": "m"}, {"embedded": "embedded"}, "p", pairs=20, limit=3)), tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(EvaluationError, match="delete it"):
        save_plan(make_plan(setup), tmp_path)


# ---- runs ------------------------------------------------------------------------------------------------------------


def figstep_of(folder: Path, pairs: Pairs) -> Path:
    """Real clips in FigStep's own layout."""
    for half, side in (("figstep_audio", "harmful"), ("figstep_audio_safe", "safe")):
        (folder / half / "question").mkdir(parents=True)
        rows = []
        for number, pair in enumerate(pairs):
            item = getattr(pair, side)
            name = f"Toy_{number}{item.audio.suffix}"
            (folder / half / "question" / name).write_bytes(item.audio.read_bytes())
            rows.append({"scenario": "Toy", "audio_file": name, "question": item.question})
        (folder / half / "test_250.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.slow
def test_a_killed_run_resumes_and_matches_evaluate(tmp_path: Path, calibration_pairs: Pairs, test_pairs: Pairs) -> None:
    data = figstep_of(tmp_path / "SARSteer", test_pairs[:1])
    pairs = manifest(tmp_path / "pairs", calibration_pairs[36:48])  # one of them is refused, as c2r needs
    out = tmp_path / "out"
    command = [
        *MAIN, "reproduce", "--model", "sarsteer-tiny", "--device", "cpu", "--data", f"figstep={data}",
        "--calibration", str(pairs), "--pairs", "12", "--judge", "embedded", "--max-new-tokens", "24", "--limit", "2",
        "--only", "table2", "--batch-size", "2", "--out", str(out), "--json",
        *(part for name in ("sorry_bench", "ajailbench", "advbench", "air_bench_chat") for part in ("--without", name)),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    patience = time.monotonic() + 120
    folder = out / "sarsteer-tiny" / "pairs-12"
    while samples(folder) < 2 and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = finished(folder)
    assert 2 <= len(before) < 18
    (calibration,) = (out / "calibrations").glob("*.safetensors")
    stamp = calibration.stat().st_mtime_ns

    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert before.items() <= finished(folder).items(), "requests answered before the kill are not asked again"
    assert calibration.stat().st_mtime_ns == stamp, "the calibration is reused"
    printed = json.loads(done.stdout)
    assert printed["steps"] == ["sarsteer-tiny/table2"]
    table = Evaluation.load(out / "sarsteer-tiny" / "table2.json")
    controls = [f"{kind} control of sarsteer" for kind in ("random", "reversed", "shuffled")]
    rows_of_the_paper = ["none", "prompt:ada", "prompt:harm-check", "h2s", "c2r", "sarsteer"]
    assert [arm.defense for arm in table.arms] == [*rows_of_the_paper, *controls]
    assert table.arms[5].summary.gain is not None
    assert "gain over random" in Path(printed["markdown"]).read_text()

    (row,) = [row for row in json.loads((out / "plan.json").read_text())["steps"] if row["name"] == "table2"]
    app([*shlex.split(row["command"])[1:], "--out", str(tmp_path / "hand")], standalone_mode=False)
    other = Evaluation.load(tmp_path / "hand" / "results.json")
    numbers = [[(arm.defense, arm.summary, arm.answers) for arm in found.arms] for found in (table, other)]
    assert numbers[0] == numbers[1]
    assert "reported" not in Path(printed["markdown"]).read_text(), "there are no reported figures of the toy"


@pytest.mark.slow
def test_embedded_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("--only", "ablation", "--only", "sensitivity")
    given = ("reproduce", "--embedded", "--limit", "2", "--pairs", "12", *parts, "--out", "here")
    done = run(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "### Ablation: embedded" in done.stdout
    assert "toy model" in done.stdout
    assert "a quick check, not a result" in done.stdout
    assert "### λ, on embedded" in done.stdout
    assert "| 0.1 (paper) |" in done.stdout
    assert (tmp_path / "here" / "reproduction.html").read_text().count("<polygon") >= 16, "four bands in each of four"
    few, all_of_them = (
        Evaluation.load(tmp_path / "here" / "sarsteer-tiny" / f"{name}.json") for name in ("pairs-10", "sensitivity")
    )
    assert few.arms[0].steering != all_of_them.arms[1].steering
    less = "with 10 calibration pairs k is 9, not 10: the safe activations have rank 9"
    assert few.arms[0].settings["k"] == 9
    assert less in map(str, few.notes)
    assert less in done.stdout
    assert not any("k is" in note.text for note in all_of_them.notes), "12 pairs allow the paper's k"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match="max_new_tokens 32, now 8"):
        app([*given, "--max-new-tokens", "8"], standalone_mode=False)


def test_reported_figures_are_shown_with_their_source(tmp_path: Path) -> None:
    """The results of a real model are made up; only the place of the reported figures matters."""
    arms = tuple(arm("figstep", name, rows("figstep", name, "cr", "hs")) for name in ("none", "sarsteer"))
    names = ("answer_first", "reference_second", "answer_second", "reference_first")
    judged = [JudgedAnswer("q", "a", "safe", reference="r")] * 2
    verdicts = [Verdict(None, "", None, dict.fromkeys(names, score)) for score in (7.0, 8.0)]
    scored = replace(arms[0], benchmark="air_bench_chat", summary=summarize(verdicts, judged))
    arms = (*arms, scored, replace(scored, defense="sarsteer"))
    results = Evaluation({"name": "m"}, {"name": "j"}, "", "2026-01-01", {}, arms)
    columns = {name: f"{name}:/d" for name in ("figstep", "air_bench_chat")}
    setup = Setup({"qwen2-audio": MODELS["qwen2-audio"].checkpoint}, columns, "pairs")
    step = Step("qwen2-audio", "table2", "table2", 100, ("figstep", "air_bench_chat"), ("none", "sarsteer"))
    plan = Plan(setup, (step,))
    (tmp_path / "qwen2-audio").mkdir()
    results.save(tmp_path / "qwen2-audio" / "table2.json")
    page, table = write_report(plan, tmp_path)
    for source in (MAIN_TABLE, UTILITY):
        assert "second-hand" in str(source)
        assert str(source) in page.read_text()
        assert source.name in table.read_text()
    assert "reported ASR" in table.read_text()
    assert "*51.6*" in table.read_text()
    assert ">51.6</em>" in page.read_text()
    assert "| none | 7.50 [2.38, 9.76] | 7.50 [2.38, 9.76] |" in table.read_text()
    assert "*7.43*" in table.read_text()
    assert ">7.43</em>" in page.read_text()
