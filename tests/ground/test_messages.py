"""Conversations: the forms that users write, and the ones that are told off."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sarsteer.audio import load_clip
from sarsteer.errors import AudioError, MessageError
from sarsteer.messages import InputLimits, read_conversation, user_turn

WHERE = InputLimits(rate=16_000, max_seconds=30.0)


def test_all_forms_of_a_clip_are_the_same(wav: Path, wave: np.ndarray) -> None:
    data = wav.read_bytes()
    encoded = base64.b64encode(data).decode()
    parts = [
        {"type": "audio", "path": wav},
        {"type": "audio", "path": str(wav)},
        {"type": "audio", "audio": str(wav)},
        {"type": "audio", "url": str(wav)},
        {"type": "audio", "url": "data:audio/wav;base64," + encoded},
        {"type": "audio", "bytes": data},
        {"type": "audio", "audio": wave, "sampling_rate": 16_000},
        {"type": "audio", "audio": torch.from_numpy(wave), "sampling_rate": 16_000},
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64," + encoded}},
    ]
    _, clips = read_conversation([{"role": "user", "content": parts}], WHERE)
    assert {clip.digest for clip in clips} == {load_clip(wav).digest}
    assert len(clips) == len(parts)


def test_clips_are_resampled(wave: np.ndarray) -> None:
    turn = [{"role": "user", "content": [{"type": "audio", "audio": wave, "sampling_rate": 8_000}]}]
    _, (clip,) = read_conversation(turn, WHERE)
    assert clip.rate == 16_000
    assert len(clip.samples) == 2 * len(wave)
    _, (clip,) = read_conversation(turn, replace(WHERE, rate=None))
    assert clip.rate == 8_000
    assert np.array_equal(clip.samples, wave)


def test_user_turn_takes_paths_bytes_and_clips(wav: Path) -> None:
    for source in (wav, wav.read_bytes(), load_clip(wav)):
        messages, clips = read_conversation(user_turn(source, "hello"), WHERE)
        assert len(clips) == 1
        assert messages[0]["content"][1]["text"] == "hello"
    assert len(user_turn(wav)[0]["content"]) == 1


@pytest.mark.parametrize(
    ("conversation", "match"),
    [
        ([], "list of messages"),
        ("hello", "list of messages"),
        ({"role": "user", "content": "hi"}, "list of messages"),
        (["hello"], "needs 'role' and 'content'"),
        ([{"role": "user"}], "needs 'role' and 'content'"),
        ([{"role": "robot", "content": "hi"}], "unknown role"),
        ([{"role": "user", "content": 3}], "string or a list"),
        ([{"role": "user", "content": ["hi"]}], "with a 'type'"),
        ([{"role": "user", "content": [{"type": "smell"}]}], "unknown part type 'smell'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "needs 'text'"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "exactly one of"),
        ([{"role": "user", "content": [{"type": "audio", "path": "a", "url": "b"}]}], "exactly one of"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "@"}}]}], "is invalid"),
    ],
)
def test_malformed(conversation: object, match: str) -> None:
    with pytest.raises(MessageError, match=match):
        read_conversation(conversation, WHERE)  # type: ignore[arg-type]


def test_too_many_clips(wav: Path) -> None:
    part = {"type": "audio", "path": wav}
    with pytest.raises(MessageError, match="at most 1"):
        read_conversation([{"role": "user", "content": [part, part]}], replace(WHERE, max_clips=1))


def test_too_long(wave: np.ndarray) -> None:
    long = np.tile(wave, 31)
    with pytest.raises(AudioError, match="at most 30 s"):
        read_conversation(
            [{"role": "user", "content": [{"type": "audio", "audio": long, "sampling_rate": 16_000}]}], WHERE
        )


def test_a_clip_that_was_loaded_before_is_held_to_the_same_limit(wave: np.ndarray) -> None:
    long = load_clip(np.tile(wave, 61), rate=16_000)
    turn = user_turn(long)
    turn[0]["content"][0] = {"type": "audio", "audio": long}
    with pytest.raises(AudioError, match="at most 30 s"):
        read_conversation(turn, WHERE)
    _, clips = read_conversation(turn, replace(WHERE, split=True))
    assert len(clips) == 3
    assert np.array_equal(np.concatenate([clip.samples for clip in clips]), long.samples)
