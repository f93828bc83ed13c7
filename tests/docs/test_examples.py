"""Everything that the README and examples/ show runs as shown."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sarsteer.data.pairs import Pairs
from sarsteer.tiny.world import REFUSAL

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python(*arguments: object, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ten_lines(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(import sarsteer\n.*?)```", README, re.DOTALL)
    assert REFUSAL in python("-c", code, cwd=tmp_path)
    assert (tmp_path / "steering.safetensors").is_file()


def test_the_commands(tmp_path: Path, test_pairs: Pairs) -> None:
    (block,) = re.findall(r"```sh\n(sarsteer calibrate sarsteer-tiny.*?)```", README, re.DOTALL)
    (tmp_path / "clip.wav").write_bytes(test_pairs[0].harmful.audio.read_bytes())
    for line in block.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "sarsteer"
        assert python("-m", "sarsteer.cli.main", *arguments, cwd=tmp_path)
    assert (tmp_path / "layers.png").is_file()


@pytest.mark.parametrize("name", ["quickstart.py", "bare_transformers.py"])
def test_examples(tmp_path: Path, name: str) -> None:
    assert REFUSAL in python(ROOT / "examples" / name, cwd=tmp_path)


def test_the_7b_script_on_the_embedded_model(tmp_path: Path, test_pairs: Pairs) -> None:
    script = ROOT / "examples" / "qwen2_audio_7b.py"
    for _ in range(2):  # the second run loads what the first one saved
        told = python(script, "sarsteer-tiny", test_pairs[0].harmful.audio, "--model", "sarsteer-tiny", cwd=tmp_path)
        assert "defended:" in told


@pytest.mark.parametrize(
    ("name", "layers"), [("qwen2-audio", "32 decoder layers of 4096"), ("qwen2.5-omni", "28"), ("voxtral", "30")]
)
def test_the_papers_experiment_up_to_the_weights(tmp_path: Path, name: str, layers: str) -> None:
    data = ("--calibration", "sarsteer-tiny", "--test", "sarsteer-tiny")
    told = python(ROOT / "examples" / "paper_experiment.py", name, *data, "--dry-run", cwd=tmp_path)
    assert "nothing shared" in told
    assert layers in told
    assert {"qwen2-audio": "17 GB", "qwen2.5-omni": "18 GB", "voxtral": "9 GB"}[name] in told
    assert "weights: needed from here on (unknown model" in told


def test_the_papers_experiment_on_the_embedded_model_goes_on(tmp_path: Path) -> None:
    clips = ROOT / "src" / "sarsteer" / "embedded" / "clips"
    for split, pairs in (("calibration", 6), ("test", 4)):
        lines = (clips / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[: 2 * pairs]
        rows = [json.loads(line) for line in lines]
        for row in rows:
            name = row["audio"].replace("/", "-")
            (tmp_path / name).write_bytes((clips / row["audio"]).read_bytes())
            row["audio"] = name
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = (
        "embedded",
        "--calibration",
        "calibration.jsonl",
        "--test",
        "test.jsonl",
        "--k",
        "2",
        "--batch-size",
        "4",
    )
    first = python(ROOT / "examples" / "paper_experiment.py", *options, cwd=tmp_path)
    assert "no defense: RR harmful 0.0 %" in first
    answers = tmp_path / "results" / "SARSteer.jsonl"
    whole = answers.read_text()
    answers.write_text(whole[:-40])  # killed while it wrote
    again = python(ROOT / "examples" / "paper_experiment.py", *options, cwd=tmp_path)
    assert "SARSteer 1/1" in again
    assert [line for line in again.splitlines() if "RR" in line] == [
        line for line in first.splitlines() if "RR" in line
    ]
    shared = python_fails(
        ROOT / "examples" / "paper_experiment.py",
        "embedded",
        "--calibration",
        "test.jsonl",
        "--test",
        "test.jsonl",
        cwd=tmp_path,
    )
    assert "calibration and test share" in shared


def python_fails(*arguments: object, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode != 0
    return done.stderr
