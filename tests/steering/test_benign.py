"""Calibration with safe requests that have no twin: what they change, what they leave alone, and the record of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sarsteer
from sarsteer import AudioLanguageModel, Steering, tiny
from sarsteer.data.manifest import Item
from sarsteer.data.pairs import Pairs, load_benign
from sarsteer.errors import CalibrationError
from tests.cli.test_cli import refused, run


@pytest.fixture(scope="module")
def everyday() -> list[Item]:
    return load_benign(tiny.clips_manifest("everyday"), limit=10)


@pytest.fixture(scope="module")
def with_benign(embedded: AudioLanguageModel, calibration_pairs: Pairs, everyday: list[Item]) -> Steering:
    return sarsteer.calibrate(embedded, calibration_pairs[:24], benign=everyday, batch_size=8)


def test_benign_requests_teach_the_gate_and_leave_the_vectors_alone(
    steering: Steering, with_benign: Steering, everyday: list[Item]
) -> None:
    for name in ("refusal", "safe_basis", "singular_values", "safe_mean", "harmful_mean", "activation_norms"):
        assert torch.equal(getattr(steering, name), getattr(with_benign, name)), name
    assert steering.metadata["benign"] == 0
    assert with_benign.metadata["benign"] == len(everyday) == 10
    assert with_benign.gate is not None
    assert steering.gate is not None
    assert len(with_benign.gate.metadata["held_out"]["safe"]) == 24 + 10
    assert not torch.equal(with_benign.gate.weight, steering.gate.weight)
    assert with_benign.metadata["made_from"]["groups"] == {"harmful": 24, "twin": 24, "benign": 10}


def test_a_request_that_is_calibrated_on_twice_is_held_out_as_one(
    embedded: AudioLanguageModel, calibration_pairs: Pairs, with_benign: Steering
) -> None:
    pairs = calibration_pairs[:24]
    twin = pairs[0].safe
    twice = sarsteer.calibrate(embedded, Pairs([*pairs, *pairs]), benign=[twin], batch_size=16)
    assert twice.gate is not None
    assert with_benign.gate is not None
    numbers = [*range(24)]
    assert twice.gate.metadata["held_out"]["requests"] == {"harmful": numbers * 2, "safe": [*numbers * 2, 0]}
    assert twice.gate.stated[0].n == 24
    # copies are no new evidence: the same folds give nearly the scores of one copy
    assert twice.gate.metadata["auroc"] == pytest.approx(with_benign.gate.metadata["auroc"], abs=0.1)


def test_a_run_stopped_among_the_benign_requests_resumes_to_the_same_bits(
    embedded: AudioLanguageModel, calibration_pairs: Pairs, everyday: list[Item], with_benign: Steering, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "s.partial"

    def stop(done: int, total: int) -> None:
        assert total == 24 + 10
        if done > 24 + 4:
            raise KeyboardInterrupt

    pairs = calibration_pairs[:24]
    with pytest.raises(KeyboardInterrupt):
        sarsteer.calibrate(embedded, pairs, benign=everyday, batch_size=8, checkpoint=checkpoint, progress=stop)
    with pytest.raises(CalibrationError, match="another benign_digest"):
        sarsteer.calibrate(embedded, pairs, benign=everyday[1:], batch_size=8, checkpoint=checkpoint)
    seen: list[int] = []
    again = sarsteer.calibrate(
        embedded, pairs, benign=everyday, batch_size=8, checkpoint=checkpoint,
        progress=lambda done, _: seen.append(done),
    )  # fmt: skip
    assert seen[0] >= 24
    assert again.digest == with_benign.digest


def test_a_harmful_benign_request_is_named(embedded: AudioLanguageModel, calibration_pairs: Pairs) -> None:
    harmful = calibration_pairs[0].harmful
    with pytest.raises(CalibrationError, match=f"benign item {harmful.id!r}: is harmful"):
        sarsteer.calibrate(embedded, calibration_pairs[:4], benign=[harmful])


def test_the_built_in_set_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "s.safetensors"
    command = ("calibrate", "sarsteer-tiny", "--pairs", "sarsteer-pairs", "--out", out, "--limit", "6")
    done = run(*command, "--voices", "en-us,en-us+f2")
    assert done.returncode == 0, done.stderr
    assert "6 pairs, 6 benign requests" in " ".join(done.stdout.split())
    assert len(list((tmp_path / "cache").rglob("*.wav"))) == 18  # no more than is used
    record = Steering.load(out).metadata["made_from"]
    assert record["sources"] == {"pairs": "sarsteer-pairs", "benign": "sarsteer-pairs"}
    assert record["sets"] == {"sarsteer-pairs 1": 18}
    assert set(record["voices"]) == {"en-us", "en-us+f2"}
    assert sum(record["groups"].values()) == 18
    shown = " ".join(run("show", out).stdout.split())
    assert "made from sarsteer-pairs 1: " in shown
    assert "6 benign requests" in shown
    refused(*command, "--overwrite", "--voices", "klingon", says="espeak-ng has no voice 'klingon'")
    refused(
        "calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--out", tmp_path / "t", "--voices", "en-us",
        says="--voices needs --pairs sarsteer-pairs",
    )  # fmt: skip
    refused(
        "calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny", "--benign", "nothing.jsonl", "--out", tmp_path / "t",
        says="nothing.jsonl: no such manifest",
    )  # fmt: skip
