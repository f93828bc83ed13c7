"""Texts, samplers, media and the audit log, each alone."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sarsteer
from sarsteer.data.pairs import Pairs
from sarsteer.errors import AudioError, MessageError, SarsteerError
from sarsteer.server.audit import AuditLog
from sarsteer.server.auth import check_key, digest_of, matches, read_key_file
from sarsteer.server.limits import Limits
from sarsteer.server.media import read_base64, read_clip, read_url
from sarsteer.server.sampling import ChosenTokens, Sampler
from sarsteer.server.text import AnswerText

MEDIA = [*(b"RIFF", b"fLaC", b"OggS", b"ID3\x04", b"\xff\xfb\x90\x00"), b""]
LIMITS = Limits(clip_seconds=2.0, samples=100_000)


# ---- texts -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("ab \n.é猫🐈"), max_size=30),
    stops=st.lists(st.text(st.sampled_from("ab \né猫"), min_size=1, max_size=3), max_size=2),
)
def test_released_pieces_are_the_answer(embedded: sarsteer.AudioLanguageModel, text: str, stops: list[str]) -> None:
    tokens: list[int] = embedded.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(ids: list[int]) -> str:
        return embedded.decode(torch.tensor([ids], dtype=torch.long))[0]

    whole = decode(tokens)
    cuts = [at for stop in stops if (at := whole.find(stop)) >= 0]
    answer, pieces = AnswerText(decode, stops), []
    for token in tokens:
        answer.add(token)
        if answer.stopped:
            break
        pieces.append(answer.release())
    pieces.append(answer.finish())
    assert "".join(pieces) == answer.whole == whole[: min(cuts, default=None)].strip()
    assert answer.stopped == bool(cuts)
    assert not any("\ufffd" in piece for piece in pieces if "\ufffd" not in whole)


# ---- sampling --------------------------------------------------------------------------------------------------------


def test_samplers_draw_from_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    sampler = Sampler(1.0, seed=0)
    drawn = Counter(sampler.choose(logits) for _ in range(4000))
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        # four standard deviations of a share of 4000 draws: the seed is fixed, so this never varies
        assert abs(drawn[token] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    nucleus = Sampler(1.0, top_p=0.6, seed=0)
    assert {nucleus.choose(logits) for _ in range(500)} == {0, 1}
    cold = Sampler(0.01, seed=0)
    assert {cold.choose(logits) for _ in range(100)} == {0}


def test_a_row_depends_on_its_own_seed_alone() -> None:
    logits = torch.randn(3, 50)
    alone = ChosenTokens([Sampler(1.0, seed=5)])(torch.zeros(1, 1), logits[:1]).argmax(-1)
    rows = ChosenTokens([Sampler(1.0, seed=9), Sampler(1.0, seed=5), None])(torch.zeros(3, 1), logits[[1, 0, 2]])
    assert rows[1].argmax() == alone
    assert torch.equal(rows[2], logits[2])  # a greedy row is untouched
    assert Sampler(1.0, seed=5, number=1).choose(logits[0]) != Sampler(1.0, seed=5).choose(logits[0])


# ---- media -----------------------------------------------------------------------------------------------------------


def encoded(samples: np.ndarray, rate: int, form: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


NOISE = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
FILES = {
    "wav": encoded(NOISE, 16_000, "WAV"),
    "flac": encoded(NOISE, 16_000, "FLAC"),
    "ogg": encoded(NOISE, 16_000, "OGG", "VORBIS"),
    "mp3": encoded(NOISE, 16_000, "MP3"),
}


@pytest.mark.parametrize("form", FILES)
def test_formats(form: str) -> None:
    clip = read_clip(FILES[form], "clip", LIMITS)
    assert (clip.rate, round(clip.seconds, 1)) == (16_000, 1.0)


def test_what_grows_when_decoded_is_refused() -> None:
    quiet = np.full(5_000_000, 0.01, dtype=np.float32)
    bomb = encoded(quiet, 16_000, "FLAC")  # 5 minutes in a few kilobytes
    assert len(bomb) < 100_000
    with pytest.raises(AudioError, match="at most 100000 samples"):
        read_clip(bomb, "clip", LIMITS)
    with pytest.raises(AudioError, match="at most 100000 samples"):  # many channels
        read_clip(encoded(np.zeros((20_000, 8)), 16_000, "FLAC"), "clip", LIMITS)
    with pytest.raises(AudioError, match="at most 2"):
        read_clip(encoded(np.tile(NOISE, 3), 16_000, "WAV"), "clip", LIMITS)
    unknown = bytearray(FILES["flac"])
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)  # a FLAC file may leave its length out
    with pytest.raises(AudioError):
        read_clip(bytes(unknown), "clip", LIMITS)


def decode_any(data: bytes) -> None:
    try:
        clip = read_clip(data, "clip", LIMITS)
    except AudioError:
        return
    assert len(clip.samples) <= LIMITS.samples
    assert clip.seconds <= LIMITS.clip_seconds + 0.01
    assert np.isfinite(clip.samples).all()


@settings(max_examples=150)
@given(st.sampled_from(MEDIA), st.binary(max_size=400))
def test_any_bytes_are_a_clip_or_an_error(head: bytes, rest: bytes) -> None:
    decode_any(head + rest)


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=4)), max_size=6),
    st.integers(0, 2**16),
)
def test_damaged_files_are_a_clip_or_an_error(form: str, changes: list[tuple[int, bytes]], end: int) -> None:
    data = bytearray(FILES[form])
    for place, value in changes:
        # most changes go to the header, where they matter
        at = place % (len(data) if place % 3 == 0 else 64)
        data[at : at + len(value)] = value
    decode_any(bytes(data[: len(data) - end % len(data)] if end % 4 == 0 else data))


def test_sources() -> None:
    assert read_base64(base64.b64encode(b"abc").decode(), "x") == b"abc"
    assert read_url("data:audio/wav;base64,YWJj", "x") == b"abc"
    for bad in ("clip.wav", "/etc/passwd", "file:///etc/passwd", "ftp://x/y", "FILE:///etc/passwd", "data:,abc", ""):
        with pytest.raises(MessageError):
            read_url(bad, "x")
    with pytest.raises(SarsteerError, match="SARSTEER_ALLOW_URLS"):
        read_url("http://169.254.169.254/latest/meta-data", "x")


# ---- keys and records ------------------------------------------------------------------------------------------------


def test_keys(tmp_path: Path) -> None:
    assert matches("a" * 20, digest_of("a" * 20))
    assert not matches(None, digest_of(""))
    for bad in ("short", "with a space in it it is long", "key-with-ünicode-letters"):
        with pytest.raises(SarsteerError, match="16 printable"):
            check_key(bad, "x")
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(SarsteerError, match="no key"):
        read_key_file(tmp_path / "keys")


def test_the_audit_log_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sarsteer.server.audit.MAX_BYTES", 2000)
    log = AuditLog(tmp_path / "audit.jsonl", lambda: pytest.fail("a record was lost"))
    for number in range(100):
        log.write({"number": number})
    log.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    numbers = [json.loads(line)["number"] for file in files for line in file.read_text().splitlines()]
    assert sorted(numbers) == list(range(100))
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_a_full_disk_stops_no_answer() -> None:
    failures: list[int] = []
    log = AuditLog(Path("/dev/full"), lambda: failures.append(1))
    for _ in range(3):
        log.write({"a": 1})
    log.close()
    assert len(failures) == 3
    assert log.failing


def test_an_audit_log_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SarsteerError, match="cannot be written"):
        AuditLog(tmp_path / "nowhere" / "audit.jsonl", lambda: None)


def test_the_window_of_the_model_holds(embedded: sarsteer.AudioLanguageModel, test_pairs: Pairs) -> None:
    """The server's limit does not replace the model's."""
    assert embedded.window_seconds is not None
    assert Limits().clip_seconds > embedded.window_seconds
