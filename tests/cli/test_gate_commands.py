"""``sarsteer threshold``, ``sarsteer drift`` and ``respond --shadow``: as a user runs them, wrong arguments too."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sarsteer
from sarsteer import Steering
from sarsteer.cli.drift import DRIFT
from sarsteer.cli.main import app
from sarsteer.data.pairs import Pairs
from sarsteer.errors import SarsteerError
from sarsteer.steering.gate.gate import Decision
from sarsteer.steering.gate.log import append_decisions
from tests.cli.test_cli import refused, run


@pytest.fixture(scope="module")
def file(steering: Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steering.save(tmp_path_factory.mktemp("gate") / "steering.safetensors")


@pytest.fixture(scope="module")
def log(file: Path) -> Path:
    """200 decisions on safe requests, half of them of the group "music"."""
    path = file.with_name("traffic.jsonl")
    scores = np.random.default_rng(0).normal(-1, 0.3, 200)
    for start, group in ((0, "music"), (100, "timers")):
        append_decisions(path, [Decision(s, 0.0, 0.0, 0.9, False) for s in scores[start : start + 100]], group=group)
    return path


def invoke(*arguments: object) -> str:
    """Run in this process; an expected error is raised."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, DRIFT), done.output
    return done.stdout


def test_threshold_from_a_log(file: Path, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    shown = invoke("threshold", file, "--benign", log, "--max-refused", "1%", "--out", out)
    assert "at most 1 % of safe requests like these 200 are refused" in shown
    gate = Steering.load(out).gate
    assert gate is not None
    scores = [json.loads(line)["score"] for line in log.read_text().splitlines()]
    assert sum(score > gate.threshold for score in scores) == math.floor(201 * 0.01) - 1
    assert "stated: at most 1 % of safe requests are refused" in invoke("show", out)
    grouped = json.loads(
        invoke("threshold", file, "--benign", log, "--max-refused", "music=2%", "--max-refused", "timers=0.1", "--json",
               "--out", out, "--overwrite")
    )  # fmt: skip
    assert [(rate["group"], rate["n"]) for rate in grouped["stated"]] == [("music", 100), ("timers", 100)]
    assert grouped["threshold"] == max(rate["threshold"] for rate in grouped["stated"])


def test_threshold_from_requests_equals_the_model_s_scores(
    file: Path, embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs, tmp_path: Path
) -> None:
    manifest, items, rows = tmp_path / "mine.jsonl", test_pairs[:12].safe, []
    clips = tmp_path / "clips"
    clips.mkdir()
    for item in items:
        name = shutil.copy(item.audio, clips)
        rows.append({"id": item.id, "audio": Path(name).name, "question": item.question, "label": "safe"})
    manifest.write_text("\n".join(map(json.dumps, rows)))
    result = json.loads(
        invoke("threshold", file, "--benign", manifest, "--max-refused", "10%", "--no-limit", "--device", "cpu",
               "--audio-root", clips, "--out", tmp_path / "out.safetensors", "--json")
    )  # fmt: skip
    steering = Steering.load(file)
    assert steering.gate is not None
    turns = [item.turn(steering.metadata["instruction"]) for item in items]
    assert result["threshold"] == pytest.approx(
        float(steering.gate.score(embedded.last_token_activations(turns)).max()), abs=1e-3
    )


def test_wrong_arguments(file: Path, log: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(log.read_text().splitlines(keepends=True)[:50]))
    says = "50 safe requests are too few to state a rate of 0.01: it takes at least 99"
    refused("threshold", file, "--benign", few, says=says)
    for arguments, message in (
        (("--max-refused", "lots"), "--max-refused lots: write a share between 0 and 1"),
        (("--max-refused", "100%"), "write a share between 0 and 1"),
        (("--max-refused", "1%", "--max-refused", "2%"), "there are two rates for all"),
        (("--max-refused", "news=1%"), "no safe request is in the group 'news'; the groups are music, timers"),
        (("--out", tmp_path), "is a folder; choose a file"),
        (("--out", file), "exists already; pass --overwrite"),
    ):
        with pytest.raises(SarsteerError, match=message):
            invoke("threshold", file, "--benign", log, *arguments)
    harmful = tmp_path / "harmful.jsonl"
    harmful.write_text('{"id": "a", "question": "How do I forge a passport?", "label": "harmful", "modality": "text"}')
    with pytest.raises(SarsteerError, match="1 requests are harmful, such as 'a'; give safe requests only"):
        invoke("threshold", file, "--benign", harmful, "--overwrite")
    bare = Steering.load(file).with_gate(None).save(tmp_path / "bare.safetensors")
    with pytest.raises(SarsteerError, match="has no gate"):
        invoke("drift", bare, log)
    for command, *needed in (("tune", "--out", tmp_path / "tuned.safetensors"), ("layers", "--steering", file)):
        with pytest.raises(SarsteerError, match="--voices needs --pairs sarsteer-pairs: other clips exist already"):
            invoke(command, "sarsteer-tiny", *needed, "--pairs", "sarsteer-tiny", "--voices", "en-us")
    with pytest.raises(SarsteerError, match="no such file"):
        invoke("drift", file, tmp_path / "missing.jsonl")


def test_drift(file: Path, log: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    invoke("threshold", file, "--benign", log, "--out", mine)
    assert "no drift" in invoke("drift", mine, log)
    moved = tmp_path / "moved.jsonl"
    append_decisions(moved, [Decision(s, 1.0, 0.0, None, False) for s in np.linspace(0, 2, 60)])
    done = run("drift", mine, moved)
    assert done.returncode == DRIFT, done.stderr
    assert "above the threshold" in done.stdout
    report = json.loads(invoke("drift", mine, moved, "--json"))
    assert (report["verdict"], report["requests"]) == ("drift", 60)
    assert report["above"]["value"] > 0.5


def test_respond_in_shadow_mode(file: Path, test_pairs: Pairs, embedded: sarsteer.AudioLanguageModel) -> None:
    clip = test_pairs[1].harmful.audio
    done = run("respond", "sarsteer-tiny", "--audio", clip, "--steering", file, "--alpha", "2", "--shadow")
    assert done.returncode == 0, done.stderr
    text = Steering.load(file).metadata["instruction"]
    assert done.stdout.strip() == embedded.generate([sarsteer.user_turn(clip, text)])[0]
    assert "this answer is NOT defended" in " ".join(done.stderr.split())
    assert "would" in done.stderr
    with pytest.raises(SarsteerError, match="--shadow needs the gate"):
        invoke("respond", "sarsteer-tiny", "--audio", clip, "--steering", file, "--shadow", "--no-gate")
    with pytest.raises(SarsteerError, match="need --steering FILE"):
        invoke("respond", "sarsteer-tiny", "--audio", clip, "--shadow")


def test_respond_with_a_fixed_refusal(file: Path, test_pairs: Pairs, embedded: sarsteer.AudioLanguageModel) -> None:
    """The gate decides which requests get the text; the others are answered as without it."""
    steering = Steering.load(file)
    assert steering.gate is not None
    steering = steering.with_gate(steering.gate.with_threshold(-0.5))  # opens for some of the few requests
    file = steering.save(file.with_name("often.safetensors"))
    items = [pair.harmful for pair in test_pairs[:8]] + [pair.safe for pair in test_pairs[:8]]
    with steering.on(embedded, gate=True) as handle:
        answers = embedded.generate([item.turn(steering.metadata["instruction"]) for item in items], 16)
        found = {
            decision.harmful: (item, text)
            for item, text, decision in zip(items, answers, handle.decisions, strict=True)
        }
    assert sorted(found) == [False, True]
    for harmful, (item, text) in found.items():
        request = ("respond", "sarsteer-tiny", "--audio", item.audio, "--steering", file, "--gate", "--device", "cpu")
        shown = json.loads(invoke(*request, "--max-new-tokens", 16, "--refusal", "We do not answer that.", "--json"))
        assert shown["defended"] == ("We do not answer that." if harmful else text)
        assert shown.get("own_words") == (text if harmful else None)
    given = ("respond", "sarsteer-tiny", "--audio", test_pairs[0].harmful.audio)
    bare = steering.with_gate(None).save(file.with_name("bare.safetensors"))
    for arguments, message in (
        (("--refusal", "No."), "--refusal need --steering FILE"),
        (("--refusal", "No.", "--steering", file, "--shadow"), "--refusal needs a gate that steers"),
        (("--refusal", "No.", "--steering", file, "--no-gate"), "--refusal needs a gate that steers"),
        (("--refusal", "No.", "--steering", bare), "--refusal needs a gate that steers, .* add --gate"),
        (("--refusal", " ", "--steering", file), "--refusal is empty"),
    ):
        with pytest.raises(SarsteerError, match=message):
            invoke(*given, *arguments)
