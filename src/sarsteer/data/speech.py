"""Speak written items: a folder of clips, whose names are digests of what determines their sound, and a manifest.

An existing clip is not spoken again, so an interrupted job resumes and ends with the same bytes. The manifest is
written last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sarsteer.data.benchmarks.benchmark import Benchmark
from sarsteer.data.benchmarks.registry import BENCHMARKS
from sarsteer.data.manifest import Item
from sarsteer.data.save import save_items
from sarsteer.data.text import normalize
from sarsteer.errors import SpeechError
from sarsteer.tts.clips import clip_name, speak, write_clip
from sarsteer.tts.engine import Engine
from sarsteer.tts.speaker import Speaker

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Spoken:
    """A finished job.

    Attributes:
        new: how many clips the job spoke.
        existing: how many clips it found.

    """

    manifest: Path
    items: list[Item]
    new: int
    existing: int


def check_permission(items: Sequence[Item]) -> None:
    """Check that the items may be spoken.

    Raises:
        SpeechError: an item is from a benchmark whose license forbids it.

    """
    for name in dict.fromkeys(item.extra.get("benchmark") for item in items):
        benchmark = BENCHMARKS.get(name) if isinstance(name, str) else None
        if benchmark is not None:
            refuse_unless_permitted(benchmark())


def refuse_unless_permitted(benchmark: Benchmark) -> None:
    """Check that a benchmark's license allows speech.

    Raises:
        SpeechError: it does not.

    """
    if not benchmark.may_be_spoken:
        raise SpeechError(
            f"{benchmark.title}'s license forbids {benchmark.forbids}; nothing was spoken. "
            "With its authors' permission, pass --i-have-permission, and do not share the clips"
        )


def plan(items: Sequence[Item], engine: Engine, voices: Sequence[str], *, spread: bool = False) -> list[Item]:
    """The spoken items, without their clips: each in every voice, or, with ``spread``, each pair in one voice in turn.

    Twins always share a voice, or the voice would distinguish them.

    Raises:
        SpeechError: an item is not text, or contains no word.

    """
    planned: list[Item] = []
    turn: dict[str, int] = {}
    for item in items:
        if item.modality != "text":
            raise SpeechError(f"is {item.modality}, not text; choose written items", place=f"item {item.id!r}")
        if not normalize(item.question) or "\0" in item.question:
            raise SpeechError(
                f"nothing in {item.question!r} can be spoken; fix or remove it", place=f"item {item.id!r}"
            )
        number = turn.setdefault(item.pair or item.id, len(turn))
        for voice in [voices[number % len(voices)]] if spread else voices:
            suffix = f"@{voice}" if len(voices) > 1 and not spread else ""
            pair = item.pair + suffix if item.pair is not None else None
            extra = item.extra | {"voice": voice, "engine": engine.name}
            planned.append(replace(item, id=item.id + suffix, pair=pair, modality="audio", extra=extra))
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
        items: written items.
        engine: the speech engine.
        voices: each item is spoken in each of these.
        folder: created if it does not exist; receives ``clips/`` and ``manifest.jsonl``.
        speed: 1 is the engine's default.
        spread: give each item one voice, in turn, instead of all.
        permitted: speak items although a license forbids it; requires the owners' permission.
        progress: called after each clip with the number of finished clips and their total.

    Raises:
        SpeechError: there is nothing to speak, a voice is unknown, a license forbids it, or an item cannot be spoken.

    """
    if not permitted:
        check_permission(items)
    if not items or not voices:
        raise SpeechError("there is nothing to speak; give at least one written item and one voice")
    if not 0.1 <= speed <= 10:
        raise SpeechError(f"speed must be from 0.1 to 10, not {speed:g}; 1 is the engine's default")
    if len(set(voices)) < len(voices):
        raise SpeechError("a voice is given twice; give each once")
    for voice in voices:
        engine.check_voice(voice)
    planned = plan(items, engine, voices, spread=spread)
    clips = folder / "clips"
    try:
        clips.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise SpeechError(f"cannot be created ({reason}); choose another folder", place=str(clips)) from None
    paths = [clips / clip_name([(Speaker(engine, item.extra["voice"]), item.question)], speed) for item in planned]
    missing: dict[Path, Item] = {}
    for path, item in zip(paths, planned, strict=True):
        if not path.is_file():
            missing.setdefault(path, item)
    done = total = len(set(paths))
    done -= len(missing)

    def make(target: tuple[Path, Item]) -> None:
        path, item = target
        try:
            write_clip(path, speak(Speaker(engine, item.extra["voice"]), item.question, speed))
        except SpeechError as error:
            raise error.at(f"item {item.id!r}") from None

    with ThreadPoolExecutor(engine.in_flight) as pool:
        futures = [pool.submit(make, target) for target in missing.items()]
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
    return Spoken(manifest, spoken, new=len(missing), existing=total - len(missing))
