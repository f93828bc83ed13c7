"""Everything that docs/python.md and examples/ show runs as shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sarsteer.data.pairs import Pairs
from sarsteer.tiny.world import REFUSAL

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def python(*arguments: object, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ten_lines(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(import sarsteer\n.*?)```", GUIDE, re.DOTALL)
    assert REFUSAL in python("-c", code, cwd=tmp_path)
    assert (tmp_path / "steering.safetensors").is_file()


def test_the_commands(tmp_path: Path, test_pairs: Pairs) -> None:
    (block,) = re.findall(r"```sh\n(sarsteer calibrate sarsteer-tiny.*?)```", GUIDE, re.DOTALL)
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
