"""The set as spoken items. Each clip is spoken once and kept in the cache, under a digest of its voice and words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sarsteer.data.manifest import Item
from sarsteer.data.sarsteer_pairs.texts import GROUPS, NAME, lines
from sarsteer.data.sarsteer_pairs.voices import speakers, turns_of
from sarsteer.errors import SarsteerError, SpeechError
from sarsteer.files import cache_folder
from sarsteer.progress import progress
from sarsteer.tts.clips import clip_name, speak_turns, write_clip
from sarsteer.tts.speaker import Speaker


def load_sarsteer_pairs(
    split: str = "calibration",
    group: str | Sequence[str] | None = None,
    *,
    voices: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[Item]:
    """Spoken items of ``sarsteer-pairs``, in a fixed order that mixes topics and groups.

    Clips that were not spoken before are spoken now, about 20 ms each with eSpeak NG, into ``~/.cache/sarsteer/speech``
    or the folder in ``SARSTEER_CACHE``. An interrupted call resumes, and several processes may load at once.

    Args:
        split: ``"calibration"``, ``"tuning"`` or ``"test"``; no topic is in two of them.
        group: one or several of ``"harmful"``, ``"twin"``, ``"contrast"``, ``"borderline"``, ``"everyday"``,
            ``"other"``; all by default.
        voices: ``[ENGINE:]VOICE`` each; eight English voices of eSpeak NG by default. Both lines of a pair have the
            same voice, which depends on the pair and on this list only.
        limit: only the first items.

    Returns:
        items as a manifest gives them. ``extra`` contains ``group``, ``voice``, ``style``, ``topic``, ``split`` and
        ``set``.

    Raises:
        ManifestError: there is no such split or group.
        SpeechError: a voice is missing, or the cache cannot be written.
        MissingExtraError: eSpeak NG is not installed.

    """
    groups = GROUPS if group is None else (group,) if isinstance(group, str) else tuple(group)
    return list(speak_lines(lines(split, groups)[:limit], voices))


def speak_lines(items: Sequence[Item], voices: Sequence[str] | None) -> Iterator[Item]:
    """The items with their clips, each spoken when it is its turn.

    Raises:
        SpeechError, MissingExtraError: as ``load_sarsteer_pairs``.

    """
    choice = speakers(voices)
    folder = cache_folder() / "speech"
    plan = []
    for item in items:
        turns = turns_of(item, choice)
        name = clip_name(turns)
        path = folder / name[:2] / name
        plan.append((_spoken(item, path, [speaker for speaker, _ in turns]), path, turns))
    missing = sum(not path.is_file() for _, path, _ in plan)
    if not missing:
        yield from (item for item, _, _ in plan)
        return
    done = 0
    with progress(f"{NAME}: speaking {missing} clips into {folder} (once)") as report:
        for item, path, turns in plan:
            if not path.is_file():
                _create(path.parent)
                try:
                    write_clip(path, speak_turns(turns))
                except SpeechError as error:
                    raise error.at(f"{NAME}, {item.id}") from None
                except SarsteerError as error:
                    raise SpeechError(f"{error}; name another cache in SARSTEER_CACHE") from None
                done += 1
                report(done / missing)
            yield item


def _spoken(item: Item, path: Path, voices: Sequence[Speaker]) -> Item:
    """The item with its clip, whose engine and voice it records."""
    engines = dict.fromkeys(f"{speaker.engine.name} {speaker.engine.version}" for speaker in voices)
    extra = item.extra | {"voice": ", ".join(map(str, voices)), "engine": ", ".join(engines)}
    return replace(item, modality="audio", media=path, extra=extra)


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise SpeechError(
            f"cannot be created ({reason}); name another cache in SARSTEER_CACHE", place=str(folder)
        ) from None
