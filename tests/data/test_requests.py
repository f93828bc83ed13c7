"""Which items are the same request."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sarsteer.data.manifest import Item
from sarsteer.data.requests import request_numbers
from sarsteer.data.speech import plan
from sarsteer.tts.espeak import EspeakEngine


def item(name: str, question: str, pair: str | None = None, media: Path | None = None) -> Item:
    return Item(name, question, "safe", "text" if media is None else "audio", media, pair)


def test_words_names_of_pairs_and_files_make_one_request(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"sound" if name != "c" else b"other")
    a, b, c = (tmp_path / name for name in "abc")
    units = [
        [item("1", "How do I?", "p"), item("2", "Where?", "p")],
        [item("3", "how, do i", "q"), item("4", "When?", "q")],  # the words of the first
        [item("5", "Who?", "p2", a)],
        [item("6", "What?", "p3", b)],  # the sound of the third
        [item("7", "Why?", "p3", c)],  # the pair of the fourth: also the third's request
        [item("8", "???")],
        [item("9", "!!!")],  # without words, and not the same bytes
    ]
    assert request_numbers(units) == (0, 0, 1, 1, 1, 2, 3)
    assert request_numbers([]) == ()


@given(voices=st.sampled_from([["en-us"], ["en-us", "en-gb"], ["en-us", "en-gb", "en-us+f5"]]), count=st.integers(1, 9))
def test_a_request_in_several_voices_is_one(voices: list[str], count: int) -> None:
    """``sarsteer speak`` names a pair after each voice, so its words are what the copies share."""
    written = [item(f"r{i}", f"Question number {i}", f"p{i}") for i in range(count)]
    spoken = plan(written, EspeakEngine(), voices)
    assert len({one.pair for one in spoken}) == count * len(voices)
    numbers = request_numbers([[one] for one in spoken])
    assert numbers == tuple(i for i in range(count) for _ in voices)
