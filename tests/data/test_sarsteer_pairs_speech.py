"""``sarsteer-pairs`` as speech: voices, the cache, splits and groups, and its use as pairs and as a benchmark."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sarsteer.audio import load_clip
from sarsteer.data import load_benign, load_pairs, load_sarsteer_pairs
from sarsteer.data.benchmarks import load_benchmark
from sarsteer.data.sarsteer_pairs import GROUPS, SPLITS, VOICES
from sarsteer.data.sarsteer_pairs.texts import all_lines
from sarsteer.data.sarsteer_pairs.voices import speakers, turns_of
from sarsteer.errors import BenchmarkError, ManifestError, MissingExtraError, SarsteerError, SpeechError

pytest.importorskip("espeakng_loader")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path))
    return tmp_path


def clips(cache: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in cache.rglob("*.wav")}


def test_every_line_is_in_one_split_and_group() -> None:
    assert Counter(item.group for item in all_lines()) == {
        "harmful": 300, "twin": 300, "contrast": 200, "borderline": 200, "everyday": 400, "other": 100,
    }  # fmt: skip
    topics = {split: {item.extra["topic"] for item in all_lines() if item.extra["split"] == split} for split in SPLITS}
    assert not topics["calibration"] & topics["test"]
    assert not topics["calibration"] & topics["tuning"]
    for split in SPLITS:
        first = [item.group for item in all_lines() if item.extra["split"] == split][:40]
        assert len(set(first)) >= 5  # a limit is a sample of the groups


def test_twins_share_a_voice_and_all_voices_are_used() -> None:
    choice = speakers(None)
    voices: dict[str, set[str]] = {}
    for item in all_lines():
        if item.pair is not None:
            voices.setdefault(item.pair, set()).update(str(speaker) for speaker, _ in turns_of(item, choice))
    assert {len(used) for used in voices.values()} == {1}
    used = Counter(next(iter(names)) for names in voices.values())
    assert set(used) == set(VOICES)
    assert max(used.values()) < 2 * min(used.values())
    assert turns_of(all_lines()[0], choice) == turns_of(all_lines()[0], speakers(VOICES))


def test_clips_are_spoken_once_and_kept(cache: Path) -> None:
    items = load_sarsteer_pairs("tuning", ("harmful", "twin"), voices=["en-us", "en-us+f2"], limit=4)
    assert [item.label for item in items] == ["harmful", "safe"] * 2
    assert {item.extra["voice"] for item in items} <= {"en-us", "en-us+f2"}
    for item in items:
        assert load_clip(item.audio).seconds > 0.8
        assert {"group", "voice", "engine", "style", "topic", "split", "set"} <= set(item.extra)
    kept = clips(cache)
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*.wav")}
    again = load_sarsteer_pairs("tuning", ("harmful", "twin"), voices=["en-us", "en-us+f2"], limit=4)
    assert again == items
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.wav")} == stamps
    other = load_sarsteer_pairs("tuning", ("harmful", "twin"), voices=["en-us+m3"], limit=4)
    assert not {item.media for item in other} & {item.media for item in items}
    assert kept.items() <= clips(cache).items()


def test_two_speakers_have_two_voices(cache: Path) -> None:
    items = load_sarsteer_pairs("test", "other", voices=["en-us", "en-us+f2"])
    two = [item for item in items if item.extra["style"] == "two_speakers"]
    assert two
    assert all(sorted(item.extra["voice"].split(", ")) == ["en-us", "en-us+f2"] for item in two)
    assert all(", " not in item.extra["voice"] for item in items if item not in two)


CODE = "from sarsteer.data import load_sarsteer_pairs; load_sarsteer_pairs('test', 'everyday', limit=40)"


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CODE], stderr=subprocess.PIPE)


def test_a_killed_run_resumes_and_two_may_run_at_once(cache: Path) -> None:
    first = start()
    while len(clips(cache)) < 5:
        assert first.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    partial = clips(cache)
    assert len(partial) < 40
    both = [start(), start()]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    whole = clips(cache)
    assert len(whole) == 40
    assert partial.items() <= whole.items()
    items = load_sarsteer_pairs("test", "everyday", limit=40)
    assert {item.audio.name for item in items} == set(whole)


@pytest.mark.parametrize(
    ("voices", "says"),
    [
        (["en-us", "klingon"], "espeak-ng has no voice 'klingon'"),
        (["piper:missing.onnx"], "piper"),
        (["en-us", "en-us"], "names the voice 'en-us' twice"),
        (["espeak:"], "names no voice"),
        ([], "no voice is named"),
    ],
)
def test_bad_voices_are_one_line_and_nothing_is_spoken(cache: Path, voices: list[str], says: str) -> None:
    with pytest.raises(SpeechError, match=says) as caught:
        load_sarsteer_pairs("test", voices=voices)
    assert "\n" not in str(caught.value)
    assert not clips(cache)


def test_bad_splits_and_groups() -> None:
    with pytest.raises(ManifestError, match="no split 'train'; use one of calibration, tuning, test"):
        load_sarsteer_pairs("train")
    with pytest.raises(ManifestError, match="no group 'benign'; use one of harmful"):
        load_sarsteer_pairs("test", "benign")
    with pytest.raises(BenchmarkError, match="no variant 'benign'"):
        load_benchmark("sarsteer-pairs/benign")
    with pytest.raises(BenchmarkError, match="no split 'train'"):
        load_benchmark("sarsteer-pairs/twin@train")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "file"))
    with pytest.raises(SpeechError, match="SARSTEER_CACHE"):
        load_sarsteer_pairs("test", limit=1)


def test_without_espeak(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"sarsteer\[tts\]"):
        load_sarsteer_pairs("test", limit=1)


def test_as_pairs_and_benign_requests(cache: Path) -> None:
    voices = ["en-us"]
    written = Counter(item.group for item in all_lines() if item.extra["split"] == "tuning")
    pairs = load_pairs("sarsteer-pairs", "tuning", voices=voices)
    assert Counter(item.group for item in pairs.harmful) == {key: written[key] for key in ("harmful", "contrast")}
    assert {(pair.harmful.group, pair.safe.group) for pair in pairs} == {
        ("harmful", "twin"),
        ("contrast", "borderline"),
    }
    benign = load_benign("sarsteer-pairs", "tuning", voices=voices)
    assert Counter(item.group for item in benign) == {key: written[key] for key in ("everyday", "other")}
    with pytest.raises(ManifestError, match="only sarsteer-pairs is spoken in voices"):
        load_pairs("sarsteer-tiny", voices=voices)


def test_benign_requests_must_be_safe() -> None:
    with pytest.raises(ManifestError, match="is harmful; benign requests must be safe"):
        load_benign("sarsteer-tiny", "test")


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_benchmarks(cache: Path, group: str) -> None:
    loaded = load_benchmark(f"sarsteer-pairs/{group}@test:en-us+f5", limit=2)
    assert loaded.name == f"sarsteer-pairs/{group}@test:en-us+f5"
    assert [item.group for item in loaded.items] == [group] * 2
    assert {item.extra["voice"] for item in loaded.items} == {"en-us+f5"} or group == "other"
    assert len(clips(cache)) == 2  # no more than the limit is spoken


def test_errors_are_ours(cache: Path) -> None:
    with pytest.raises(SarsteerError, match="espeak-ng has no voice 'nobody'"):
        load_benchmark("sarsteer-pairs@test:nobody", limit=1)
    assert os.listdir(cache) == []
