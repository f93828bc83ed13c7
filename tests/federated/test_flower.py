"""A calibration through Flower equals one without it. Flower has an environment of its own: ``make test-flower``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sarsteer.federated.simulate import keys_for, simulate
from sarsteer.steering.artifact import Steering
from tests.federated.sites import plan_of, rows_of, setting_of

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("SARSTEER_FLOWER_PYTHON", ROOT / ".venv-flower" / "bin" / "python"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} does not exist; run make test-flower"),
]
KEYS = keys_for(4)
ROWS = {name: rows_of(40, 10, number) for number, name in enumerate(KEYS)}


@pytest.mark.parametrize("lost", [None, list(KEYS)[2]])
def test_flower_gives_the_same_steering_file(tmp_path: Path, lost: str | None) -> None:
    """Bit for bit: with the sums of all sites, and with a site that fails after its first sum."""
    plan = plan_of(KEYS, setting_of(target_fpr=0.1), min_sites=3)  # three sites have too few clips for 5 %
    plan.save(tmp_path / "plan")
    for name, identity in KEYS.items():
        identity.save(tmp_path / f"{name}.key")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    environment |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(tmp_path / "flwr"), "RAY_DISABLE_DASHBOARD": "1"}
    command = [str(PYTHON), "-m", "tests.federated.flower_run", str(tmp_path), *([lost] if lost else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900)
    assert (tmp_path / "out.safetensors").is_file(), done.stdout[-2000:] + done.stderr[-4000:]
    found = Steering.load(tmp_path / "out.safetensors")
    rounds = {"keys": 0}

    def fails(name: str, step: str) -> bool:
        if name != lost:
            return False
        rounds["keys"] += step == "keys"
        return rounds["keys"] > 1

    expected, _ = simulate(plan, KEYS, ROWS, lost=fails)
    assert found.gate is not None
    assert found.digest == expected.digest
    assert found.metadata["federated"] == expected.metadata["federated"]
