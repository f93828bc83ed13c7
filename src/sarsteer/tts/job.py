"""Make written items spoken: a folder of clips named by what decides their sound, and a manifest of them.

A clip that is there is never made again, so a job that was killed goes on where it was and ends with the same bytes;
the manifest is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sarsteer.audio import SILENCE, Clip
from sarsteer.data.benchmarks.benchmark import Benchmark
from sarsteer.data.benchmarks.registry import BENCHMARKS
from sarsteer.data.manifest import Item
from sarsteer.data.save import save_items
from sarsteer.data.text import normalize
from sarsteer.errors import SpeechError
from sarsteer.files import atomic_path
from sarsteer.tts.engine import Engine

MANIFEST = "manifest.jsonl"
_FORMAT = 1
"""Part of every clip's name: raised when the way from an engine's samples to a file changes."""


@dataclass(frozen=True)
class Spoken:
    """What a job has done: its manifest, the items in it, and how many clips were made now and found there."""

    manifest: Path
    items: list[Item]
    made: int
    found: int


def check_permission(items: Sequence[Item]) -> None:
    """Stop before speech is made of what must not be spoken.

    Raises:
        SpeechError: an item is from a benchmark whose licence forbids it.

    """
    for name in dict.fromkeys(item.extra.get("benchmark") for item in items):
        benchmark = BENCHMARKS.get(name) if isinstance(name, str) else None
        if benchmark is not None:
            refuse_unless_permitted(benchmark())


def refuse_unless_permitted(benchmark: Benchmark) -> None:
    """Stop where the licence forbids speech.

    Raises:
        SpeechError: it does.

    """
    if not benchmark.may_be_spoken:
        raise SpeechError(
            f"{benchmark.title}'s licence forbids {benchmark.forbids}: nothing was spoken; "
            "with its authors' permission pass --i-have-permission, and pass no clip on"
        )


def plan(items: Sequence[Item], engine: Engine, voices: Sequence[str], *, spread: bool = False) -> list[Item]:
    """The items as they will be, without their clips: in every voice, or each pair in one of them by turns.

    Twins are always spoken by the same voice, or the voice would tell them apart.

    Raises:
        SpeechError: an item is not written, or holds no word.

    """
    planned: list[Item] = []
    turn: dict[str, int] = {}
    for item in items:
        if item.modality != "text":
            raise SpeechError(f"item {item.id!r} is {item.modality} already; choose written items")
        if not normalize(item.question) or "\0" in item.question:
            raise SpeechError(f"item {item.id!r}: nothing in {item.question!r} can be spoken; mend it")
        number = turn.setdefault(item.pair or item.id, len(turn))
        for voice in [voices[number % len(voices)]] if spread else voices:
            tail = f"@{voice}" if len(voices) > 1 and not spread else ""
            pair = item.pair + tail if item.pair is not None else None
            extra = item.extra | {"voice": voice, "engine": engine.name}
            planned.append(replace(item, id=item.id + tail, pair=pair, modality="audio", extra=extra))
    return planned


def speak_items(
    items: Sequence[Item],
    engine: Engine,
    voices: Sequence[str],
    folder: Path,
    *,
    speed: float = 1.0,
    spread: bool = False,
    permitted: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Spoken:
    """Speak items into ``folder``.

    Args:
        items: written ones.
        engine: what speaks.
        voices: each item is spoken in each of them.
        folder: made if need be; gets ``clips/`` and ``manifest.jsonl``.
        speed: 1 is the engine's own.
        spread: give each item one voice, by turns, instead of all.
        permitted: speak what a licence forbids to be spoken; only with its owners' word.
        progress: told after each clip how many of how many are there.

    Raises:
        SpeechError: nothing to speak, an unknown voice, a licence that forbids it, or an item that cannot be spoken.

    """
    if not permitted:
        check_permission(items)
    if not items or not voices:
        raise SpeechError("nothing to speak: give at least one written item and one voice")
    if not 0.1 <= speed <= 10:
        raise SpeechError(f"speed {speed:g} cannot be right; 1 is the engine's own")
    if len(set(voices)) < len(voices):
        raise SpeechError("a voice was named twice; name each once")
    for voice in voices:
        engine.check_voice(voice)
    planned = plan(items, engine, voices, spread=spread)
    clips = folder / "clips"
    try:
        clips.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpeechError(f"{clips}: cannot be created ({error.strerror or error}); choose another folder") from None
    paths = [clips / f"{_key(engine, item, speed)}.wav" for item in planned]
    wanted: dict[Path, Item] = {}
    for path, item in zip(paths, planned, strict=True):
        if not path.is_file():
            wanted.setdefault(path, item)
    done = total = len(set(paths))
    done -= len(wanted)

    def make(target: tuple[Path, Item]) -> None:
        path, item = target
        _write(path, _speak(engine, item, speed))

    with ThreadPoolExecutor(engine.in_flight) as pool:
        futures = [pool.submit(make, target) for target in wanted.items()]
        try:
            for future in futures:
                future.result()
                done += 1
                if progress is not None:
                    progress(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    spoken = [replace(item, media=path) for item, path in zip(planned, paths, strict=True)]
    manifest = folder / MANIFEST
    save_items(manifest, spoken)
    return Spoken(manifest, spoken, made=len(wanted), found=total - len(wanted))


def _key(engine: Engine, item: Item, speed: float) -> str:
    parts = [_FORMAT, engine.name, engine.version, item.extra["voice"], speed, item.question]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _speak(engine: Engine, item: Item, speed: float) -> Clip:
    try:
        clip = engine.speak(item.question, item.extra["voice"], speed)
    except SpeechError as error:
        raise SpeechError(f"item {item.id!r}: {error}") from None
    if not len(clip.samples) or float(np.abs(clip.samples).max()) < SILENCE:
        raise SpeechError(
            f"item {item.id!r}: {engine.name} made silence of {item.question!r}; use a voice of its language"
        )
    return clip


def _write(path: Path, clip: Clip) -> None:
    import soundfile

    samples = clip.samples / max(1.0, float(np.abs(clip.samples).max()))
    data = io.BytesIO()
    soundfile.write(data, samples, clip.rate, format="WAV", subtype="PCM_16")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getvalue())
