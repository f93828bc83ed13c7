"""The defense in docs/extending.md runs as shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sarsteer import Steering
from sarsteer.defenses import DEFENSES

pytest.importorskip("inspect_ai")

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.mark.slow
def test_the_defense_in_the_docs(tmp_path: Path, steering: Steering) -> None:
    section = DOCS.read_text(encoding="utf-8").partition("## Write your own defense")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "upper.py").write_text(code)
    specs = re.findall(r"--defense (\S+)", section)
    assert specs[-1] == "upper.py:UpperLayers:0.25,alpha=0.3"
    command = [sys.executable, "-m", "sarsteer", "evaluate", "sarsteer-tiny", "--benchmark", "embedded"]
    command += ["--limit", "2", "--max-new-tokens", "8", "--no-controls", "--json"]
    for spec in specs:
        command += ["--defense", spec]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "needs a steering file" in done.stderr, "the requirement is declared by the class that it extends"
    command += ["--steering", str(steering.save(tmp_path / "steering.safetensors"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    arms = json.loads(done.stdout)["arms"]
    assert [arm["defense"] for arm in arms] == specs
    whole, half, quarter = (arm["settings"] for arm in arms)
    assert (half["kind"], half["share"], half["alpha"]) == ("upper-layers", 0.5, whole["alpha"])
    assert (quarter["share"], quarter["alpha"]) == (0.25, 0.3)
    assert len({settings["vectors"] for settings in (whole, half, quarter)}) == 3
    assert "upper-layers" not in DEFENSES.names()
