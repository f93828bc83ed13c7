"""Which altered clips the model misheard: a defense that "works" on noise that nobody understands defends nothing.

An item is altered if its manifest names its clean clip (``clean``) or the words that are spoken (``said``). The model,
without a defense, transcribes each altered clip and its clean clip. The word error rate of the first against the second
shows whether the clip was misheard; without a clean clip, ``said`` is the reference. Measured against the model's own
transcript of the clean clip, the rate shows what the alteration costs, and not what the model never understood.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.data.manifest import WITHIN, Item
from sarsteer.data.text import words
from sarsteer.defenses.built import UNDEFENDED
from sarsteer.defenses.request_guard import transcription_of
from sarsteer.errors import EvaluationError, MissingExtraError
from sarsteer.evaluation.note import Note
from sarsteer.messages import user_turn
from sarsteer.runtime.shared import SharedModel
from sarsteer.stats.means import mean

STAGE = "Transcribing altered clips"
MAX_NEW_TOKENS = 256
Progress = Callable[[str, int, int], None]

WITHOUT_MISHEARD = ", without misheard"
"""End of the name of a benchmark's second table, which lacks the clips that this model misheard."""


@dataclass(frozen=True)
class WordErrors:
    """Word error rates of one benchmark's altered clips.

    Attributes:
        benchmark: its name.
        wer: by the item's id; above 1 if the transcript has many more words than the reference.
        limit: a clip with a higher rate counts as misheard.
        clusters: of dependent items, in the order of ``wer``.
        against: the defense that an adaptive attack made these clips for; empty otherwise.

    """

    benchmark: str
    wer: Mapping[str, float]
    limit: float
    clusters: Sequence[str]
    against: str = ""

    @property
    def misheard(self) -> frozenset[str]:
        """Ids of the misheard clips."""
        return frozenset(name for name, rate in self.wer.items() if rate > self.limit)

    @property
    def note(self) -> Note:
        """What a reader must know."""
        rate = mean(list(self.wer.values()), self.clusters, limits=(0, math.inf))
        text = (
            f"{len(self.misheard)} of {len(self.wer)} altered clips were misheard (word error rate above "
            f"{self.limit:g}; mean {rate.value:.2f}, 95 % interval {rate.low:.2f} to {rate.high:.2f})"
        )
        return Note(text, "misheard", self.benchmark)


def is_altered(item: Item) -> bool:
    """Whether an item names its clean clip or its words."""
    return item.modality == "audio" and any(isinstance(item.extra.get(key), str) for key in ("clean", "said"))


def check_altered(benchmarks: Sequence[LoadedBenchmark]) -> None:
    """Raise ``EvaluationError`` if there is no altered clip to measure."""
    if not any(is_altered(item) for one in benchmarks for item in one.items):
        raise EvaluationError(
            "--max-wer: no request names its clean clip ('clean') or its words ('said') in a manifest; add one, or "
            "leave --max-wer out"
        )


def measure_word_errors(
    benchmarks: Sequence[LoadedBenchmark],
    shared: SharedModel,
    limit: float | None,
    folder: Path,
    progress: Progress | None = None,
) -> list[WordErrors]:
    """The word error rates of each benchmark that has altered clips.

    Args:
        benchmarks: their items may be altered or not.
        shared: the model; it answers without a defense.
        limit: the word error rate above which a clip is misheard; None to measure nothing.
        folder: of the run. Its ``hearing.jsonl`` stores transcripts; one is found again by the model, the clip's bytes
            and the instruction.
        progress: called with the stage, the number of finished clips, and their total.

    Raises:
        EvaluationError: a clip has no answer.
        AudioError: a clean clip cannot be read.
        MissingExtraError: jiwer is not installed.

    """
    if limit is None:
        return []
    cache = folder / "hearing.jsonl"
    measured = [_measure(benchmark, shared, limit, cache, progress) for benchmark in benchmarks]
    return [one for one in measured if one is not None]


def _measure(
    benchmark: LoadedBenchmark, shared: SharedModel, limit: float, cache: Path, progress: Progress | None
) -> WordErrors | None:
    try:
        import jiwer
    except ImportError:
        raise MissingExtraError("--max-wer", "eval") from None
    items = [item for item in benchmark.items if is_altered(item)]
    if not items:
        return None
    clips = {str(path) for item in items for path in (item.audio, item.extra.get("clean")) if path is not None}
    transcripts = _transcribe(sorted(clips), shared, cache, progress)
    rates: dict[str, float] = {}
    for item in items:
        clean = item.extra.get("clean")
        reference = words(transcripts[str(clean)] if clean is not None else item.extra["said"])
        transcript = words(transcripts[str(item.audio)])
        # if not even the clean clip gave a word, nothing shows that the altered one was understood
        if not reference:
            rates[item.id] = 1.0
        elif item.extra.get(WITHIN):
            rates[item.id] = errors_within(reference, transcript)
        else:
            rates[item.id] = float(jiwer.wer(" ".join(reference), " ".join(transcript)))
    clusters = [str(item.extra.get("cluster") or item.id) for item in items]
    return WordErrors(benchmark.name, rates, limit, clusters, benchmark.against)


def errors_within(reference: Sequence[str], transcript: Sequence[str]) -> float:
    """The word error rate of the part of ``transcript`` that fits ``reference`` (not empty) best.

    For clips that contain more than the request. Sellers' algorithm: an edit distance in which words of the transcript
    before and after the match cost nothing.
    """
    row = [0] * (len(transcript) + 1)
    for i, word in enumerate(reference, 1):
        before, row = row, [i]
        for j, other in enumerate(transcript, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (word != other)))
    return min(row) / len(reference)


def _transcribe(clips: Sequence[str], shared: SharedModel, cache: Path, progress: Progress | None) -> dict[str, str]:
    """A transcript of each clip, by its path."""
    instruction = transcription_of(shared.model.name)
    depends_on = json.dumps([dict(shared.identity), instruction, MAX_NEW_TOKENS], sort_keys=True).encode()
    keys = {clip: hashlib.sha256(depends_on + Path(clip).read_bytes()).hexdigest() for clip in clips}
    known = _load(cache)
    todo = list({keys[clip]: clip for clip in clips if keys[clip] not in known}.values())
    for start in range(0, len(todo), shared.batch_size):
        batch = todo[start : start + shared.batch_size]
        turns = [user_turn(clip, instruction) for clip in batch]
        replies = shared.answerer.answer(UNDEFENDED, turns, MAX_NEW_TOKENS, batch_size=shared.batch_size)
        with open(cache, "ab") as file:
            for clip, reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    raise EvaluationError(f"cannot be transcribed ({reply}); run the same command again", place=clip)
                known[keys[clip]] = reply.text
                # the line break starts the file, or ends a line that a kill cut off
                file.write(b"\n" + json.dumps({"key": keys[clip], "clip": clip, "heard": reply.text}).encode())
        if progress is not None:
            progress(STAGE, start + len(batch), len(todo))
    return {clip: known[keys[clip]] for clip in clips}


def _load(cache: Path) -> dict[str, str]:
    transcripts: dict[str, str] = {}
    for line in cache.read_bytes().splitlines() if cache.is_file() else ():
        try:
            row = json.loads(line)
            transcripts[row["key"]] = str(row["heard"])
        except (ValueError, KeyError, TypeError):
            continue  # empty, or cut off by a kill: the clip is transcribed again
    return transcripts
