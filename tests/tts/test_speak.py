"""Speaking written requests: the clips, the manifest, and resuming an interrupted job."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from sarsteer.audio import Clip, load_clip
from sarsteer.data.manifest import Item, load_items
from sarsteer.data.pairs import load_pairs
from sarsteer.data.speech import plan, speak_items
from sarsteer.errors import MissingExtraError, SpeechError
from sarsteer.tts.engine import Engine
from sarsteer.tts.espeak import EspeakEngine
from sarsteer.tts.registry import ENGINES, load_engine
from tests.cli.test_cli import refused, run

pytest.importorskip("espeakng_loader")


def text(name: str, question: str = "How do I bake bread?", **more: Any) -> Item:
    return Item(name, question, more.pop("label", "harmful"), modality="text", **more)


def manifest(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"modality": "text", "label": "harmful", **row}) + "\n" for row in rows))
    return path


def bytes_in(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Beep(Engine):
    """Records its requests, and fails on demand."""

    name: ClassVar[str] = "beep"
    default_voice: ClassVar[str] = "a"
    fails_at: int | None = None
    release: str = "1"
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def version(self) -> str:
        return self.release

    def check_voice(self, voice: str) -> None:
        if voice == "bad":
            raise SpeechError("beep has no voice 'bad'")

    def speak(self, text: str, voice: str, speed: float) -> Clip:
        self.asked.append((text, voice))
        if self.fails_at == len(self.asked):
            raise SpeechError("out of breath")
        wave = np.sin(np.arange(800 * len(text)) * (len(voice) + 1) / 9).astype(np.float32)
        return Clip(wave * (0 if text == "mute" else 3), 8_000, voice)


# ---- espeak ----------------------------------------------------------------------------------------------------------


def test_a_clip_does_not_depend_on_what_was_spoken_before() -> None:
    engine = EspeakEngine()
    first = engine.speak("How do I bake bread?", "en-us", 1).digest
    engine.speak("Something else", "de+f2", 1.3)
    assert engine.speak("How do I bake bread?", "en-us", 1).digest == first
    assert engine.speak("How do I bake bread?", "en-us+f2", 1).digest != first
    assert (
        engine.speak("How do I bake bread?", "en-us", 2).seconds
        < engine.speak("How do I bake bread?", "en-us", 1).seconds
    )


@pytest.mark.parametrize("voice", ["english-us", "", "xx", "en-us+nobody", "en-us+", "../en", "en-us+../../x"])
def test_unknown_voices(voice: str) -> None:
    with pytest.raises(SpeechError, match="espeak-ng has no"):
        EspeakEngine().check_voice(voice)


def test_speeds_out_of_range() -> None:
    with pytest.raises(SpeechError, match=r"use 0\.46 to 2\.57"):
        EspeakEngine().speak("hello", "en-us", 9)


def test_without_espeak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"sarsteer\[tts\]"):
        load_engine("espeak")


def test_engines_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, match in (
        ("kokoro", "pip install kokoro"),
        ("piper", "pip install piper-tts"),
        ("x", "unknown speech engine 'x'"),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(SpeechError, match=match):
            load_engine(name)
    assert ENGINES.names() == ["espeak", "kokoro", "openai", "piper"]
    with pytest.raises(SpeechError, match="espeak runs locally and takes no model; use the engine openai"):
        load_engine("espeak", model="tts-1")


# ---- the job ---------------------------------------------------------------------------------------------------------


def test_the_fields_of_a_request_are_kept(tmp_path: Path) -> None:
    items = [
        text("h", pair="1", category="c", text="Answer.", answer="r", extra={"n": 3}),
        text("s", "fix", label="safe", pair="1"),
    ]
    spoken = speak_items(items, Beep(), ["a"], tmp_path / "new" / "folder")
    assert (spoken.new, spoken.existing) == (2, 0)
    harmful, safe = load_items(spoken.manifest)
    assert (harmful.id, harmful.pair, harmful.category, harmful.text, harmful.answer) == ("h", "1", "c", "Answer.", "r")
    assert harmful.extra == {"n": 3, "voice": "a", "engine": "beep"}
    assert (safe.label, safe.question) == ("safe", "fix")
    assert float(np.abs(load_clip(harmful.audio).samples).max()) <= 1
    assert len(load_pairs(spoken.manifest)) == 1


def test_voices_all_or_by_turns() -> None:
    items = [text(f"{label}{n}", label=label, pair=str(n)) for label in ("harmful", "safe") for n in range(3)]
    every = plan(items, Beep(), ["a", "bb"])
    assert [(item.id, item.pair) for item in every[:2]] == [("harmful0@a", "0@a"), ("harmful0@bb", "0@bb")]
    assert len({item.id for item in every}) == 12
    turns = plan(items, Beep(), ["a", "bb"], spread=True)
    voices = {item.id: item.extra["voice"] for item in turns}
    assert [voices[f"harmful{n}"] for n in range(3)] == ["a", "bb", "a"]
    assert all(voices[f"harmful{n}"] == voices[f"safe{n}"] for n in range(3)), "a voice must not distinguish twins"


def test_existing_clips_are_reused(tmp_path: Path) -> None:
    engine = Beep()
    speak_items([text("a"), text("b"), text("c", "other")], engine, ["a"], tmp_path)
    assert len(engine.asked) == 2, "equal texts in one voice are one clip"
    before = bytes_in(tmp_path)
    again = speak_items([text("a"), text("b"), text("c", "other")], engine, ["a"], tmp_path)
    assert (len(engine.asked), again.new, again.existing) == (2, 0, 2)
    assert bytes_in(tmp_path) == before
    speak_items([text("a")], engine, ["a"], tmp_path, speed=1.5)
    speak_items([text("a")], replace(engine, release="2"), ["a"], tmp_path)
    assert len(engine.asked) == 4


def test_a_failed_job_resumes(tmp_path: Path) -> None:
    items = [text(f"i{n}", f"question {n}") for n in range(6)]
    speak_items(items, Beep(), ["a"], tmp_path / "whole")
    with pytest.raises(SpeechError, match="item 'i3': out of breath"):
        speak_items(items, Beep(fails_at=4), ["a"], tmp_path / "broken")
    assert not (tmp_path / "broken" / "manifest.jsonl").exists()
    calls: list[tuple[int, int]] = []
    engine = Beep()
    speak_items(items, engine, ["a"], tmp_path / "broken", progress=lambda done, total: calls.append((done, total)))
    assert len(engine.asked) <= 3
    assert calls[-1] == (6, 6)
    assert bytes_in(tmp_path / "broken") == bytes_in(tmp_path / "whole")


@pytest.mark.parametrize(
    ("items", "voices", "options", "match"),
    [
        ([], ["a"], {}, "nothing to speak"),
        ([text("a")], [], {}, "nothing to speak"),
        ([text("a")], ["a", "a"], {}, "given twice"),
        ([text("a")], ["bad"], {}, "no voice 'bad'"),
        ([text("a")], ["a"], {"speed": 0.0}, "not 0; 1 is"),
        ([text("a")], ["a"], {"speed": float("nan")}, "not nan; 1 is"),
        ([text("a"), text("b", "?!")], ["a"], {}, "item 'b': nothing in '"),
        ([text("a", "x\0y")], ["a"], {}, "item 'a'"),
        ([text("a", "mute")], ["a"], {}, "item 'a': beep returned silence"),
        ([Item("a", "q", "safe", media=Path("a.wav"))], ["a"], {}, "item 'a': is audio, not text"),
        ([text("a", extra={"benchmark": "sorry_bench"})], ["a"], {}, "license forbids"),
    ],
)
def test_invalid_jobs(
    tmp_path: Path, items: list[Item], voices: list[str], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(SpeechError, match=match):
        speak_items(items, Beep(), voices, tmp_path, **options)
    assert not (tmp_path / "manifest.jsonl").exists()


def test_with_permission(tmp_path: Path) -> None:
    items = [text("a", extra={"benchmark": "sorry_bench"})]
    assert speak_items(items, Beep(), ["a"], tmp_path, permitted=True).new == 1


# ---- the command -----------------------------------------------------------------------------------------------------


def test_speak_then_load(tmp_path: Path) -> None:
    path = manifest(
        tmp_path, {"id": "h", "question": "How do I break in?", "pair": "1"},
        {"id": "s", "question": "How do I move in?", "label": "safe", "pair": "1"},
    )  # fmt: skip
    done = run("speak", path, "--voice", "en-us", "--voice", "en-us+f3", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert (output["items"], output["clips_made"], output["engine"]) == (4, 4, "espeak")
    assert len(load_pairs(output["manifest"])) == 2
    again = run("speak", path, "--voice", "en-us", "--out", tmp_path / "out")
    assert "0 new, 2 existing" in again.stdout


def test_spoken_items_are_left_out_with_a_note(tmp_path: Path, wav: Path) -> None:
    path = manifest(
        tmp_path, {"id": "t", "question": "hello"}, {"id": "a", "question": "q", "modality": "audio", "audio": wav.name}
    )
    done = run("speak", path, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "skipped 1 items that are not text" in done.stderr
    spoken = tmp_path / "out" / "manifest.jsonl"
    refused("speak", spoken, "--out", tmp_path / "more", says="give a manifest of written requests")


def test_the_license_is_checked_before_anything_is_fetched_or_spoken(tmp_path: Path) -> None:
    line = refused(
        "speak", "--benchmark", "sorry_bench", "--out", tmp_path / "out", says="SORRY-Bench's license forbids"
    )
    assert "--i-have-permission" in line
    path = manifest(tmp_path, {"id": "a", "question": "hello", "benchmark": "sorry_bench"})
    refused("speak", path, "--out", tmp_path / "out", says="license forbids")
    assert not (tmp_path / "out").exists()
    assert run("speak", path, "--out", tmp_path / "out", "--i-have-permission").returncode == 0


@pytest.mark.slow
def test_wrong_options(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"id": "a", "question": "..."})
    out = ("--out", tmp_path / "out")
    refused("speak", *out, says="give either a manifest or --benchmark")
    refused("speak", path, "--benchmark", "figstep", *out, says="give either a manifest or --benchmark")
    refused("speak", path, "--folder", tmp_path, *out, says="need --benchmark")
    refused("speak", path, *out, says="item 'a'")
    refused("speak", path, "--engine", "shouting", *out, says="unknown speech engine")
    refused("speak", path, "--voice", "english-us", *out, says="no voice")
    refused("speak", "--benchmark", "figstep", "--folder", tmp_path, *out, says="contains no")
    (tmp_path / "file").touch()
    good = manifest(tmp_path, {"id": "a", "question": "hello"})
    refused("speak", good, "--out", tmp_path / "file", says="is not a folder; choose another with --out")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.slow
def test_an_interrupted_job_ends_with_the_same_bytes(tmp_path: Path) -> None:
    rows = [
        {"id": f"i{n}", "question": f"This is request number {n}, and it goes on for some words. " * 3}
        for n in range(60)
    ]
    path = manifest(tmp_path, *rows)
    assert run("speak", path, "--out", tmp_path / "whole").returncode == 0
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "sarsteer.cli.main", "speak", str(path), "--out", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(killed.glob("clips/*.wav"))) < 5:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must be killed before it ends"
    assert not (killed / "manifest.jsonl").exists()
    done = run("speak", path, "--out", killed, "--json")
    assert json.loads(done.stdout)["clips_found"] >= 5
    whole = bytes_in(tmp_path / "whole")
    left = {name for name in bytes_in(killed) if name.endswith(".tmp")}
    assert {name: digest for name, digest in bytes_in(killed).items() if name not in left} == whole


# ---- a server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(openai_server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    from tests.support.openai_server import KEY, ready

    ready(openai_server, monkeypatch)
    return KEY


def test_a_server_speaks(tmp_path: Path, openai_server: Any, key: str) -> None:
    path = manifest(tmp_path, *({"id": f"i{n}", "question": "word " * (n + 1)} for n in range(5)))
    done = run(
        "speak", path, "--engine", "openai", "--model", "tts/fine", "--base-url", openai_server.url, "--voice", "alloy",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"].startswith("tts/fine at http://127.0.0.1")
    items = load_items(tmp_path / "out" / "manifest.jsonl")
    assert [load_clip(item.audio).seconds for item in items] == pytest.approx([0.05 * len(i.question) for i in items])
    assert sorted(body["input"] for body in openai_server.spoken) == sorted(item.question for item in items)
    assert openai_server.spoken[0] | {"input": ""} == {
        "model": "tts/fine",
        "voice": "alloy",
        "input": "",
        "response_format": "wav",
    }


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("missing", "the server has no model 'tts/missing'"),
        ("garbage", "needs a server that sends WAV"),
        ("silent", "is silent"),
    ],
)
def test_a_server_that_fails(tmp_path: Path, openai_server: Any, key: str, model: str, says: str) -> None:
    engine = load_engine("openai", model=f"tts/{model}", base_url=openai_server.url)
    with pytest.raises(SpeechError, match=says) as caught:
        speak_items([text("a")], engine, ["alloy"], tmp_path)
    assert str(caught.value).startswith("item 'a': ")
    assert "\n" not in str(caught.value)


def test_clips_are_kept_when_the_server_fails_later(tmp_path: Path, openai_server: Any, key: str) -> None:
    items = [text(f"i{n}", f"question {n}") for n in range(9)]
    engine = load_engine("openai", model="tts/fails-late", base_url=openai_server.url)
    with pytest.raises(SpeechError, match="voice is tired"):
        speak_items(items, engine, ["alloy"], tmp_path)
    kept = len(list(tmp_path.glob("clips/*.wav")))
    assert kept == 2
    openai_server.spoken.clear()
    with pytest.raises(SpeechError):
        speak_items(items, engine, ["alloy"], tmp_path)
    assert len(list(tmp_path.glob("clips/*.wav"))) == 4


def test_a_key_is_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = manifest(tmp_path, {"id": "a", "question": "hello"})
    refused("speak", path, "--engine", "openai", "--out", tmp_path / "out", says="there is no API key")
