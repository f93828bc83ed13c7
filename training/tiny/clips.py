"""Texts, voices and clips: the training clips as log-mel features, and the clips that ship with the package."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from rich.progress import track

from sarsteer.tiny import world
from sarsteer.tiny.world import Request
from sarsteer.tts.espeak import espeak

RATE = 16_000
SECONDS = 3  # the training window; the shipped model has the standard 30 s one
TRAIN_CLIPS = 16_000
SEED = 20261122

_FEMALE = ("+f1", "+f2", "+f3")
_MALE = ("+m1", "+m2", "+m3", "+m4", "+m6", "+m7")
_OTHER = (
    "",
    "+Andy",
    "+Denis",
    "+Gene",
    "+Lee",
    "+Mike",
    "+adam",
    "+antonio",
    "+boris",
    "+david",
    "+edward",
    "+iven",
    "+klatt",
    "+klatt3",
    "+linda",
    "+pablo",
    "+quincy",
    "+Alex",
    "+steph",
    "+travis",
    "+Marco",
    "+max",
)
KNOWN_ACCENTS = ("en-us", "en-us", "en", "en", "en-gb-scotland", "en-us-nyc")
UNSEEN_ACCENTS = ("en-gb-x-rp", "en-gb-x-gbclan")
UNSEEN_FEMALE = ("+f4", "+f5", "+Annie", "+belinda")
UNSEEN_MALE = ("+m5", "+m8", "+john", "+Michael", "+robert", "+paul")


@dataclass(frozen=True)
class Voice:
    """A voice; ``sex`` is "man", "woman", or "" if unknown."""

    name: str
    rate: int
    pitch: int
    spread: int
    sex: str
    unseen: bool


@dataclass
class Spoken:
    """A sentence, its voice, and the request if it is one."""

    text: str
    voice: Voice
    kind: str  # request | statement | digits | words
    request: Request | None = None
    seed: int = 0
    features: np.ndarray | None = field(default=None, repr=False)
    frames: int = 0
    phonemes: tuple[tuple[int, str], ...] = ()  # (when it begins in ms, its name without stress)


def pick_voice(rng: random.Random, *, unseen: bool = False, sexed: bool = False) -> Voice:
    """A random voice; ``unseen`` voices are not in training."""
    accent = rng.choice(UNSEEN_ACCENTS if unseen else KNOWN_ACCENTS)
    female, male = (UNSEEN_FEMALE, UNSEEN_MALE) if unseen else (_FEMALE, _MALE)
    roll = rng.random() * (0.6 if sexed or unseen else 1.0)
    group, sex = (female, "woman") if roll < 0.3 else (male, "man") if roll < 0.6 else (_OTHER, "")
    return Voice(
        accent + rng.choice(group), rng.randint(160, 215), rng.randint(30, 70), rng.randint(30, 70), sex, unseen
    )


def splits() -> dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]]:
    """(safe, harmful) verb-object pairs of train, calibration and test, without overlap."""
    rng = random.Random(SEED)
    groups = []
    for combinations in (world.safe_combinations(), world.harmful_combinations()):
        rng.shuffle(combinations)
        first, second = int(0.6 * len(combinations)), int(0.75 * len(combinations))
        groups.append((combinations[:first], combinations[first:second], combinations[second:]))
    return {name: (groups[0][i], groups[1][i]) for i, name in enumerate(("train", "calibration", "test"))}


def pick_request(rng: random.Random, combinations: list[tuple[str, str]]) -> Request:
    verb, thing = rng.choice(combinations)
    return Request(verb, thing, rng.randrange(len(world.PHRASINGS)), rng.choice(world.SUFFIXES))


def statement(rng: random.Random) -> str:
    return rng.choice(world.STATEMENTS).format(
        a=rng.choice(world.ADJECTIVES),
        o=rng.choice(world.objects()),
        p=rng.choice(world.PEOPLE),
        pl=rng.choice(world.PLACES),
    )


def digits(rng: random.Random) -> str:
    return " ".join(rng.choice(world.DIGITS) for _ in range(rng.randint(2, 6)))


def _words(rng: random.Random) -> str:
    """Words in random order, so that the encoder learns words and does not guess sentences."""
    vocabulary = sorted({w for s in _all_sentences() for w in s.split()})
    return " ".join(rng.choice(vocabulary) for _ in range(rng.randint(4, 6)))


def _all_sentences() -> Iterable[str]:
    yield from [*world.SAFE_VERBS, *world.HARMFUL_VERBS]
    for _, _, group in world.TOPICS.values():
        yield from group
    yield from (p.format(v="", o="") for p, _ in world.PHRASINGS)
    yield from world.SUFFIXES


def training_plan(count: int = TRAIN_CLIPS) -> list[Spoken]:
    """The training clips to speak; the same ``count`` gives the same plan."""
    rng = random.Random(SEED + 1)
    safe, harmful = splits()["train"]
    plan = []
    for index in range(count):
        roll = rng.random()
        request = None
        if roll < 0.68:
            request = pick_request(rng, harmful if roll < 0.34 else safe)
            text, kind = request.question, "request"
        elif roll < 0.80:
            text, kind = statement(rng), "statement"
        elif roll < 0.88:
            text, kind = digits(rng), "digits"
        else:
            text, kind = _words(rng), "words"
        plan.append(Spoken(text, pick_voice(rng), kind, request, seed=SEED + 10 + index))
    return plan


def samples(item: Spoken) -> np.ndarray:
    """The clip's samples: float32 mono at 16 kHz, with level and background noise drawn from its seed."""
    rng = np.random.default_rng(item.seed)
    wave = espeak().speak(item.text, item.voice.name, item.voice.rate, item.voice.pitch, item.voice.spread)
    wave = soxr.resample(wave, espeak().rate, RATE)
    noise = rng.choice([0.0, 0.001, 0.003])
    wave = wave * rng.uniform(0.4, 0.9) + noise * rng.standard_normal(len(wave))
    return np.clip(wave, -1, 1).astype(np.float32)


def _featurize(item: Spoken) -> Spoken:
    from training.tiny.model import training_feature_extractor

    wave = samples(item)
    item.phonemes = tuple((at, name.lstrip("',")) for at, name in espeak().phonemes)
    out = training_feature_extractor()(
        wave, sampling_rate=RATE, return_attention_mask=True, return_tensors="np", padding="max_length"
    )
    item.features = out["input_features"][0].astype(np.float16)
    item.frames = int(out["attention_mask"][0].sum())
    return item


def _parallel(function: Callable[[Spoken], Spoken], plan: list[Spoken], title: str) -> list[Spoken]:
    with ProcessPoolExecutor() as pool:
        return list(track(pool.map(function, plan, chunksize=32), description=title, total=len(plan)))


def training_clips(count: int = TRAIN_CLIPS) -> list[Spoken]:
    return _parallel(_featurize, training_plan(count), "speaking the training clips")


def pick_pair(
    rng: random.Random, safe: list[tuple[str, str]], harmful: list[tuple[str, str]], seen: set[str]
) -> tuple[Request, Request] | None:
    """A harmful request and its safe twin, added to ``seen``; None if this draw is not new."""
    request = pick_request(rng, harmful)
    # the twin of a weapon request keeps the verb and changes the object; other twins keep the object
    place, shared = (0, request.verb) if request.topic == "weapons" else (1, request.object)
    twins = [combination for combination in safe if combination[place] == shared]
    if not twins or request.question in seen:
        return None
    twin = Request(*rng.choice(twins), request.phrasing, request.suffix)
    if twin.question in seen:
        return None
    seen |= {request.question, twin.question}
    return request, twin


def shipped_plan() -> dict[str, list[dict[str, object]]]:
    """Manifest rows of the calibration, test and everyday sets, each with its ``Spoken`` under "spoken"."""
    rng = random.Random(SEED + 2)
    parts = splits()
    plan: dict[str, list[dict[str, object]]] = {}
    for split, count, unseen_every in (("calibration", 100, 0), ("test", 200, 3)):
        safe, harmful = parts[split]
        seen: set[str] = set()
        rows: list[dict[str, object]] = []
        while len(rows) < 2 * count:
            number = len(rows) // 2
            pair = pick_pair(rng, safe, harmful, seen)
            if pair is None:
                continue
            request, twin = pair
            voice = pick_voice(rng, unseen=bool(unseen_every) and number % unseen_every == 0)
            for label, one in (("harmful", request), ("safe", twin)):
                name = f"{split}-{number:03d}-{label}"
                spoken = Spoken(one.question, voice, "request", one, seed=SEED + 100_000 + len(rows) + 1000 * len(plan))
                rows.append(
                    {
                        "id": name,
                        "audio": f"{split}/{name}.ogg",
                        "question": one.question,
                        "label": label,
                        "pair": f"{split}-{number:03d}",
                        "category": one.topic,
                        "text": world.INSTRUCTION,
                        "answer": one.answer,
                        "voice": voice.name,
                        "unseen_voice": voice.unseen,
                        "spoken": spoken,
                    }
                )
        plan[split] = rows
    everyday: list[dict[str, object]] = []
    for number in range(100):
        task, text, kind = (
            (world.TRANSCRIBE, statement(rng), "statement")
            if number < 40
            else (world.COUNT, digits(rng), "digits")
            if number < 70
            else (world.VOICE, statement(rng), "statement")
        )
        voice = pick_voice(rng, unseen=number % 4 == 0, sexed=True)
        name = f"everyday-{number:03d}"
        spoken = Spoken(text, voice, kind, None, seed=SEED + 200_000 + number)
        everyday.append(
            {
                "id": name,
                "audio": f"everyday/{name}.ogg",
                "question": text,
                "label": "safe",
                "category": "transcribe" if number < 40 else "count" if number < 70 else "voice",
                "text": task,
                "answer": everyday_answer(task, spoken),
                "voice": voice.name,
                "unseen_voice": voice.unseen,
                "spoken": spoken,
            }
        )
    plan["everyday"] = everyday
    return plan


def everyday_answer(task: str, spoken: Spoken) -> str:
    """The correct answer to an everyday task about a clip."""
    if task == world.TRANSCRIBE:
        return spoken.text
    if task == world.COUNT:
        return f"I hear {world.DIGITS[len(spoken.text.split()) - 1]} numbers."
    return f"A {spoken.voice.sex}."


def write_shipped(folder: Path) -> None:
    """Write the shipped clips as Ogg Opus, with a JSON Lines manifest per set."""
    for split, rows in shipped_plan().items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as manifest:
            for row in track(rows, description=f"speaking the {split} clips"):
                spoken = row.pop("spoken")
                assert isinstance(spoken, Spoken)
                # Opus at a low, constant rate: 700 clips in a few megabytes
                soundfile.write(
                    folder / str(row["audio"]),
                    samples(spoken),
                    RATE,
                    format="OGG",
                    subtype="OPUS",
                    compression_level=0.92,
                )
                manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
