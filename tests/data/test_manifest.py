"""Manifests and pairs: errors name the line or the item."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sarsteer import load_pairs
from sarsteer.data.manifest import load_items
from sarsteer.errors import ManifestError


def row(name: str, label: str = "harmful", pair: str | None = "p0", **more: object) -> dict[str, object]:
    return {"id": name, "audio": "clip.wav", "question": "how", "label": label, "pair": pair, **more}


def manifest(folder: Path, rows: list[object]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def test_pairs_are_joined(tmp_path: Path, wav: Path) -> None:
    path = manifest(tmp_path, [row("s", "safe"), row("h", voice="en"), "", row("h1", pair="b"), row("s1", "safe", "b")])
    pairs = load_pairs(path)
    assert [(p.harmful.id, p.safe.id) for p in pairs] == [("h", "s"), ("h1", "s1")]
    assert pairs[0].harmful.extra == {"voice": "en"}
    assert len(pairs[:1]) == 1
    assert pairs.digest != pairs[:1].digest


def test_the_digest_depends_on_the_clips_not_on_names(tmp_path: Path, wav: Path) -> None:
    path = manifest(tmp_path, [row("h"), row("s", "safe")])
    before = load_pairs(path).digest
    path.write_text(path.read_text().replace('"h"', '"other"'))
    assert load_pairs(path).digest == before
    wav.write_bytes(wav.read_bytes() + b"\0")
    assert load_pairs(path).digest != before


def test_a_folder_of_splits(tmp_path: Path, wav: Path) -> None:
    manifest(tmp_path, [row("h"), row("s", "safe")]).rename(tmp_path / "test.jsonl")
    assert len(load_pairs(tmp_path, "test")) == 1
    with pytest.raises(ManifestError, match="no such manifest"):
        load_pairs(tmp_path, "calibration")


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (["{broken"], "line 1: is not valid JSON"),
        (["[1]"], "line 1: is not a JSON object"),
        ([row("a"), "{}"], "line 2: needs 'id'"),
        ([{**row("a"), "audio": 3}], "needs 'audio'"),
        ([row("a", "evil")], "label must be 'harmful' or 'safe', not 'evil'"),
        ([row("a"), row("a", "safe")], "line 2: repeats id 'a' of line 1"),
        ([row("a", category=3)], "'category' must be a string"),
        ([{**row("a"), "audio": "none.wav"}], "is missing"),
        ([{**row("a"), "audio": "../clip.wav"}], "outside the manifest's folder"),
        ([{**row("a"), "audio": "/etc/hostname"}], "outside the manifest's folder"),
        (["", " "], "is empty"),
    ],
)
def test_bad_lines(tmp_path: Path, wav: Path, rows: list[object], match: str) -> None:
    with pytest.raises(ManifestError, match=match) as caught:
        load_items(manifest(tmp_path, rows))
    assert "pairs.jsonl" in str(caught.value)


def test_a_link_out_of_the_folder_is_an_error(tmp_path: Path, wav: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "clip.wav").symlink_to(wav)
    with pytest.raises(ManifestError, match="outside"):
        load_items(manifest(inner, [row("a")]))


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([row("h")], "'h' has no safe twin"),
        ([row("s", "safe")], "'s' has no harmful twin"),
        ([row("h", pair=None), row("s", "safe")], "'h' has no 'pair'"),
        ([row("h"), row("g"), row("s", "safe")], "two harmful items"),
    ],
)
def test_bad_pairs(tmp_path: Path, wav: Path, rows: list[object], match: str) -> None:
    with pytest.raises(ManifestError, match=match):
        load_pairs(manifest(tmp_path, rows))


def test_unreadable_manifests(tmp_path: Path) -> None:
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x80")
    for path, match in ((tmp_path / "binary.jsonl", "UTF-8"), (tmp_path / "no.jsonl", "no such"), (tmp_path, "folder")):
        with pytest.raises(ManifestError, match=match):
            load_items(path)


def test_unknown_split() -> None:
    with pytest.raises(ManifestError, match="unknown split"):
        load_pairs("sarsteer-tiny", "training")


def test_embedded_splits_share_no_request() -> None:
    calibration, test = load_pairs("sarsteer-tiny"), load_pairs("sarsteer-tiny", "test")
    assert (len(calibration), len(test)) == (100, 200)

    def combinations(pairs: object) -> set[str]:
        return {item.answer.split(", ")[0] for pair in pairs for item in (pair.harmful, pair.safe)}

    assert not combinations(calibration) & combinations(test)
    assert any(pair.harmful.extra["unseen_voice"] for pair in test)
    assert any(not pair.harmful.extra["unseen_voice"] for pair in test)


# ---- clips elsewhere ----


@pytest.fixture
def apart(tmp_path: Path, wav: Path) -> tuple[Path, Path]:
    """A manifest, and in another folder its clips."""
    clips, lists = tmp_path / "clips", tmp_path / "lists"
    (clips / "speaker").mkdir(parents=True)
    lists.mkdir()
    wav.rename(clips / "speaker" / "clip.wav")
    absolute = str(clips / "speaker" / "clip.wav")
    rows = [row("h", audio="speaker/clip.wav"), row("s", "safe", audio=absolute, clean="speaker/clip.wav")]
    return manifest(lists, list(rows)), clips


def test_clips_in_an_audio_root(apart: tuple[Path, Path]) -> None:
    path, clips = apart
    with pytest.raises(ManifestError, match="relative to the manifest's folder"):
        load_items(path)
    pairs = load_pairs(path, audio_root=clips)
    assert pairs[0].harmful.audio == pairs[0].safe.audio == clips / "speaker" / "clip.wav"
    assert pairs[0].safe.extra["clean"] == str(clips / "speaker" / "clip.wav")
    assert [item.id for item in load_items(path, audio_root=clips.parent / "clips" / ".." / "clips")] == ["h", "s"]


def test_no_clip_is_outside_the_audio_root(apart: tuple[Path, Path]) -> None:
    path, clips = apart
    (clips / "link").symlink_to(path.parent)
    for audio in ("../lists/pairs.jsonl", "/etc/hostname", "link/pairs.jsonl"):
        with pytest.raises(ManifestError, match=f"is outside {clips}"):
            load_items(manifest(path.parent, [row("h", audio=audio)]), audio_root=clips)
    with pytest.raises(ManifestError, match="is not a folder; give --audio-root"):
        load_items(path, audio_root=clips / "none")
    with pytest.raises(ManifestError, match=r"outside the manifest's folder.*pass --audio-root"):
        load_items(manifest(path.parent, [row("h", audio="../clips/speaker/clip.wav")]))


def test_a_benchmark_in_an_audio_root(apart: tuple[Path, Path]) -> None:
    from sarsteer.data.benchmarks import BenchmarkSpec
    from sarsteer.evaluation.benchmarks import load_benchmarks

    path, clips = apart
    (benchmark,) = load_benchmarks([BenchmarkSpec.parse(f"manifest:{path}")], audio_root=clips)
    assert [item.audio for item in benchmark.items] == [clips / "speaker" / "clip.wav"] * 2
    with pytest.raises(ManifestError, match="is missing"):
        load_benchmarks([BenchmarkSpec.parse(f"manifest:{path}")])
