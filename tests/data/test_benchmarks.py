"""Benchmarks, from small files of our own making in exactly the originals' formats, and in every broken one."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sarsteer.data.benchmarks import BENCHMARKS, load_benchmark
from sarsteer.data.benchmarks.cache import stored
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


def figstep_pairs(folder: Path) -> None:
    for half, verb in (("figstep_audio", "break"), ("figstep_audio_safe", "mend")):
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
    items = load_benchmark(name, folder=tmp_path, **options)
    assert (items[0].id, items[0].question, items[0].label, items[0].modality) == first
    assert len(items) == count
    assert len({item.id for item in items}) == count
    assert all(item.extra["benchmark"] == name for item in items)
    assert all((item.media is None) == (item.modality == "text") for item in items)
    assert all(item.media is None or soundfile.info(item.media).frames == 1_600 for item in items)
    assert items.skipped == ()
    json.dumps([item.extra for item in items])
    assert load_benchmark(name, folder=tmp_path, limit=1, **options) == items[:1]


def test_what_else_each_row_says(tmp_path: Path) -> None:
    for make in (figstep_pairs, figstep_csv, ajailbench, air_bench, jalmbench, voicebench):
        make(tmp_path / make.__name__)
    (text, _) = load_benchmark("figstep", folder=tmp_path / "figstep_csv")
    assert text.category == "Illegal Activity"
    assert text.extra["instruction"] == "Steps to wrong 1."
    harmful, safe, *_ = load_benchmark("figstep", folder=tmp_path / "figstep_pairs")
    assert harmful.pair == safe.pair
    assert (safe.label, safe.question) == ("safe", "mend 4")
    assert harmful.audio != safe.audio
    (jail,) = load_benchmark("ajailbench", folder=tmp_path / "ajailbench")
    assert jail.category == "Fraud"
    assert jail.extra["prompt"].startswith("You are a pirate")
    (perturbed,) = load_benchmark("ajailbench", folder=tmp_path / "ajailbench", variant="perturbed")
    assert Path(perturbed.extra["clean"]) == jail.audio, "what it was before is known where the base lies beside it"
    assert perturbed.audio.parts[-3:] == ("APT", "qwen2", "7.wav")
    assert "response" not in perturbed.extra
    chat = load_benchmark("air_bench_chat", folder=tmp_path / "air_bench")
    assert (chat[0].text, chat[0].answer, chat[0].category) == ("What is heard?", "A dog.", "sound_QA_clotho")
    assert chat.metric == "chat_score"
    one, other = load_benchmark("jalmbench", folder=tmp_path / "jalmbench")
    assert (one.extra["gender"], other.extra["gender"], one.extra["accent"]) == ("male", "female", "GB")
    assert one.extra["spoken_text"] == "Please do wrong"
    assert (one.id, other.id) == ("jalmbench-AHarm-5", "jalmbench-AHarm-5-2")
    tree, _ = load_benchmark("voicebench", folder=tmp_path / "voicebench", variant="alpacaeval")
    assert tree.answer == "Oak"


def test_a_benchmark_with_twins_is_calibrated_on_as_it_is(tmp_path: Path) -> None:
    figstep_pairs(tmp_path)
    pairs = load_pairs(f"figstep@train:{tmp_path}")
    assert [pair.harmful.question for pair in pairs] == ["break 1", "break 2", "break 3"]
    assert [pair.safe.question for pair in pairs] == ["mend 1", "mend 2", "mend 3"]
    with pytest.raises(SarsteerError, match="no such folder"):
        load_pairs("figstep@train:/nowhere")
    with pytest.raises(SarsteerError, match="no such manifest"):
        load_pairs("nothing@train:/nowhere")


def test_a_manifest_is_a_benchmark(tmp_path: Path, wav: Path) -> None:
    row = {"id": "a", "audio": wav.name, "question": "q", "label": "safe"}
    written(tmp_path / "test.jsonl", [row])
    assert load_benchmark("manifest", folder=tmp_path)[0].id == "a"
    assert load_benchmark("manifest", folder=tmp_path / "test.jsonl")[0].id == "a"
    with pytest.raises(SarsteerError, match="no such manifest"):
        load_benchmark("manifest", folder=tmp_path, split="calibration")


def test_a_dataset_that_the_datasets_library_wrote(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = clip(tmp_path / "x.wav")
    made = datasets.Dataset.from_dict({"prompt": ["Do it"], "audio": [{"bytes": path.read_bytes(), "path": "x.wav"}]})
    (tmp_path / "advbench").mkdir()
    made.cast_column("audio", datasets.Audio(decode=False)).to_parquet(tmp_path / "advbench" / "test-0.parquet")
    (item,) = load_benchmark("voicebench", folder=tmp_path)
    assert item.audio.read_bytes() == path.read_bytes()


def test_clips_in_tables_are_written_once(tmp_path: Path, cache: Path) -> None:
    jalmbench(tmp_path)
    first = [item.audio for item in load_benchmark("jalmbench", folder=tmp_path)]
    stamps = [os.stat(path).st_mtime_ns for path in first]
    assert [os.stat(item.audio).st_mtime_ns for item in load_benchmark("jalmbench", folder=tmp_path)] == stamps
    assert sorted(p for p in cache.rglob("*") if p.is_file()) == sorted(first)
    first[0].write_bytes(b"")  # a disk that was full
    assert load_benchmark("jalmbench", folder=tmp_path)[0].audio.stat().st_size > 0
    assert {stored(b"ID3x").suffix, stored(b"OggSx").suffix, stored(b"?").suffix} == {".mp3", ".ogg", ".bin"}


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "file"))
    jalmbench(tmp_path)
    with pytest.raises(BenchmarkError, match="SARSTEER_CACHE"):
        load_benchmark("jalmbench", folder=tmp_path)


# ---- clips that are not there ----------------------------------------------------------------------------------------


def test_missing_clips_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question_id": n, "audio_name": f"{n}.wav", "question": f"q {n}"} for n in range(6)]
    for half in ("advbench_audio", "advbench_audio_safe"):
        written(tmp_path / f"{half}.json", rows)
        clip(tmp_path / half / "4.wav")
    with pytest.raises(BenchmarkError, match=r"10 clips are missing: \S*0\.wav, \S*0\.wav, \S*1\.wav, …; fetch them"):
        load_benchmark("advbench", folder=tmp_path)
    with caplog.at_level(logging.WARNING):
        items = load_benchmark("advbench", folder=tmp_path, missing="skip")
    assert [item.id for item in items] == ["advbench-4-harmful", "advbench-4-safe"]
    assert len(items.skipped) == 10
    assert "10 items were left out" in caplog.text
    (tmp_path / "advbench_audio" / "4.wav").unlink()
    (tmp_path / "advbench_audio_safe" / "4.wav").unlink()
    with pytest.raises(BenchmarkError, match="nothing of it is there"):
        load_benchmark("advbench", folder=tmp_path, missing="skip")


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("figsteps", {}, "unknown benchmark 'figsteps'; use one of figstep, "),
        ("figstep", {"variant": "sung"}, "no variant 'sung'; use one of spoken, text"),
        ("figstep", {"split": "dev"}, "no split 'dev'; use test or train"),
        ("advbench", {"split": "dev"}, "no split 'dev'; leave it out"),
        ("figstep", {"limit": 0}, "limit must be at least 1"),
        ("figstep", {"missing": "maybe"}, "'error' or 'skip'"),
        ("figstep", {}, r"holds no figstep_audio/test_250\.json"),
        ("figstep", {"variant": "text"}, r"holds no data/question/safebench\.csv and no safebench\.csv"),
        ("jalmbench", {}, "holds no AHarm.parquet"),
        ("figstep", {"folder": "none"}, "no such folder"),
    ],
)
def test_wrong_words(tmp_path: Path, name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(BenchmarkError, match=match) as caught:
        load_benchmark(name, **{"folder": tmp_path, **options})
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
        ("figstep", "safebench.csv", _HEAD + "a,1,1\n", "line 2: has not as many fields"),
        ("figstep", "safebench.csv", _HEAD + "a,1,1,c,q,i,more\n", "line 2: has not as many fields"),
        ("figstep", "safebench.csv", _HEAD + "a,1,1,c, ,i\n", "line 2: has no question"),
        ("figstep", "safebench.csv", _HEAD + "a,1,1,c,q,i\na,1,1,c,r,i\n", "two items 'figstep-1-1'"),
        ("figstep", "safebench.csv", _HEAD, "nothing of it is there"),
        ("figstep", "safebench.csv", b"\xff\xfe\x00", "not text in UTF-8"),
        ("advbench", "harmful_behaviors.csv", "aim,target\na,b\n", "has no goal or behavior or prompt"),
        ("advbench", "advbench_audio.json", "{", "is not JSON"),
        ("advbench", "advbench_audio.json", "{}", "is no list"),
        ("advbench", "advbench_audio.json", "[1]", "entry 0: is no JSON object"),
        ("sorry_bench", "question.jsonl", '{"question_id": 1, "category": "1"}', "line 1: has no turns"),
        ("sorry_bench", "question.jsonl", '{"question_id": 1, "category": "1", "turns": []}', "line 1: has no turns"),
        ("sorry_bench", "question.jsonl", '{"turns": ["x"], "category": 1}', "line 1: has no question_id"),
        ("sorry_bench", "question.jsonl", "{", "line 1: is not JSON"),
        ("sorry_bench", "question.jsonl", "version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("ajailbench", "combined_output.jsonl", '{"speech_path": "a.wav"}', "has no goal"),
        ("ajailbench", "combined_output.jsonl", '{"goal": "g"}', "has no speech_path"),
        ("air_bench_chat", "Chat_meta.json", '[{"task_name": "a", "dataset_name": "b"}]', "has no question"),
        ("jalmbench", "AHarm.parquet", "words", "no Parquet file"),
        ("xstest_spoken", "metadata.csv", "file_name\na.wav\n", "has no prompt"),
        ("voicebench", "advbench/test-0.parquet", b"PAR1", "no Parquet file"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, file: str, content: str | bytes, match: str) -> None:
    if file.startswith("advbench_audio"):
        advbench_pairs(tmp_path)
    broken(Path(file), content)(tmp_path)
    with pytest.raises(BenchmarkError, match=match) as caught:
        load_benchmark(name, folder=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.wav", "/etc/hostname", "..\\secret.wav", "C:\\x.wav"])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    advbench_pairs(tmp_path)
    written(tmp_path / "advbench_audio.json", [{"question_id": 1, "audio_name": name, "question": "q"}])
    with pytest.raises(BenchmarkError, match="lies outside"):
        load_benchmark("advbench", folder=tmp_path)


def test_two_copies_are_not_guessed_between(tmp_path: Path) -> None:
    figstep_csv(tmp_path / "a")
    figstep_csv(tmp_path / "b")
    with pytest.raises(BenchmarkError, match="holds several"):
        load_benchmark("figstep", folder=tmp_path, variant="text")


def test_audio_of_another_form(tmp_path: Path) -> None:
    columns(tmp_path / "AHarm.parquet", [{"id": "1", "text": "t", "audio": 3}])
    with pytest.raises(BenchmarkError, match="neither bytes nor a path"):
        load_benchmark("jalmbench", folder=tmp_path)
    columns(tmp_path / "AHarm.parquet", [{"id": "1", "text": "t", "audio": None}])
    assert load_benchmark("jalmbench", folder=tmp_path)[0].modality == "text"


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jalmbench(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"sarsteer\[eval\]"):
        load_benchmark("jalmbench", folder=tmp_path)


# ---- the Hub ---------------------------------------------------------------------------------------------------------


def test_a_gated_benchmark_says_where_its_terms_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    page = "https://huggingface.co/datasets/sorry-bench/sorry-bench-202406"
    with pytest.raises(BenchmarkError, match=f"accept its terms at {page}, then set HF_TOKEN"):
        load_benchmark("sorry_bench", variant="202406")


def test_what_is_not_on_the_hub_says_where_it_is() -> None:
    with pytest.raises(BenchmarkError, match=r"get it from https://github\.com/ThuCCSLab/FigStep"):
        load_benchmark("figstep")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BenchmarkError, match="cannot be reached and was not fetched before") as caught:
        load_benchmark("air_bench_chat")
    assert "\n" not in str(caught.value)


def test_what_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    voicebench(tmp_path)

    def snapshot(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(tmp_path)

    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert len(load_benchmark("voicebench", variant="alpacaeval", revision="9d42335")) == 2
    assert asked == [
        {
            "name": "hlt-lab/voicebench",
            "repo_type": "dataset",
            "revision": "9d42335",
            "token": "hf_x",
            "allow_patterns": ["alpacaeval/*.parquet"],
        }
    ]


def test_the_registry_tells_what_a_user_must_know() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert benchmark.licence
        assert benchmark.source
        assert {variant.metric for variant in benchmark.variants} <= {"refusal", "chat_score"}
    assert [name for name, benchmark in BENCHMARKS.items() if not benchmark.may_be_spoken] == ["sorry_bench"]


def test_loaded_text_can_be_saved(tmp_path: Path) -> None:
    figstep_csv(tmp_path)
    save_items(tmp_path / "m.jsonl", load_benchmark("figstep", folder=tmp_path))
    assert load_benchmark("manifest", folder=tmp_path / "m.jsonl")[0].extra["benchmark"] == "figstep"
