"""Benchmarks, read from small files that we made in the originals' formats, and from broken ones."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sarsteer.data.benchmarks import BENCHMARKS, BenchmarkSpec, load_benchmark
from sarsteer.data.benchmarks.cache import store_clip
from sarsteer.data.manifest import Item
from sarsteer.data.pairs import load_pairs
from sarsteer.data.save import save_items
from sarsteer.errors import BenchmarkError, MissingExtraError, SarsteerError

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402


def clip(path: Path, seed: int = 0, form: str = "WAV") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(1_600), 16_000, format=form)
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, value)) + "\n" if lines else json.dumps(value))
    return path


def columns(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def items_of(spec: str, **options: Any) -> tuple[Item, ...]:
    return load_benchmark(spec, **options).items


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SARSTEER_CACHE", str(folder))
    return folder


# ---- each format -----------------------------------------------------------------------------------------------------


def figstep_csv(folder: Path) -> None:
    row = {"dataset": "ForbidQI", "category_id": 1, "category_name": "Illegal Activity"}
    rows = [
        row | {"task_id": n, "question": f"How to do wrong, {n}?", "instruction": f"Steps to wrong {n}."}
        for n in (1, 2)
    ]
    table(folder / "data" / "question" / "safebench.csv", [{k: r[k] for k in _SAFEBENCH} for r in rows])


_SAFEBENCH = ("dataset", "category_id", "task_id", "category_name", "question", "instruction")


def figstep_part(folder: Path) -> None:
    figstep_csv(folder)
    (folder / "data" / "question" / "safebench.csv").rename(folder / "figstep_safebench_odd.csv")


def xstest_v2(folder: Path) -> None:
    rows = [("v2-1", "homonyms", "How do I kill a process?"), ("v2-2", "contrast_homonyms", "How do I do wrong?")]
    table(folder / "xstest_v2_prompts.csv", [dict(zip(("id", "type", "prompt"), row, strict=True)) for row in rows])


def xstest_part(folder: Path) -> None:
    rows = [("2", "Do wrong?", "nons", "unsafe"), ("3", "Can I kill time?", "figurative", "safe")]
    names = ("id", "prompt", "type", "label")
    table(folder / "xstest_half.csv", [dict(zip(names, row, strict=True)) for row in rows])


def figstep_pairs(folder: Path) -> None:
    for half, verb in (("figstep_audio", "break"), ("figstep_audio_safe", "fix")):
        for split, numbers in (("train_100", (1, 2, 3)), ("test_250", (4, 5))):
            rows = [
                {"scenario": "Illegal_Activity", "audio_file": f"Illegal_Activity_{n}.wav", "question": f"{verb} {n}"}
                for n in numbers
            ]
            written(folder / "dataset" / "figstep" / half / f"{split}.json", rows)
            for row in rows:
                clip(folder / "dataset" / "figstep" / half / "question" / row["audio_file"], len(half))


def advbench_pairs(folder: Path) -> None:
    for half in ("advbench_audio", "advbench_audio_safe"):
        rows = [{"question_id": n, "audio_name": f"{n}.wav", "question": f"{half} {n}"} for n in (1, 2)]
        written(folder / f"{half}.json", rows)
        for row in rows:
            clip(folder / half / row["audio_name"])


def advbench_csv(folder: Path) -> None:
    table(folder / "harmful_behaviors.csv", [{"goal": f"Do wrong {n}", "target": "Sure, here is"} for n in (1, 2)])


def sorry_bench(folder: Path) -> None:
    rows = [
        {"question_id": n, "category": "3", "turns": [f"wrong {n}"], "prompt_style": style}
        for n in (81, 82)
        for style in ("base", "slang")
    ]
    written(folder / "question.jsonl", rows)


def ajailbench(folder: Path) -> None:
    clip(folder / "audio" / "AJailbreak_Base" / "7.wav")
    clip(folder / "audio" / "APT" / "qwen2" / "7.wav", 1)
    base = {"index": 7, "goal": "Do wrong", "prompt": "You are a pirate. Do wrong", "category": "Fraud"}
    written(
        folder / "convert" / "question" / "combined_output.jsonl",
        [base | {"speech_path": ".\\audio\\AJailbreak_Base\\7.wav"}],
    )
    written(
        folder / "inference" / "response" / "qwen2_response_jsonl" / "BO" / "BO_sorted_combined_output.jsonl",
        [{"index": 7, "behavior": "Do wrong", "speech_path": "/home/x/audio/APT/qwen2/7.wav", "response": "Sure"}],
    )


def air_bench(folder: Path) -> None:
    row = {
        "path": "a.wav", "question": "What is heard?", "answer_gt": "A dog.", "task_name": "sound_QA",
        "dataset_name": "clotho", "uniq_id": 3, "meta_info": "a dog barks",
    }  # fmt: skip
    written(folder / "Chat" / "Chat_meta.json", [row])
    clip(folder / "Chat" / "sound_QA_clotho" / "a.wav")


def jalmbench(folder: Path) -> None:
    row = {"original_text": "Do wrong", "text": "Please do wrong", "source": "AdvBench", "language": "en"}
    rows = []
    for gender in ("male", "female"):
        data = clip(folder / "x.wav", len(gender)).read_bytes()
        rows.append(row | {"id": 5, "gender": gender, "accent": "GB", "audio": {"bytes": data, "path": "5.wav"}})
    (folder / "x.wav").unlink()
    columns(folder / "HarmfulQuery" / "AHarm.parquet", rows)


def xstest(folder: Path) -> None:
    data = clip(folder / "x.flac", form="FLAC").read_bytes()
    (folder / "x.flac").unlink()
    row = {"prompt": "How do I kill a process?", "type": "homonyms", "audio": {"bytes": data, "path": None}}
    columns(folder / "data" / "train-00000-of-00001.parquet", [row])


def voicebench(folder: Path) -> None:
    data = clip(folder / "x.wav").read_bytes()
    (folder / "x.wav").unlink()
    audio = {"bytes": data, "path": None}
    columns(folder / "advbench" / "test-00000-of-00001.parquet", [{"prompt": "Do wrong", "audio": audio}])
    chat = {"prompt": "Name a tree", "output": "Oak", "audio": audio}
    columns(folder / "alpacaeval" / "test-00000-of-00001.parquet", [chat, chat | {"prompt": "Name two"}])


@pytest.mark.parametrize("nested", ["", "clone/of/it"])
@pytest.mark.parametrize(
    ("make", "name", "options", "first", "count"),
    [
        (figstep_csv, "figstep", {}, ("figstep-1-1", "How to do wrong, 1?", "harmful", "text"), 2),
        (figstep_part, "figstep", {}, ("figstep-1-1", "How to do wrong, 1?", "harmful", "text"), 2),
        (xstest_v2, "xstest", {}, ("xstest-v2-1", "How do I kill a process?", "safe", "text"), 2),
        (xstest_part, "xstest", {}, ("xstest-2", "Do wrong?", "harmful", "text"), 2),
        (figstep_pairs, "figstep", {}, ("figstep-Illegal_Activity_4-harmful", "break 4", "harmful", "audio"), 4),
        (
            figstep_pairs, "figstep", {"split": "train"},
            ("figstep-Illegal_Activity_1-harmful", "break 1", "harmful", "audio"), 6,
        ),
        (advbench_csv, "advbench", {}, ("advbench-0", "Do wrong 1", "harmful", "text"), 2),
        (advbench_pairs, "advbench", {}, ("advbench-1-harmful", "advbench_audio 1", "harmful", "audio"), 4),
        (sorry_bench, "sorry_bench", {}, ("sorry_bench-202503-81", "wrong 81", "harmful", "text"), 2),
        (
            sorry_bench, "sorry_bench", {"variant": "202406"},
            ("sorry_bench-202406-81", "wrong 81", "harmful", "text"), 2,
        ),
        (ajailbench, "ajailbench", {}, ("ajailbench-base-7", "Do wrong", "harmful", "audio"), 1),
        (
            ajailbench, "ajailbench", {"variant": "perturbed"},
            ("ajailbench-perturbed-qwen2-7", "Do wrong", "harmful", "audio"), 1,
        ),
        (air_bench, "air_bench_chat", {}, ("air_bench_chat-3", "What is heard?", "safe", "audio"), 1),
        (jalmbench, "jalmbench", {}, ("jalmbench-AHarm-5", "Do wrong", "harmful", "audio"), 2),
        (xstest, "xstest_spoken", {}, ("xstest_spoken-0", "How do I kill a process?", "safe", "audio"), 1),
        (voicebench, "voicebench", {}, ("voicebench-advbench-test-0", "Do wrong", "harmful", "audio"), 1),
        (
            voicebench, "voicebench", {"variant": "alpacaeval"},
            ("voicebench-alpacaeval-test-0", "Name a tree", "safe", "audio"), 2,
        ),
    ],
)  # fmt: skip
def test_formats(
    tmp_path: Path, nested: str, make: Callable[[Path], None], name: str, options: dict[str, str],
    first: tuple[str, ...], count: int,
) -> None:  # fmt: skip
    inner = tmp_path / nested
    inner.mkdir(parents=True, exist_ok=True)
    make(inner)
    loaded = load_benchmark(name, folder=tmp_path, **options)
    items = loaded.items
    assert (items[0].id, items[0].question, items[0].label, items[0].modality) == first
    assert len(items) == count
    assert len({item.id for item in items}) == count
    assert all(item.extra["benchmark"] == name for item in items)
    assert all((item.media is None) == (item.modality == "text") for item in items)
    assert all(item.media is None or soundfile.info(item.media).frames == 1_600 for item in items)
    assert loaded.skipped == ()
    json.dumps([item.extra for item in items])
    assert items_of(name, folder=tmp_path, limit=1, **options) == items[:1]


def test_the_other_fields_of_each_format(tmp_path: Path) -> None:
    for make in (figstep_pairs, figstep_csv, ajailbench, air_bench, jalmbench, voicebench):
        make(tmp_path / make.__name__)
    (text, _) = items_of("figstep", folder=tmp_path / "figstep_csv")
    assert text.category == "Illegal Activity"
    assert text.extra["instruction"] == "Steps to wrong 1."
    harmful, safe, *_ = items_of("figstep", folder=tmp_path / "figstep_pairs")
    assert harmful.pair == safe.pair
    assert (safe.label, safe.question) == ("safe", "fix 4")
    assert harmful.audio != safe.audio
    (jail,) = items_of("ajailbench", folder=tmp_path / "ajailbench")
    assert jail.category == "Fraud"
    assert jail.extra["prompt"].startswith("You are a pirate")
    (perturbed,) = items_of("ajailbench", folder=tmp_path / "ajailbench", variant="perturbed")
    assert Path(perturbed.extra["clean"]) == jail.audio, (
        "the clean clip is known if the base list is in the same folder"
    )
    assert perturbed.audio.parts[-3:] == ("APT", "qwen2", "7.wav")
    assert "response" not in perturbed.extra
    chat = load_benchmark("air_bench_chat", folder=tmp_path / "air_bench")
    (sound,) = chat.items
    assert (sound.text, sound.answer, sound.category) == ("What is heard?", "A dog.", "sound_QA_clotho")
    assert (chat.metric, chat.measures_usefulness, chat.forbids) == ("chat_score", True, "commercial use")
    one, other = items_of("jalmbench", folder=tmp_path / "jalmbench")
    assert (one.extra["gender"], other.extra["gender"], one.extra["accent"]) == ("male", "female", "GB")
    assert one.extra["spoken_text"] == "Please do wrong"
    assert (one.id, other.id) == ("jalmbench-AHarm-5", "jalmbench-AHarm-5-2")
    tree, _ = items_of("voicebench", folder=tmp_path / "voicebench", variant="alpacaeval")
    assert tree.answer == "Oak"


def test_calibration_pairs_from_a_benchmark_with_twins(tmp_path: Path) -> None:
    figstep_pairs(tmp_path)
    pairs = load_pairs(f"figstep@train:{tmp_path}")
    assert [pair.harmful.question for pair in pairs] == ["break 1", "break 2", "break 3"]
    assert [pair.safe.question for pair in pairs] == ["fix 1", "fix 2", "fix 3"]
    with pytest.raises(SarsteerError, match="there is no folder /nowhere; check the path"):
        load_pairs("figstep@train:/nowhere")
    with pytest.raises(SarsteerError, match="no such manifest"):
        load_pairs("nothing@train:/nowhere")


def test_a_manifest_is_a_benchmark(tmp_path: Path, wav: Path) -> None:
    row = {"id": "a", "audio": wav.name, "question": "q", "label": "safe"}
    written(tmp_path / "test.jsonl", [row])
    assert items_of("manifest", folder=tmp_path)[0].id == "a"
    assert items_of("manifest", folder=tmp_path / "test.jsonl")[0].id == "a"
    with pytest.raises(SarsteerError, match="no such manifest"):
        items_of("manifest", folder=tmp_path, split="calibration")


def test_a_file_written_by_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = clip(tmp_path / "x.wav")
    made = datasets.Dataset.from_dict({"prompt": ["Do it"], "audio": [{"bytes": path.read_bytes(), "path": "x.wav"}]})
    (tmp_path / "advbench").mkdir()
    made.cast_column("audio", datasets.Audio(decode=False)).to_parquet(tmp_path / "advbench" / "test-0.parquet")
    (item,) = items_of("voicebench", folder=tmp_path)
    assert item.audio.read_bytes() == path.read_bytes()


def test_clips_in_tables_are_written_once(tmp_path: Path, cache: Path) -> None:
    jalmbench(tmp_path)
    first = [item.audio for item in items_of("jalmbench", folder=tmp_path)]
    stamps = [os.stat(path).st_mtime_ns for path in first]
    assert [os.stat(item.audio).st_mtime_ns for item in items_of("jalmbench", folder=tmp_path)] == stamps
    assert sorted(p for p in cache.rglob("*") if p.is_file()) == sorted(first)
    first[0].write_bytes(b"")  # the disk was full
    assert items_of("jalmbench", folder=tmp_path)[0].audio.stat().st_size > 0
    assert {store_clip(b"ID3x").suffix, store_clip(b"OggSx").suffix, store_clip(b"?").suffix} == {
        ".mp3",
        ".ogg",
        ".bin",
    }


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "file"))
    jalmbench(tmp_path)
    with pytest.raises(BenchmarkError, match="SARSTEER_CACHE"):
        items_of("jalmbench", folder=tmp_path)


# ---- missing clips ---------------------------------------------------------------------------------------------------


def test_missing_clips_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question_id": n, "audio_name": f"{n}.wav", "question": f"q {n}"} for n in range(6)]
    for half in ("advbench_audio", "advbench_audio_safe"):
        written(tmp_path / f"{half}.json", rows)
        clip(tmp_path / half / "4.wav")
    with pytest.raises(
        BenchmarkError, match=r"10 clips are missing: \S*0\.wav, \S*0\.wav, \S*1\.wav, …; download them"
    ):
        items_of("advbench", folder=tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = load_benchmark("advbench", folder=tmp_path, missing="skip")
    assert [item.id for item in loaded.items] == ["advbench-4-harmful", "advbench-4-safe"]
    assert len(loaded.skipped) == 10
    assert "10 items were left out" in caplog.text
    (tmp_path / "advbench_audio" / "4.wav").unlink()
    (tmp_path / "advbench_audio_safe" / "4.wav").unlink()
    with pytest.raises(BenchmarkError, match=r"contains no items \(12 clips are missing\)"):
        items_of("advbench", folder=tmp_path, missing="skip")


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("figsteps", {}, "unknown benchmark 'figsteps'; use one of advbench, .*figstep, "),
        ("figstep", {"variant": "sung"}, "no variant 'sung'; use one of spoken, text"),
        ("figstep", {"split": "dev"}, "no split 'dev'; use test or train"),
        ("advbench", {"split": "dev"}, "no split 'dev'; leave the split out"),
        ("figstep", {"limit": 0}, "limit must be at least 1"),
        ("figstep", {"missing": "maybe"}, "'error' or 'skip'"),
        (
            "figstep",
            {},
            r"figstep: .* contains no figstep_audio/test_250\.json; check that it is the benchmark\'s folder",
        ),
        (
            "figstep",
            {"variant": "text"},
            r"contains no data/question/safebench\.csv or safebench\.csv or \*safebench\*\.csv",
        ),
        ("jalmbench", {}, "contains no AHarm.parquet"),
        ("figstep", {"folder": "none"}, "figstep: there is no folder none; check the path"),
    ],
)
def test_wrong_names(tmp_path: Path, name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(BenchmarkError, match=match) as caught:
        items_of(name, **{"folder": tmp_path, **options})
    assert "\n" not in str(caught.value)


def broken(path: Path, content: str | bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


_HEAD = ",".join(_SAFEBENCH) + "\n"


@pytest.mark.parametrize(
    ("name", "file", "content", "match"),
    [
        ("figstep", "safebench.csv", _HEAD + "a,1,1\n", "line 2: has more or fewer fields"),
        ("figstep", "safebench.csv", _HEAD + "a,1,1,c,q,i,more\n", "line 2: has more or fewer fields"),
        ("figstep", "safebench.csv", _HEAD + "a,1,1,c, ,i\n", "line 2: has no question"),
        ("figstep", "safebench.csv", _HEAD + "a,1,1,c,q,i\na,1,1,c,r,i\n", "two items 'figstep-1-1'"),
        ("figstep", "safebench.csv", _HEAD, "contains no items"),
        ("figstep", "safebench.csv", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("advbench", "harmful_behaviors.csv", "aim,target\na,b\n", "has no goal or behavior or prompt"),
        ("advbench", "advbench_audio.json", "{", "is not valid JSON"),
        ("advbench", "advbench_audio.json", "{}", "is not a list of objects"),
        ("advbench", "advbench_audio.json", "[1]", "entry 0: is not a JSON object"),
        ("sorry_bench", "question.jsonl", '{"question_id": 1, "category": "1"}', "line 1: has no turns"),
        ("sorry_bench", "question.jsonl", '{"question_id": 1, "category": "1", "turns": []}', "line 1: has no turns"),
        ("sorry_bench", "question.jsonl", '{"turns": ["x"], "category": 1}', "line 1: has no question_id"),
        ("sorry_bench", "question.jsonl", "{", "line 1: is not valid JSON"),
        ("sorry_bench", "question.jsonl", "version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("ajailbench", "combined_output.jsonl", '{"speech_path": "a.wav"}', "has no goal"),
        ("ajailbench", "combined_output.jsonl", '{"goal": "g"}', "has no speech_path"),
        ("air_bench_chat", "Chat_meta.json", '[{"task_name": "a", "dataset_name": "b"}]', "has no question"),
        ("jalmbench", "AHarm.parquet", "words", "not a valid Parquet file"),
        ("xstest", "xstest.csv", "id,type,prompt\n1,homonyms,\n", "line 2: has no prompt"),
        ("xstest", "xstest.csv", "id,type,prompt,label\n1,a,b,bad\n", "the label 'bad'; it must be safe or unsafe"),
        ("xstest_spoken", "metadata.csv", "file_name\na.wav\n", "has no prompt"),
        ("voicebench", "advbench/test-0.parquet", b"PAR1", "not a valid Parquet file"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, file: str, content: str | bytes, match: str) -> None:
    if file.startswith("advbench_audio"):
        advbench_pairs(tmp_path)
    broken(Path(file), content)(tmp_path)
    with pytest.raises(BenchmarkError, match=match) as caught:
        items_of(name, folder=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.wav", "/etc/hostname", "..\\secret.wav", "C:\\x.wav"])
def test_paths_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    advbench_pairs(tmp_path)
    written(tmp_path / "advbench_audio.json", [{"question_id": 1, "audio_name": name, "question": "q"}])
    with pytest.raises(BenchmarkError, match="is outside the benchmark's folder"):
        items_of("advbench", folder=tmp_path)


def test_two_copies_are_an_error(tmp_path: Path) -> None:
    figstep_csv(tmp_path / "a")
    figstep_csv(tmp_path / "b")
    with pytest.raises(BenchmarkError, match="contains several"):
        items_of("figstep", folder=tmp_path, variant="text")


def test_audio_in_another_form(tmp_path: Path) -> None:
    columns(tmp_path / "AHarm.parquet", [{"id": "1", "text": "t", "audio": 3}])
    with pytest.raises(BenchmarkError, match="neither bytes nor a path"):
        items_of("jalmbench", folder=tmp_path)
    columns(tmp_path / "AHarm.parquet", [{"id": "1", "text": "t", "audio": None}])
    assert items_of("jalmbench", folder=tmp_path)[0].modality == "text"


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jalmbench(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"sarsteer\[eval\]"):
        items_of("jalmbench", folder=tmp_path)


# ---- the Hub ---------------------------------------------------------------------------------------------------------


def test_an_error_about_a_gated_benchmark_says_where_its_terms_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    page = "https://huggingface.co/datasets/sorry-bench/sorry-bench-202406"
    with pytest.raises(BenchmarkError, match=f"accept its terms at {page}, then set HF_TOKEN"):
        items_of("sorry_bench", variant="202406")


def test_an_error_about_a_benchmark_that_is_not_on_the_hub_says_where_it_is() -> None:
    with pytest.raises(BenchmarkError, match=r"get it from https://github\.com/ThuCCSLab/FigStep"):
        items_of("figstep")


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        BenchmarkError, match=r"air_bench_chat: .* cannot be reached and was not fetched before"
    ) as caught:
        items_of("air_bench_chat")
    assert "\n" not in str(caught.value)


def test_the_request_to_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    voicebench(tmp_path)

    def snapshot(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(tmp_path)

    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert len(items_of("voicebench", variant="alpacaeval", revision="9d42335")) == 2
    assert asked == [
        {
            "name": "hlt-lab/voicebench",
            "repo_type": "dataset",
            "revision": "9d42335",
            "token": "hf_x",
            "allow_patterns": ["alpacaeval/*.parquet"],
        }
    ]


# ---- the registry ----------------------------------------------------------------------------------------------------


def test_each_benchmark_declares_what_a_user_must_know() -> None:
    for name, benchmark in BENCHMARKS.classes().items():
        assert benchmark.name == name
        assert benchmark.license
        assert benchmark.source
        assert benchmark.title
        assert benchmark.judge == ("embedded" if name == "embedded" else "keywords")
        assert {variant.metric for variant in benchmark.variants} <= {"refusal", "chat_score"}
    silent = [name for name, benchmark in BENCHMARKS.classes().items() if not benchmark.may_be_spoken]
    assert silent == ["sorry_bench"]


def test_the_help_of_benchmarks() -> None:
    usages = dict(zip(BENCHMARKS.names(), BENCHMARKS.help(), strict=True))
    assert usages["figstep"][0] == "figstep[/VARIANT][@SPLIT]:FOLDER"
    assert usages["figstep"][1].endswith("Variants: spoken (test, train), text.")
    assert usages["sorry_bench"][0] == "sorry_bench[/VARIANT][:FOLDER]"
    assert usages["embedded"][0] == "embedded[@SPLIT]"
    assert usages["embedded"][1].endswith("Splits: test, calibration, everyday.")
    assert usages["manifest"][0] == "manifest[@SPLIT]:FILE"


@pytest.mark.parametrize(
    ("text", "variant", "split", "folder", "label"),
    [
        ("figstep", None, None, None, "figstep"),
        ("figstep/text:data", "text", None, "data", "figstep/text"),
        ("figstep@train:/data/a:b", None, "train", "/data/a:b", "figstep@train"),
        ("ajailbench/perturbed@diva:x/y.z", "perturbed", "diva", "x/y.z", "ajailbench/perturbed@diva"),
        ("manifest:a/requests.jsonl", None, None, "a/requests.jsonl", "requests"),
        ("manifest:a.py:b", None, None, "a.py:b", "a"),
        ("embedded@calibration", None, "calibration", None, "embedded@calibration"),
    ],
)
def test_a_spec_is_parsed_once(
    text: str, variant: str | None, split: str | None, folder: str | None, label: str
) -> None:
    spec = BenchmarkSpec.parse(text)
    assert (spec.variant, spec.split, spec.label) == (variant, split, label)
    assert spec.folder == (None if folder is None else Path(folder))
    assert str(spec) == text
    assert BenchmarkSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("figsteps", "unknown benchmark 'figsteps'"),
        ("", "unknown benchmark ''"),
        ("figstep/sung", "figstep: has no variant 'sung'; use one of spoken, text"),
        ("figstep/text@test", "figstep: has no split 'test'; leave the split out"),
        ("figstep@dev", "figstep: has no split 'dev'; use test or train"),
        ("nowhere.py:Mine/text", "benchmark nowhere.py:Mine: there is no file nowhere.py; check the path"),
    ],
)
def test_a_wrong_spec_is_an_error_when_it_is_parsed(text: str, match: str) -> None:
    with pytest.raises(BenchmarkError, match=match):
        BenchmarkSpec.parse(text)


def test_the_embedded_benchmark() -> None:
    embedded = load_benchmark("embedded", limit=4)
    assert (embedded.name, embedded.judge, embedded.metric) == ("embedded", "embedded", "refusal")
    assert [item.label for item in embedded.items] == ["harmful", "safe"] * 2
    assert [item.label for item in load_benchmark("embedded@everyday", limit=2).items] == ["safe"] * 2
    with pytest.raises(BenchmarkError, match="embedded: the clips are part of the package; leave the folder out"):
        load_benchmark("embedded:here")
    with pytest.raises(BenchmarkError, match="manifest: names no file; write manifest:FILE"):
        load_benchmark("manifest")


def test_the_digest_of_a_benchmark_changes_with_all_that_is_asked() -> None:
    benchmark = load_benchmark("embedded", limit=2)
    first = benchmark.items[0]
    others = [
        load_benchmark("embedded", limit=3),
        *(
            replace(benchmark, items=(replace(first, **{field: "x"}), *benchmark.items[1:]))
            for field in ("id", "label", "question", "text")
        ),
    ]
    assert len({benchmark.digest, *(other.digest for other in others)}) == 6
    assert load_benchmark("embedded", limit=2).digest == benchmark.digest


def test_the_longest_clips_come_first() -> None:
    benchmark = load_benchmark("embedded", limit=3)
    first, second, third = benchmark.items
    assert benchmark.by_length == [first, second, third], "as they are, if the lengths are not known"
    timed = replace(benchmark, seconds={first.id: 1.0, second.id: 3.0, third.id: 2.0})
    assert timed.by_length == [second, third, first]


def test_loaded_text_can_be_saved(tmp_path: Path) -> None:
    figstep_csv(tmp_path)
    save_items(tmp_path / "m.jsonl", items_of("figstep", folder=tmp_path))
    assert items_of("manifest", folder=tmp_path / "m.jsonl")[0].extra["benchmark"] == "figstep"


@pytest.mark.parametrize(
    ("file", "name"), [("a/manifest.jsonl", "a"), ("b/manifest.jsonl", "b"), ("a/mine.jsonl", "mine"), ("a", "a")]
)
def test_manifests_of_two_folders_have_two_names(file: str, name: str) -> None:
    assert BenchmarkSpec.parse(f"manifest:{file}").label == name
