"""The command line in real processes. Every expected error is one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import sarsteer
from sarsteer import Steering
from sarsteer.data.pairs import Pairs


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sarsteer.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def refused(*arguments: object, says: str) -> str:
    """Run, and require one line on standard error, nothing on standard output, and exit code 2."""
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def file(steering: Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steering.save(tmp_path_factory.mktemp("cli") / "steering.safetensors")


@pytest.fixture(scope="module")
def clip(test_pairs: Pairs) -> Path:
    return test_pairs[1].harmful.audio


def test_help_and_version() -> None:
    assert sarsteer.__version__ in run("--version").stdout
    for command in (
        "demo",
        "pairs",
        "speak",
        "calibrate",
        "tune",
        "layers",
        "respond",
        "export",
        "show",
        "report",
        "reproduce",
        "models",
        "doctor",
    ):
        assert command in run("--help").stdout
        assert run(command, "--help").returncode == 0


def test_import_and_help_stay_light() -> None:
    """Neither torch nor transformers is imported before it is needed."""
    code = "import sys, sarsteer, sarsteer.cli.main; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_respond(clip: Path, file: Path, embedded: sarsteer.AudioLanguageModel, steering: Steering) -> None:
    plain = run("respond", "sarsteer-tiny", "--audio", clip)
    assert plain.returncode == 0, plain.stderr
    turn = sarsteer.user_turn(clip, steering.metadata["instruction"])
    assert plain.stdout.strip() == embedded.generate([turn])[0]
    both = run(
        "respond", "sarsteer-tiny", "--audio", clip, "--steering", file, "--alpha", "0.7", "--k", "2", "--undefended",
        "--json",
    )  # fmt: skip
    assert both.returncode == 0, both.stderr
    answer = json.loads(both.stdout)
    with steering.on(embedded, alpha=0.7, k=2):
        assert answer["defended"] == embedded.generate([turn])[0]
    assert answer["undefended"] == plain.stdout.strip()
    assert answer["steering"] == steering.digest
    assert [answer[name] for name in ("alpha", "k", "lambda", "gate")] == [0.7, 2, 1.0, None]
    assert both.stderr == "", "JSON contains the strength"


def test_respond_with_the_gate(
    test_pairs: Pairs, file: Path, embedded: sarsteer.AudioLanguageModel, steering: Steering
) -> None:
    """A request that does not open the gate is answered as without steering, and the decision is printed."""
    assert steering.gate is not None
    text = steering.metadata["instruction"]
    clips = [item.audio for pair in test_pairs[:4] for item in (pair.harmful, pair.safe)]
    scores = steering.gate.score(embedded.last_token_activations([sarsteer.user_turn(clip, text) for clip in clips]))
    clip = clips[int(scores.argmin())]
    done = run(
        "respond", "sarsteer-tiny", "--audio", clip, "--steering", file, "--alpha", "0.5", "--gate", "--undefended",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["gate"]["score"] == pytest.approx(float(scores.min()), abs=1e-3)
    assert answer["gate"]["strength"] == 0.0
    assert answer["defended"] == answer["undefended"]
    elsewhere = run(
        "respond", "sarsteer-tiny", "--audio", clip, "--steering", file, "--gate", "--text", "Transcribe the audio."
    )
    assert "its decisions beside another text may be wrong" in elsewhere.stderr
    assert f"steering: alpha 0.1, k 10, lambda 1, all layers, gate at layer {steering.gate.layer}" in elsewhere.stderr
    assert "gate: " in elsewhere.stderr


def test_show(file: Path, steering: Steering, tmp_path: Path) -> None:
    shown = run("show", file)
    assert shown.returncode == 0
    for word in ("sarsteer-tiny", "I cannot assist with that.", "kept", steering.digest[:16], "AUROC", "<- chosen"):
        assert word in shown.stdout
    picture = tmp_path / "layers.png"
    as_json = run("show", file, "--json", "--alpha", "0.3", "--k", "2", "--plot", picture)
    output = json.loads(as_json.stdout)
    assert len(output["layers"]) == 8
    assert output["layers"][3]["kept"] == pytest.approx(steering.report(0.3, 2)[3].kept)
    assert steering.gate is not None
    assert output["gate"]["threshold"] == steering.gate.threshold
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_doctor() -> None:
    output = json.loads(run("doctor", "sarsteer-tiny", "--json").stdout)
    assert output["model"]["decoder layers"] == 8
    assert output["model"]["steering"].startswith("proven")
    assert output["packages"]["torch"]
    assert "transformers" in run("doctor").stdout


def test_calibrate_writes_what_the_library_computes(tmp_path: Path, calibration_pairs: Pairs) -> None:
    out = tmp_path / "s.safetensors"
    done = run("calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--out", out, "--limit", "8", "--json")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["digest"] == Steering.load(out).digest
    assert output["metadata"]["pairs"] == 8
    assert output["gate"] is None
    assert "8 pairs are too few" in output["metadata"]["no_gate"]
    refused("respond", "sarsteer-tiny", "--text", "Hi.", "--steering", out, "--gate", says="has no gate: 8 pairs")
    assert "none: 8 pairs are too few" in " ".join(run("show", out).stdout.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.safetensors"]
    before = out.read_bytes()
    refused("calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--out", out, says="--overwrite")
    assert out.read_bytes() == before


# ---- errors ----------------------------------------------------------------------------------------------------------


def bad_clips(folder: Path) -> dict[str, tuple[Path, str]]:
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(16_000)
    made = {
        "missing": (folder / "none.wav", "no such file"),
        "empty": (folder / "empty.wav", "is empty"),
        "truncated": (folder / "cut.wav", "truncated"),
        "non-audio": (folder / "text.wav", "not a readable audio file"),
        "silent": (folder / "silent.wav", "silent"),
        "nan": (folder / "nan.wav", "NaN"),
        "zero-length": (folder / "zero.wav", "no samples"),
        "hour-long": (folder / "hour.wav", "at most 30 s"),
        "folder": (folder, "is a folder"),
    }
    made["empty"][0].touch()
    soundfile.write(made["truncated"][0], noise, 16_000)
    made["truncated"][0].write_bytes(made["truncated"][0].read_bytes()[:9_000])
    made["non-audio"][0].write_text("words " * 100)
    soundfile.write(made["silent"][0], np.zeros(16_000), 16_000)
    soundfile.write(made["nan"][0], np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(made["zero-length"][0], np.zeros(0), 16_000)
    soundfile.write(made["hour-long"][0], np.tile([0.1, -0.1], 8_000 * 1_800), 8_000, subtype="PCM_U8")
    return made


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty", "truncated", "non-audio", "silent", "nan", "zero-length", "hour-long", "folder"],
)
def test_bad_clips(tmp_path: Path, kind: str) -> None:
    path, says = bad_clips(tmp_path)[kind]
    line = refused("respond", "sarsteer-tiny", "--audio", path, says=says)
    assert str(path) in line


def test_unusual_clips_are_answered(tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((8_000, 2))
    path = tmp_path / "stereo-8-bit.mp3"  # a WAV by another name, too
    soundfile.write(path, noise, 8_000, format="WAV", subtype="PCM_U8")
    assert run("respond", "sarsteer-tiny", "--audio", path).returncode == 0


def manifest(folder: Path, *rows: object) -> Path:
    soundfile.write(folder / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def item(name: str, label: str, **more: object) -> dict[str, object]:
    return {"id": name, "audio": "a.wav", "question": "q", "label": label, "pair": "p", **more}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (("{broken",), "line 1: is not valid JSON"),
        ((item("h", "harmful"), item("s", "safe", audio="none.wav")), "line 2: audio 'none.wav' is missing"),
        ((item("h", "harmful"), item("s", "safe", audio="../a.wav")), "outside the manifest's folder"),
        ((item("h", "harmful"),), "'h' has no safe twin"),
        ((item("h", "harmful"), item("s", "safe")), "too few"),
    ],
)
def test_bad_manifests(tmp_path: Path, rows: tuple[object, ...], says: str) -> None:
    out = tmp_path / "out.safetensors"
    refused("calibrate", "sarsteer-tiny", "--pairs", manifest(tmp_path, *rows), "--out", out, says=says)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".out", "out"))], "a partial file was left behind"


def test_a_bad_clip_in_a_manifest_is_named_by_its_item(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        *(item(f"{label}{i}", label, pair=str(i)) for i in range(2) for label in ("harmful", "safe")),
        item("harmful9", "harmful", audio="text.wav", pair="9"),
        item("safe9", "safe", pair="9"),
    )
    (tmp_path / "text.wav").write_text("words")
    out = tmp_path / "out.safetensors"
    refused("calibrate", "sarsteer-tiny", "--pairs", path, "--out", out, says="item 'harmful9'")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--alpha", "nan"), "alpha must be a finite number"),
        (("--alpha", "inf"), "alpha must be a finite number"),
        (("--lambda", "nan"), "lambda must be a finite number"),
        (("--k", "999"), "above the rank"),
    ],
)
def test_bad_strengths(clip: Path, file: Path, options: tuple[str, ...], says: str) -> None:
    refused("respond", "sarsteer-tiny", "--audio", clip, "--steering", file, *options, says=says)


def test_strengths_without_steering_are_refused(clip: Path) -> None:
    refused("respond", "sarsteer-tiny", "--audio", clip, "--alpha", "0.1", says="need --steering")


def test_bad_gates(clip: Path, tmp_path: Path) -> None:
    refused("respond", "sarsteer-tiny", "--audio", clip, "--gate", says="need --steering")
    for rate in ("0", "1", "nan"):
        refused(
            "calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--out", tmp_path / "s", "--target-fpr", rate,
            says="--target-fpr must be above 0",
        )  # fmt: skip


def test_an_artifact_of_another_model(tmp_path: Path, clip: Path) -> None:
    from tests.steering.test_artifact import small_steering
    from tests.support.tiny import tiny_qwen2_audio

    other = small_steering(tiny_qwen2_audio(seed=0)).save(tmp_path / "other.safetensors")
    refused("respond", "sarsteer-tiny", "--audio", clip, "--steering", other, says="calibrate this model")


@pytest.mark.parametrize("command", ["respond", "show"])
def test_damaged_artifacts(tmp_path: Path, clip: Path, file: Path, command: str) -> None:
    cut, words = tmp_path / "cut.safetensors", tmp_path / "words.safetensors"
    cut.write_bytes(file.read_bytes()[:2_000])
    words.write_text("words " * 50)
    for path, says in ((cut, "truncated"), (words, "not a safetensors"), (tmp_path / "none", "no such steering file")):
        given = (
            ("show", path) if command == "show" else ("respond", "sarsteer-tiny", "--audio", clip, "--steering", path)
        )
        refused(*given, says=says)


def test_unknown_models(clip: Path, tmp_path: Path) -> None:
    refused("respond", "no-such-model", "--audio", clip, says="unknown model 'no-such-model'")
    refused("doctor", tmp_path, says="config.json")


def test_bad_output_paths(tmp_path: Path, file: Path) -> None:
    nowhere = tmp_path / "none" / "out.safetensors"
    refused("calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--out", nowhere, says="existing folder")
    refused("demo", "--report", tmp_path / "none" / "r.html", says="existing folder")
    refused("show", file, "--plot", tmp_path / "picture.xyz", says=".png, .svg or .pdf")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("--debug", "show", tmp_path / "none.safetensors")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("arguments", [("nonsense",), ("respond",), ("respond", "sarsteer-tiny", "--alpha", "x")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_not_an_error(file: Path) -> None:
    command = f"{sys.executable} -m sarsteer.cli.main show {file} --json | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
