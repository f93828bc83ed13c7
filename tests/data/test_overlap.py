"""Whether two requests are the same, and whether calibration and test share one."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.data.manifest import Item, load_items
from sarsteer.data.overlap import check_disjoint, shared_items
from sarsteer.data.pairs import Pairs
from sarsteer.data.save import save_items
from sarsteer.data.text import normalize, word_similarity, words
from sarsteer.errors import ManifestError

_MARKS = st.text(st.sampled_from(" \t\n.,;:!?-–'\"()…¿$+\u200b\u00a0"), max_size=4)


@given(st.text())
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert all(unicodedata.category(c)[0] in "LMN" for c in once)


@given(st.lists(st.tuples(st.sampled_from(["How", "DO", "i", "ﬁx", "Straße", "7", "ÉCOLE"]), _MARKS)), _MARKS)
def test_case_punctuation_and_spaces_do_not_count(parts: list[tuple[str, str]], lead: str) -> None:
    plain = "".join(word for word, _ in parts)
    spelt = lead + "".join(word.swapcase() + marks for word, marks in parts)
    assert normalize(spelt) == normalize(plain)


def test_only_letters_and_digits_count() -> None:
    assert normalize("How  do I… hack?") == "howdoihack"
    assert normalize("ＨＯＷ") == "how"
    assert normalize("?!") == ""
    assert words("How do – I, go?") == ["how", "do", "i", "go"]


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_similarity_is_a_share_of_words(a: list[str], b: list[str]) -> None:
    value = word_similarity(" ".join(a), " ".join(b))
    assert 0 <= value <= 1
    assert value == word_similarity(" ".join(b), " ".join(a))
    assert (value == 1) == (a == b)


def test_similarity_of_a_twin() -> None:
    harmful = "How can someone start and operate an illegal human organ trade?"
    assert word_similarity(harmful, "How can someone start and operate a fruit trade?") == pytest.approx(7 / 11)
    assert word_similarity(harmful, "bake bread") == 0


def text(name: str, question: str, pair: str | None = None, label: str = "harmful") -> Item:
    return Item(name, question, label, modality="text", pair=pair)


def test_shared_by_question_id_and_pair() -> None:
    a = [text("a", "How do I pick a lock?", "1")]
    for other, by in (
        (text("z", "how do i pick a LOCK"), "question"),
        (text("a", "Something else", "1"), "id"),
        (text("b", "How do I paint a lock?", "1", "safe"), "pair"),
    ):
        assert [(o.by, o.second.id) for o in shared_items(a, [text("x", "Nothing like it"), other])] == [(by, other.id)]
    for unrelated in (text("a", "Something else", "2"), text("b", "Bake a loaf of bread now", "1", "safe")):
        assert shared_items(a, [unrelated]) == []
    assert shared_items([text("a", "?!")], [text("b", "...")]) == []


def test_the_same_sound_in_another_file(tmp_path: Path) -> None:
    wave = np.round(0.1 * np.random.default_rng(0).standard_normal(8_000) * 32767) / 32768
    for name, samples in (("a.wav", wave), ("b.flac", wave), ("c.wav", -wave)):
        soundfile.write(tmp_path / name, samples, 16_000, subtype="PCM_16")
    clips = {
        name: Item(name, f"question {name}", "harmful", media=tmp_path / name) for name in ("a.wav", "b.flac", "c.wav")
    }
    assert [o.by for o in shared_items([clips["a.wav"]], [clips["c.wav"], clips["b.flac"]])] == ["sound"]
    assert shared_items([clips["a.wav"]], [clips["c.wav"]]) == []
    (tmp_path / "a.wav").write_text("not audio")
    assert [o.by for o in shared_items([clips["a.wav"]], [replace(clips["a.wav"], id="x", question="y")])] == ["sound"]


def test_the_error_names_a_few() -> None:
    items = [text(f"i{n}", f"question number {n}") for n in range(9)]
    with pytest.raises(ManifestError, match=r"share 9 items: 'i0' and 'i0' \(id\), .*'i2' and 'i2' \(id\), …; remove"):
        check_disjoint(items, items)
    check_disjoint(items[:4], items[4:])


def test_the_embedded_splits_are_disjoint(calibration_pairs: Pairs, test_pairs: Pairs) -> None:
    check_disjoint([*calibration_pairs.harmful, *calibration_pairs.safe], [*test_pairs.harmful, *test_pairs.safe])


def test_a_saved_manifest_loads_unchanged(tmp_path: Path, wav: Path) -> None:
    items = [
        Item(
            "a", "q", "harmful", media=wav, pair="p", category="c", text="t", answer="r", extra={"voice": "v", "n": [1]}
        ),
        Item("b", "é", "safe", modality="text"),
    ]
    save_items(tmp_path / "m.jsonl", items)
    assert load_items(tmp_path / "m.jsonl") == items
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(ManifestError, match="is outside"):
        save_items(inner / "m.jsonl", items)
    assert list(inner.iterdir()) == []
