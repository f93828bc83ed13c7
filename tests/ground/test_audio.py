"""Every clip that a user may have: what can be heard is heard, the rest is told in one line."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sarsteer.audio import Clip, load_clip
from sarsteer.errors import AudioError, MessageError


def fails(source: object, match: str, **options: object) -> None:
    with pytest.raises(AudioError, match=match) as caught:
        load_clip(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_missing(tmp_path: Path) -> None:
    fails(tmp_path / "none.wav", "no such file")


def test_folder(tmp_path: Path) -> None:
    fails(tmp_path, "is a folder")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    fails(tmp_path / "empty.wav", "is empty")


def test_zero_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 16_000)
    fails(tmp_path / "zero.wav", "no samples")


def test_not_audio(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio, only words " * 20)
    fails(tmp_path / "text.wav", "not a readable audio file")


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "OPUS")])
def test_truncated(tmp_path: Path, suffix: str, subtype: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise = 0.1 * np.random.default_rng(0).standard_normal(48_000)
    soundfile.write(path, noise, 16_000, subtype=subtype)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(path, "truncated|not a readable audio file")


def test_header_only(tmp_path: Path, wav: Path) -> None:
    path = tmp_path / "head.wav"
    path.write_bytes(wav.read_bytes()[:30])
    fails(path, "truncated|not a readable audio file")


def test_a_stream_header_of_unknown_length_is_no_truncation(tmp_path: Path) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, 0.1 * np.ones(1000), 16_000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    where = data.index(b"data") + 4
    data[where : where + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(load_clip(path).samples) == 1000


def test_silent(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    fails(tmp_path / "silent.wav", "is silent")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path: Path, wave: np.ndarray, value: float) -> None:
    wave[7] = value
    soundfile.write(tmp_path / "nan.wav", wave, 16_000, subtype="FLOAT")
    fails(tmp_path / "nan.wav", "NaN or infinite")
    fails(wave, "NaN or infinite", rate=16_000)


def test_too_long_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "hour.wav"
    soundfile.write(path, np.tile([0.1, -0.1], 8_000 * 1_800).astype(np.float32), 8_000, subtype="PCM_U8")
    fails(path, r"3600\.0 s long and this model takes at most 30 s", max_seconds=30.0)
    assert load_clip(path).seconds == 3600


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_width_rate_and_channel_count_is_heard(tmp_path: Path, subtype: str, rate: int, channels: int) -> None:
    time = np.arange(rate // 2) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate, subtype=subtype)
    clip = load_clip(path).resampled(16_000)
    assert clip.rate == 16_000
    assert clip.samples.dtype == np.float32
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(clip.samples)) / 16_000)
    middle = slice(500, 7_000)  # a resampler rings at the edges
    # 8-bit sound has steps of 1/128
    np.testing.assert_allclose(clip.samples[middle], expected[middle], atol=0.012)


def test_stereo_of_opposite_phase_does_not_cancel(wave: np.ndarray) -> None:
    clip = load_clip(np.stack([wave, -wave], axis=1), rate=16_000)
    np.testing.assert_allclose(np.abs(clip.samples), np.abs(wave), rtol=1e-6)


def test_a_wrong_extension_is_heard(tmp_path: Path, wav: Path, wave: np.ndarray) -> None:
    path = tmp_path / "really-a-wav.mp3"
    path.write_bytes(wav.read_bytes())
    np.testing.assert_array_equal(load_clip(path).samples, wave)


def test_bytes_and_data_uri_are_the_same_clip(wav: Path) -> None:
    data = wav.read_bytes()
    uri = "data:audio/wav;base64," + base64.b64encode(data).decode()
    digests = {load_clip(source).digest for source in (wav, str(wav), data, uri)}
    assert len(digests) == 1


@pytest.mark.parametrize("uri", ["data:audio/wav,abc", "data:audio/wav;base64,@@@", "data:nothing"])
def test_bad_data_uri(uri: str) -> None:
    fails(uri, "the data URI")


@pytest.mark.parametrize(
    ("samples", "rate", "match"),
    [
        (np.ones(10, np.float32), None, "sampling rate"),
        (np.ones(10, np.float32), 16, "invalid sampling rate"),
        (np.ones((2, 3, 4), np.float32), 16_000, "shape"),
        (np.array(["a"]), 16_000, "type"),
        (np.ones(10) * 1e6, 16_000, "far outside"),
        (np.zeros(0), 16_000, "no samples"),
    ],
)
def test_bad_arrays(samples: np.ndarray, rate: int | None, match: str) -> None:
    fails(samples, match, rate=rate)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_integer_arrays_are_scaled(dtype: type) -> None:
    info = np.iinfo(dtype)
    top, middle = info.max, 0 if info.min < 0 else 128
    clip = load_clip(np.array([top, middle, info.min], dtype=dtype), rate=16_000)
    np.testing.assert_allclose(clip.samples, [1.0, 0.0, -1.0], atol=0.01)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrays(np.float32, st.integers(0, 200), elements=st.floats(allow_nan=True, allow_infinity=True, width=32)),
    st.sampled_from([8_000, 16_000, 48_000]),
)
def test_any_array_is_a_clean_clip_or_an_audio_error(samples: np.ndarray, rate: int) -> None:
    try:
        clip = load_clip(samples, rate=rate)
    except AudioError:
        return
    assert isinstance(clip, Clip)
    assert clip.samples.ndim == 1
    assert np.isfinite(clip.samples).all()
    assert np.abs(clip.samples).max() > 0


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_clip_or_an_audio_error(data: bytes) -> None:
    try:
        clip = load_clip(data)
    except AudioError:
        return
    assert len(clip.samples)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40_000), st.floats(0.05, 2.0), st.integers(0, 100))
def test_pieces_of_a_clip_are_the_clip(length: int, longest: float, seed: int) -> None:
    samples = (0.5 * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)
    clip = Clip(samples, 8_000, "clip")
    pieces = clip.split(longest)
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), samples)
    assert all(piece.seconds <= longest + 1e-3 for piece in pieces)


def test_a_silent_piece_is_left_out() -> None:
    samples = np.zeros(30_000, dtype=np.float32)
    samples[:1000] = 0.5
    samples[-1000:] = 0.5
    pieces = Clip(samples, 1_000, "clip").split(10.0)
    assert [float(np.abs(piece.samples).max()) for piece in pieces] == [0.5, 0.5]


def test_an_error_at_an_item_keeps_the_file(tmp_path: Path) -> None:
    """A position in a batch is replaced by the item; the name of a file stays."""
    with pytest.raises(AudioError) as caught:
        load_clip(tmp_path / "none.wav")
    assert str(caught.value.at("item 'h1'")) == f"item 'h1': {tmp_path / 'none.wav'}: no such file; check the path"
    moved = MessageError("has no text", place="conversation 3", index=3).at("item 'h1'")
    assert str(moved) == "item 'h1': has no text"
