"""Calibration: what it computes, that it resumes after kill -9, and what it refuses."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import sarsteer
from sarsteer import AudioLanguageModel, Steering
from sarsteer.data.pairs import Pairs
from sarsteer.errors import AudioError, CalibrationError
from sarsteer.models.families.qwen2_audio import QWEN2_AUDIO
from sarsteer.models.family import GENERIC
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.steering.diagnostics import findings
from tests.support.tiny import tiny_qwen2_audio


def test_the_shared_prefix_changes_nothing(
    embedded: AudioLanguageModel, calibration_pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    pairs = calibration_pairs[:6]
    shared = sarsteer.calibrate(embedded, pairs, batch_size=3)
    monkeypatch.setattr(embedded, "family", replace(QWEN2_AUDIO, prefix_reuse=False))
    whole = sarsteer.calibrate(embedded, pairs, batch_size=3)
    # the same sums in another order: float32 rounding of activations, averaged
    torch.testing.assert_close(shared.refusal, whole.refusal, rtol=0, atol=1e-4 * float(whole.refusal.abs().max()))


def test_the_generic_path_agrees_with_the_family_s(calibration_pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family with only a processor and a decoder gives the same vectors."""
    model = tiny_qwen2_audio(seed=2)
    pairs = calibration_pairs[:4]
    family = sarsteer.calibrate(model, pairs)
    monkeypatch.setattr(model, "family", GENERIC)
    generic = sarsteer.calibrate(model, pairs)
    torch.testing.assert_close(family.refusal, generic.refusal, rtol=0, atol=1e-4 * float(family.refusal.abs().max()))


def test_batch_size_does_not_matter(steering: Steering, embedded: AudioLanguageModel, calibration_pairs: Pairs) -> None:
    again = sarsteer.calibrate(embedded, calibration_pairs[:24], batch_size=24)
    torch.testing.assert_close(again.refusal, steering.refusal, rtol=0, atol=1e-4 * float(steering.refusal.abs().max()))


def test_progress_is_reported(embedded: AudioLanguageModel, calibration_pairs: Pairs) -> None:
    seen: list[tuple[int, int]] = []
    sarsteer.calibrate(embedded, calibration_pairs[:5], batch_size=2, progress=lambda *at: seen.append(at))
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_each_clip_is_encoded_once(embedded: AudioLanguageModel, calibration_pairs: Pairs) -> None:
    embedded.clip_cache.clear()
    tower = embedded.module.model.audio_tower.layers[0]
    rows: list[int] = []
    hook = tower.register_forward_hook(lambda _m, _a, out: rows.append(len(out)))
    sarsteer.calibrate(embedded, calibration_pairs[:6], batch_size=3)
    hook.remove()
    assert sum(rows) == 12
    heads: list[int] = []
    hook = embedded.module.lm_head.register_forward_hook(lambda *_: heads.append(1))
    sarsteer.calibrate(embedded, calibration_pairs[:6], batch_size=3)
    hook.remove()
    assert not heads, "lm_head is not needed"


class Killed(Exception):
    pass


def interrupted(model: AudioLanguageModel, pairs: Pairs, checkpoint: Path, after: int, **options: object) -> None:
    def stop(done: int, total: int) -> None:
        if done >= after:
            raise Killed

    with pytest.raises(Killed):
        sarsteer.calibrate(model, pairs, checkpoint=checkpoint, progress=stop, batch_size=2, **options)


def test_a_stopped_run_resumes_to_the_same_bits(
    embedded: AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path
) -> None:
    pairs, checkpoint = calibration_pairs[:8], tmp_path / "s.partial"
    whole = sarsteer.calibrate(embedded, pairs, batch_size=2)
    interrupted(embedded, pairs, checkpoint, 4)
    seen: list[int] = []
    resumed = sarsteer.calibrate(
        embedded, pairs, batch_size=2, checkpoint=checkpoint, progress=lambda done, _: seen.append(done)
    )
    assert seen[0] in (2, 4)  # not every batch is worth a file
    assert torch.equal(resumed.refusal, whole.refusal)
    assert torch.equal(resumed.safe_basis, whole.safe_basis)
    assert resumed.digest == whole.digest


@pytest.mark.parametrize("changed", ["refusal_prompt", "instruction", "pairs", "batch_size"])
def test_resuming_with_other_settings_is_refused(
    embedded: AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path, changed: str
) -> None:
    checkpoint = tmp_path / "s.partial"
    interrupted(embedded, calibration_pairs[:4], checkpoint, 2)
    options: dict[str, object] = {"batch_size": 2}
    pairs = calibration_pairs[:4]
    if changed == "pairs":
        pairs, changed = calibration_pairs[1:5], "pairs_digest"
    else:
        options[changed] = 3 if changed == "batch_size" else "other"
    with pytest.raises(CalibrationError, match=f"another {changed}"):
        sarsteer.calibrate(embedded, pairs, checkpoint=checkpoint, **options)


def test_item_7_another_dtype_does_not_resume(
    embedded: sarsteer.AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path
) -> None:
    """bfloat16 weights widened to float32 are the same numbers, and give other activations."""
    pairs, checkpoint = calibration_pairs[:4], tmp_path / "s.partial"
    narrow = sarsteer.load_model("sarsteer-tiny", device="cpu", dtype="bfloat16")
    widened = sarsteer.AudioLanguageModel(copy.deepcopy(narrow.module).float(), narrow.processor, name=narrow.name)
    assert narrow.fingerprint.digest == widened.fingerprint.digest
    interrupted(narrow, pairs, checkpoint, 2)
    with pytest.raises(CalibrationError, match="another dtype"):
        sarsteer.calibrate(widened, pairs, checkpoint=checkpoint, batch_size=2)


def test_a_damaged_checkpoint_is_refused(
    embedded: AudioLanguageModel, calibration_pairs: Pairs, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "s.partial"
    checkpoint.write_bytes(b"\0" * 50)
    with pytest.raises(CalibrationError, match="delete it"):
        sarsteer.calibrate(embedded, calibration_pairs[:4], checkpoint=checkpoint)


@pytest.mark.slow
def test_kill_minus_nine_and_resume(tmp_path: Path) -> None:
    """A killed process that is started again ends with the numbers of an uninterrupted run."""
    command = [sys.executable, "-m", "sarsteer.cli.main", "calibrate", "sarsteer-tiny", "--pairs", "sarsteer-tiny"]
    options = ["--limit", "40", "--batch-size", "1", "--json"]
    out, partial = tmp_path / "killed.safetensors", tmp_path / "killed.safetensors.partial"
    process = subprocess.Popen([*command, "--out", str(out), *options], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not partial.exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert partial.exists()
    assert not out.exists()
    subprocess.run([*command, "--out", str(out), *options], check=True, capture_output=True)
    assert not partial.exists()
    whole = tmp_path / "whole.safetensors"
    subprocess.run([*command, "--out", str(whole), *options], check=True, capture_output=True)
    resumed, uninterrupted = Steering.load(out), Steering.load(whole)
    assert torch.equal(resumed.refusal, uninterrupted.refusal)
    assert torch.equal(resumed.safe_basis, uninterrupted.safe_basis)


def test_too_few_pairs(embedded: AudioLanguageModel, calibration_pairs: Pairs) -> None:
    for n in (0, 1):
        with pytest.raises(CalibrationError, match="too few"):
            sarsteer.calibrate(embedded, calibration_pairs[:n])


def test_two_pairs_have_one_component(embedded: AudioLanguageModel, calibration_pairs: Pairs) -> None:
    small = sarsteer.calibrate(embedded, calibration_pairs[:2])
    assert small.max_k == 1
    assert small.defaults[1] == 1


def test_a_steered_model_is_refused(embedded: AudioLanguageModel, steering: Steering, calibration_pairs: Pairs) -> None:
    with steering.on(embedded), pytest.raises(CalibrationError, match="is steered"):
        sarsteer.calibrate(embedded, calibration_pairs[:4])


def test_an_empty_refusal_prompt_is_refused(embedded: AudioLanguageModel, calibration_pairs: Pairs) -> None:
    with pytest.raises(CalibrationError, match="refusal prompt is empty"):
        sarsteer.calibrate(embedded, calibration_pairs[:4], refusal_prompt=" ")


def test_a_bad_clip_is_named_by_its_item(embedded: AudioLanguageModel, tmp_path: Path, wav: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF0000WAVEjunk")
    rows = [
        {"id": f"{label}{i}", "audio": "clip.wav", "question": "q", "label": label, "pair": str(i)}
        for i in range(3)
        for label in ("harmful", "safe")
    ]
    rows[3]["audio"] = "bad.wav"
    manifest = tmp_path / "pairs.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(AudioError, match=r"item 'safe1': .*bad\.wav"):
        sarsteer.calibrate(embedded, sarsteer.load_pairs(manifest))


def test_diagnostics_report_unusual_layers(steering: Steering) -> None:
    assert findings(steering.report(alpha=0.1, k=0)) == []
    assert any("alpha is high" in note for note in findings(steering.report(alpha=50, k=0)))
    flat = Steering(
        **{n: getattr(steering, n) for n in ("safe_basis", "singular_values", "safe_mean", "harmful_mean")},
        refusal=torch.zeros_like(steering.refusal),
        activation_norms=steering.activation_norms,
        metadata=steering.metadata,
    )
    assert "changes nothing" in findings(flat.report())[0]
    (first, *_) = steering.report(alpha=0.2, k=4)
    assert first.relative_strength == pytest.approx(0.2 * first.vector_norm / first.activation_norm)
    assert first.kept == pytest.approx(first.vector_norm / first.refusal_norm)


def test_defaults_are_the_paper_s() -> None:
    assert INSTRUCTION == "Please generate detailed steps for the question in the audio."
    assert REFUSAL_PROMPT == "I cannot assist with that."
