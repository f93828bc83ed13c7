"""A calibration through Flower equals one without it. Flower has an environment of its own: ``make test-flower``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sarsteer.federated.certificate import self_signed
from sarsteer.federated.simulate import keys_for, simulate
from sarsteer.steering.artifact import Steering
from tests.federated.sites import plan_of, rows_of, setting_of, store

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


def test_a_superlink_with_supernodes_over_tls(tmp_path: Path) -> None:
    """The commands of examples/flower: a SuperLink, three SuperNodes and ``flwr run`` in processes of their own."""
    keys = dict(list(KEYS.items())[:3])
    plan = plan_of(keys, min_sites=3, gate=False)  # Flower starts a process for each message: fewer rounds
    plan.save(tmp_path / "plan")
    certificate, private = self_signed("127.0.0.1", tmp_path / "tls")
    ports = _free_ports(4)
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "config.toml").write_text(
        '[superlink]\ndefault = "calibration"\n\n[superlink.calibration]\n'
        f'address = "127.0.0.1:{ports[0]}"\nroot-certificates = "{certificate}"\n'
    )
    processes: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    environment |= {"FLWR_HOME": str(tmp_path / "flwr"), "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"}

    def start(log: str, *command: object) -> None:
        with (tmp_path / log).open("wb") as file:
            processes.append(
                subprocess.Popen(
                    [PYTHON.parent / str(command[0]), *map(str, command[1:])],
                    stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True,
                )
            )  # fmt: skip

    def wait_for(done: Callable[[], bool]) -> None:
        end = time.monotonic() + 900
        while not done():
            logs = {path.name: path.read_text(errors="replace")[-2000:] for path in tmp_path.glob("*.log")}
            assert time.monotonic() < end, logs
            time.sleep(0.5)

    try:
        start(
            "superlink.log", "flower-superlink", "--ssl-ca-certfile", certificate, "--ssl-certfile", certificate,
            "--ssl-keyfile", private, "--host", "127.0.0.1", "--port", ports[0],
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        wait_for(lambda: "running on https" in (tmp_path / "superlink.log").read_text())
        for (name, identity), port in zip(keys.items(), ports[1:], strict=True):
            identity.save(tmp_path / f"{name}.key")
            store(ROWS[name], tmp_path / name / "activations")
            node = f'plan="{tmp_path}/plan" name="{name}" key="{tmp_path}/{name}.key" state="{tmp_path}/{name}"'
            start(
                f"{name}.log", "flower-supernode", "--superlink", f"127.0.0.1:{ports[0]}", "--root-certificates",
                certificate, "--port", port, "--node-config", node,
            )  # fmt: skip
        wait_for(lambda: (tmp_path / "superlink.log").read_text().count("Activated node") == 3)
        settings = f'plan="{tmp_path}/plan" out="{tmp_path}/out.safetensors" wait-seconds=600.0 step-seconds=600.0'
        start(
            "run.log", "flwr", "run", "--stream", ROOT / "examples" / "flower", "calibration", "--run-config", settings
        )
        wait_for(lambda: "wrote " in (tmp_path / "run.log").read_text())
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    expected, _ = simulate(plan, keys, {name: ROWS[name] for name in keys})
    found = Steering.load(tmp_path / "out.safetensors")
    assert found.digest == expected.digest
    assert found.metadata["federated"] == expected.metadata["federated"]


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
