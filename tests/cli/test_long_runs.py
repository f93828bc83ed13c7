"""Commands that run for hours: two at once, Ctrl-C, no space, and progress without a terminal."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sarsteer import AudioLanguageModel, calibrate
from sarsteer.cli import output
from sarsteer.data.pairs import Pairs
from sarsteer.errors import SarsteerError
from sarsteer.files import exclusive
from sarsteer.steering.checkpoint import CalibrationState, save_state
from tests.cli.command import refused, run

HOLD = "import sys, time; from pathlib import Path; from sarsteer.files import exclusive\n"
HOLD += "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
CALIBRATE = ("calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--device", "cpu")


def test_two_runs_with_the_same_output(tmp_path: Path) -> None:
    """The second is refused, in another process too; a lock of a killed process holds nobody up."""
    out = tmp_path / "s.safetensors"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    refused(*CALIBRATE, "--limit", "2", "--out", out, says="another run is writing it; wait for that run")
    holder.kill()
    holder.wait()
    with exclusive(out):
        assert list(tmp_path.iterdir()) == [tmp_path / ".s.safetensors.lock"]
    assert not list(tmp_path.iterdir())
    folder = tmp_path / "results"
    with exclusive(folder):
        refused("evaluate", "sarsteer-tiny", "--benchmark", "embedded", "--limit", "1", "--out", folder,
                says="another run is writing it")  # fmt: skip


def test_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    command = [sys.executable, "-m", "sarsteer", *CALIBRATE, "--batch-size", "1", "--out", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore Ctrl-C
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "s.safetensors.partial").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, line = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert line == "stopped; run the same command again to resume\n"
    done = run(*CALIBRATE, "--limit", "2", "--batch-size", "1", "--out", out)
    assert "is from a run with another pairs_digest" in done.err, "its progress was saved"


def test_a_disk_that_is_too_full_is_found_before_the_work(
    embedded: AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    seen: list[int] = []
    with pytest.raises(SarsteerError, match=r"needs 0.00 GiB, and 0.00 GiB are free; delete files"):
        calibrate(
            embedded, calibration_pairs[:2], checkpoint=tmp_path / "p", progress=lambda done, _: seen.append(done)
        )
    assert not seen


def test_a_disk_that_becomes_full_is_one_line(tmp_path: Path) -> None:
    """The limit on a file's size makes the kernel refuse the write, as a full disk does."""
    state = CalibrationState.empty(4, 0, 4, 1000, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(SarsteerError, match=r"p\.partial: cannot be written \(.*File too large"):
            save_state(tmp_path / "p.partial", state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    save_state(tmp_path / "p.partial", state)
    assert torch.equal(state.harmful, torch.zeros(4, 4, 1000))


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> str:
        with output.progress_bar() as report:
            for done in range(4):
                report("Fitting the gate", done, 3)
        return capsys.readouterr().err

    assert work() == "", "a short run prints nothing"
    monkeypatch.setattr(output, "LINE_EVERY", 0.0)
    assert work().splitlines() == [f"Fitting the gate: {done} of 3" for done in range(4)]
