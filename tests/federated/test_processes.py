"""Real processes over TLS on loopback: killed sites, a killed server, wrong certificates, and the commands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import sarsteer
from sarsteer.federated.certificate import self_signed
from sarsteer.federated.client import join
from sarsteer.federated.errors import FederationError
from sarsteer.federated.identity import Identity
from sarsteer.federated.plan import Plan
from sarsteer.federated.simulate import keys_for
from sarsteer.federated.site import Site
from sarsteer.steering.artifact import Steering
from sarsteer.steering.pooled.artifact import pool
from tests.federated.sites import joined, plan_of, rows_of

KEYS = keys_for(4)
NAMES = list(KEYS)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path]), "OMP_NUM_THREADS": "1"}


class Process:
    """A process whose output is read as it comes."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self.lines.append("<end>")
            self._changed.notify_all()

    def wait_for(self, pattern: str) -> str:
        """The first line that matches."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() or "<end>" in self.lines, 240), self.lines
            match = found()
        assert match is not None, self.lines
        return match.group(match.lastindex or 0)

    def end(self) -> int:
        status = self.process.wait(240)
        self._reader.join()
        return status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan_of(KEYS, min_sites=3).save(tmp_path / "plan")
    for name, identity in KEYS.items():
        identity.save(tmp_path / f"{name}.key")
    return tmp_path


def server(folder: Path, port: int = 0) -> tuple[Process, str]:
    process = Process(
        "sarsteer", "federate", "serve", folder / "plan", "--out", folder / "out.safetensors",
        "--state", folder / "server", "--port", port, "--step-seconds", "6", "--wait", "200",
    )  # fmt: skip
    return process, process.wait_for(r"serving (https://[^,]+),")


def site(folder: Path, url: str, index: int, *step: str) -> Process:
    name = NAMES[index]
    return Process(
        "tests.federated.site_process", url, folder / "plan", name, folder / f"{name}.key",
        folder / "server" / "certificate.pem", folder / name, index, *step,
    )  # fmt: skip


def test_a_site_killed_midway_and_a_server_killed_between_rounds(folder: Path) -> None:
    """One site dies after it shared its keys, so that its masks must be removed; the result is that of the others."""
    hub, url = server(folder)
    sites = [site(folder, url, index, *(["input"] if index == 1 else [])) for index in range(4)]
    hub.wait_for(r"round 1 of 5.*3 sites")
    assert hub.lines, "the server reports"
    assert any("left: did not answer in time" in line for line in hub.lines)
    hub.process.send_signal(signal.SIGKILL)
    hub.end()
    assert not (folder / "out.safetensors").exists()
    again, _ = server(folder, int(url.rpartition(":")[2]))  # the sites have waited
    assert sites[1].end() == -signal.SIGKILL
    for index in (0, 2, 3):
        assert sites[index].end() == 0, sites[index].lines
        assert f"sites {NAMES[0]} {NAMES[2]} {NAMES[3]}" in sites[index].lines
        assert "round 5 of 5 is done" in sites[index].lines
    assert again.end() == 0, again.lines
    steering = Steering.load(folder / "out.safetensors")
    plan = Plan.load(folder / "plan")
    rest = pool(plan.setting, [joined(*(rows_of(40, 10, index) for index in (0, 2, 3)))])
    torch.testing.assert_close(steering.refusal, rest.tensors["refusal"], rtol=1e-6, atol=1e-6)  # fixed point
    assert (steering.gate is None) == (rest.gate is None)
    assert steering.metadata["pairs"] == 120
    assert steering.metadata["federated"]["rounds"][0]["left_out"] == {NAMES[1]: "did not answer in time"}
    # between processes nothing is left running, and a second site of a name that has joined was refused
    shown = Process("sarsteer", "show", folder / "out.safetensors")
    assert shown.end() == 0
    assert any("3 sites" in line and "masked" in line for line in shown.lines)


def test_a_wrong_certificate_a_stranger_and_a_second_process_are_refused(folder: Path) -> None:
    hub, url = server(folder)
    other = self_signed("127.0.0.1", folder / "other")[0]
    name, plan = NAMES[0], Plan.load(folder / "plan")
    mine = Site(name, KEYS[name], plan, rows_of(5))
    good = folder / "server" / "certificate.pem"
    with pytest.raises(FederationError, match="another certificate than expected"):
        join(url, mine, KEYS[name], ca=other)
    with pytest.raises(FederationError, match="another certificate than expected"):
        join(url, mine, KEYS[name])  # the system's authorities do not know it
    with pytest.raises(FederationError, match="its key is another"):
        join(url, mine, Identity.new(), ca=good)
    with pytest.raises(FederationError, match="must begin with https"):
        join(url.replace("https", "http"), mine, KEYS[name], ca=good)
    with pytest.raises(FederationError, match="cannot be reached"):
        join("https://127.0.0.1:9", mine, KEYS[name], ca=good, patience=0)
    with pytest.raises(FederationError, match="is not a certificate"):
        join(url, mine, KEYS[name], ca=folder / "plan")
    first = site(folder, url, 0)
    first.wait_for("joined https")
    with pytest.raises(FederationError, match="has joined already"):
        join(url, mine, KEYS[name], ca=good)
    with pytest.raises(FederationError, match="another plan"):
        join(url, Site(name, KEYS[name], plan_of(KEYS, gate=False), rows_of(5)), KEYS[name], ca=good)
    hub.process.send_signal(signal.SIGINT)
    assert hub.end() != 0
    first.process.kill()
    first.end()


@pytest.mark.slow
def test_the_commands_with_a_model(tmp_path: Path) -> None:
    """``key``, ``plan``, ``serve`` and ``join`` as a user runs them; three sites with the same pairs."""
    from tests.cli.command import refused, run  # in this process: the model's imports are paid once

    publics = {}
    for name in "abc":
        made = run("federate", "key", str(tmp_path / name))
        publics[name] = made.out.strip()
    refused("federate", "key", tmp_path / "a", says="exists already")
    streamed = run(
        "calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--limit", 4, "--stream", "--no-check", "--out",
        tmp_path / "streamed",
    )  # fmt: skip
    assert streamed.status == 0, streamed.err
    assert not (tmp_path / "streamed.activations").exists()
    refused(
        "calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--rank", 4, "--out", tmp_path / "x",
        says="--rank needs --stream",
    )  # fmt: skip
    plan = tmp_path / "plan"
    named = [part for name, public in publics.items() for part in ("--site", f"{name}={public}")]
    made = run("federate", "plan", "sarsteer-tiny", *named, "--out", str(plan), "--no-gate", "--rank", "8")
    assert made.status == 0, made.err
    assert "3 sites, at least 3" in " ".join(made.out.split())
    hub = Process(
        "sarsteer", "federate", "serve", plan, "--out", tmp_path / "out", "--state", tmp_path / "server", "--port", 0,
    )  # fmt: skip
    url = hub.wait_for(r"serving (https://[^,]+),")
    sites = [
        Process(
            "sarsteer", "federate", "join", url, "sarsteer-tiny", "--plan", plan, "--name", name, "--key",
            tmp_path / name, "--pairs", "sarsteer-tiny", "--limit", 4, "--state", tmp_path / f"state-{name}",
            "--ca", tmp_path / "server" / "certificate.pem",
        )
        for name in "abc"
    ]  # fmt: skip
    assert hub.end() == 0, hub.lines
    assert all(one.end() == 0 for one in sites), [one.lines for one in sites]
    steering = Steering.load(tmp_path / "out")
    pairs = sarsteer.load_pairs("sarsteer-tiny", limit=4)
    model = sarsteer.load_model("sarsteer-tiny", device="cpu")
    expected = sarsteer.calibrate(model, pairs, target_fpr=None)
    scale = float(expected.refusal.abs().max())
    torch.testing.assert_close(steering.refusal, expected.refusal, rtol=0, atol=1e-4 * scale)  # other batch sizes
    assert steering.metadata["pairs"] == 12
    ours = Steering.load(tmp_path / "streamed").refusal
    torch.testing.assert_close(ours, expected.refusal, rtol=0, atol=1e-5 * scale)  # sums in another order
    steering.attach(model).remove()  # the fingerprint is the model's
