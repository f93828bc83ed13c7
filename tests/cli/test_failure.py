"""Failed commands: no traceback for what a user can fix, a line that says what to do, and JSON with ``--json``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sarsteer.errors import did_you_mean
from sarsteer.evaluation.results import Evaluation
from sarsteer.models.device import choose_device
from tests.cli.command import refused, run

EXAMPLES = Path(__file__).parents[2] / "examples"


# ---- JSON ----


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (("show", "none.safetensors"), "ArtifactError", "no such steering file"),
        (("report", "none"), "EvaluationError", "no such file or folder"),
        (("respond", "sarsteer-tiny", "--alpha", "x"), "UsageError", "Invalid value 'x' for '--alpha'"),
        (("respond", "sarsteer-tiny", "--max-new-tokens=0"), "UsageError", "Invalid value '0' for '--max-new-tokens'"),
        (("respond",), "UsageError", "Missing argument"),
        (("evalute",), "UsageError", "Did you mean 'evaluate'?"),
    ],
)
def test_errors_are_json_where_results_are(arguments: tuple[str, ...], kind: str, says: str) -> None:
    done = run(*arguments, "--json")
    error = done.json["error"]
    assert (error["type"], error["exit_status"], done.status) == (kind, 2, 2)
    assert says in error["message"]
    assert says in " ".join(done.err.split()), "people read it on standard error"
    assert run(*arguments).out == "", "only with --json"


def test_a_bug_is_json_and_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sarsteer.models.family.families", broken)
    done = run("models", "--json")
    assert done.json["error"] == {"type": "ZeroDivisionError", "message": "a bug", "exit_status": 1}
    assert done.status == 1
    assert "Traceback" in done.err


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sarsteer.models.family.families", stop)
    done = run("models", "--json")
    assert done.status == done.json["error"]["exit_status"] == 130
    assert "Traceback" not in done.err


# ---- devices ----


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "meta"])
def test_an_absent_device(device: str) -> None:
    line = refused("respond", "sarsteer-tiny", "--text", "Hi.", "--device", device, says="is not available")
    assert repr(device) in line
    assert line.endswith("use cpu")


def test_an_unknown_device() -> None:
    refused("respond", "sarsteer-tiny", "--text", "Hi.", "--device", "gpu", says="unknown device 'gpu'; use ")
    refused("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--limit", "1", "--device", "gpu",
            says="unknown device 'gpu'")  # fmt: skip
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device() == torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ---- names ----


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("evaluate", "sarsteer-tiny", "--benchmark", "embeded"), "embedded"),
        (("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--defense", "sarster"), "sarsteer"),
        (("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--judge", "keyword"), "keywords"),
        (("evaluate", "sarsteer-tiny", "--benchmark", "figsteps:x"), "figstep"),
        (("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--defense", "sarsteer:alhpa=1"), "alpha"),
        (("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--defense", "prompt:refsal"), "refusal"),
        (("respond", "Sarsteer-Tiny", "--text", "Hi."), "sarsteer-tiny"),
        (("doctor", "sarsteer-tny"), "sarsteer-tiny"),
        (("calibrate", "sarsteer-tiny", "--pairs", "sarsteer-pair", "--out", "x"), "sarsteer-pairs"),
        (("reproduce", "--only", "table", "--embedded"), "table2"),
        (("reproduce", "--without", "figstp"), "figstep"),
        (("speak", "--benchmark", "advbench", "--out", "x", "--engine", "pipper"), "piper"),
    ],
)  # fmt: skip
def test_a_misspelled_name_suggests_the_nearest(arguments: tuple[str, ...], nearest: str) -> None:
    refused(*arguments, says=f"Did you mean {nearest!r}?")


def test_pairs_of_a_benchmark_need_its_folder() -> None:
    refused(
        "calibrate", "sarsteer-tiny", "--pairs", "figstep", "--out", "x", says="give its folder, too: figstep:FOLDER"
    )


def test_no_far_name_is_suggested() -> None:
    assert did_you_mean("none.txt", ["in-context", "refusal"]) == ""
    assert did_you_mean("llama", ["rubric", "llama-guard"]) == ". Did you mean 'llama-guard'?"
    assert did_you_mean("", ["rubric"]) == did_you_mean("r", ["rubric"]) == ""


# ---- output folders ----


def test_output_folders_are_checked_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for out, says in ((file, "is not a folder; choose"), (file / "in", f"because {file} is a file; choose")):
        refused("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--out", out, says=says)
        refused("reproduce", "--embedded", "--out", out, says=says)
        refused("speak", "none.jsonl", "--out", out, says=says)


def test_strengths_need_a_steering_file() -> None:
    for option in ("--alpha", "--k", "--lambda"):
        refused("evaluate", "sarsteer-tiny", "--benchmark", "embedded", option, "1", says="need --steering FILE")
    for values in ("0.1,x", "nan", "0.1,,0.2"):
        refused("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--alpha-sweep", values,
                says=f"separated by commas, such as 0.05,0.1, not {values!r}")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "'' is not the name of a model"),
        ("{file}", "is a file, and it is not a checkpoint; give a folder"),
        ("{file}.safetensors", "is a file, and a steering file goes with --steering"),
        ("{folder}", "is a folder without config.json"),
    ],
)
def test_what_is_no_model(tmp_path: Path, name: str, says: str) -> None:
    for file in ("file", "file.safetensors"):
        (tmp_path / file).touch()
    refused("respond", name.format(file=tmp_path / "file", folder=tmp_path), "--text", "Hi.", says=says)


def test_nothing_to_answer() -> None:
    refused("respond", "sarsteer-tiny", "--text", " ", says="nothing to answer")


# ---- report ----


def test_report_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    refused("report", tmp_path, says="this folder has no results.json; give the --out folder of sarsteer evaluate")
    refused("report", ".", says="has no results.json")
    for name in ("r.pdf", "R.PDF"):
        refused("report", tmp_path, "--out", tmp_path / name, says="are not PDF files; write .html")
        refused("report", tmp_path, "--out", tmp_path / name, "--format", "html", says="are not PDF files")
    refused("report", tmp_path, "--out", tmp_path / "r.txt", says="'.txt' is not a report; use .html")
    refused("report", tmp_path, "--out", tmp_path / "r", says="a name without a suffix is not a report")


def test_report_reads_the_folder_of_an_evaluation(tmp_path: Path) -> None:
    empty = Evaluation({"name": "m"}, {"name": "j"}, "sarsteer evaluate", "2026-01-01T00:00:00+00:00", {}, ())
    empty.save(tmp_path / "results.json")
    assert Evaluation.load(tmp_path) == empty
    done = run("report", tmp_path, "--json")
    assert done.status == 0, done.err
    assert done.json["file"] == str(tmp_path / "results.html")
    assert (tmp_path / "results.html").read_text(encoding="utf-8").startswith("<!doctype html>")


# ---- pairs ----


def test_harmful_requests_are_sent_only_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"id": "1", "modality": "text", "question": "How?", "label": "harmful"}')
    command = ("pairs", requests, "--out", tmp_path / "out.jsonl")
    for name in ("gpt-x", "vendor/gpt-x"):
        refused(*command, "--model", name, says=f"write openai/{name} for OpenAI, or add --base-url")
    refused(*command, "--model", "openai/gpt-x", "--checker", "gpt-y", says="model 'gpt-y' names no provider")
    assert not (tmp_path / "out.jsonl.partial").exists()


# ---- examples ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pairs.jsonl", "none.wav"), "none.wav: no such file"),
        (("none.jsonl", "{clip}"), "no such manifest"),
        (("sarsteer-tiny", "{clip}", "--model", "no-such-model"), "unknown model 'no-such-model'"),
    ],
)
def test_the_7b_example_without_its_files(tmp_path: Path, wav: Path, arguments: tuple[str, ...], says: str) -> None:
    command = [sys.executable, str(EXAMPLES / "qwen2_audio_7b.py"), *(a.format(clip=wav) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
