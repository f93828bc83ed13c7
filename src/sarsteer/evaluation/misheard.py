"""Whether altered clips were heard at all: a defense that "works" on noise that nobody understands defends nothing.

An item is altered where its manifest names the clean clip (``clean``) or the words that are said (``said``). The
undefended model writes down each altered clip and its clean one, and the word error rate of the first against the
second tells whether it was misheard; ``said`` stands in where there is no clean clip. Measuring against the model's own
transcript of the clean clip counts what the alteration costs, and not what the model never could hear.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.data.manifest import Item
from sarsteer.data.text import words
from sarsteer.defenses import UNDEFENDED, Answerer
from sarsteer.defenses.guard import TRANSCRIBE
from sarsteer.errors import EvaluationError, MissingExtraError
from sarsteer.evaluation.identity import identity
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Arm
from sarsteer.evaluation.summary import summarise
from sarsteer.judges import Judged
from sarsteer.messages import user_turn
from sarsteer.stats.bootstrap import mean

STAGE = "Writing down altered clips"
MAX_NEW_TOKENS = 256
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Hearing:
    """Word error rates of one benchmark's altered clips.

    Attributes:
        wer: by the item's id; above 1 where more words were added than are said.
        limit: a clip with a rate above it counts as misheard.
        clusters: what hangs together, in the order of ``wer``.

    """

    wer: Mapping[str, float]
    limit: float
    clusters: Sequence[str]

    @property
    def misheard(self) -> frozenset[str]:
        """Ids of the clips that were."""
        return frozenset(name for name, rate in self.wer.items() if rate > self.limit)

    def note(self, benchmark: str) -> Note:
        """What a reader must know."""
        found = mean(list(self.wer.values()), self.clusters)
        text = (
            f"{len(self.misheard)} of {len(self.wer)} altered clips were misheard (word error rate above "
            f"{self.limit:g}; mean {found.value:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f})"
        )
        return Note(text, "misheard", benchmark)


def altered(item: Item) -> bool:
    """Whether an item tells what its clip was before."""
    return item.modality == "audio" and any(isinstance(item.extra.get(key), str) for key in ("clean", "said"))


def listen(
    benchmark: LoadedBenchmark,
    answerer: Answerer,
    limit: float,
    cache: Path,
    *,
    instruction: str = TRANSCRIBE,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Hearing | None:
    """Measure a benchmark's altered clips; None where it has none.

    Args:
        benchmark: its items may be of both kinds.
        answerer: has the model; asked without any defense.
        limit: the word error rate above which a clip is misheard.
        cache: a file in JSON Lines of what was written down, added to after every batch; found again by the model,
            the clip's bytes and the instruction.
        instruction: beside each clip.
        batch_size: clips a forward.
        progress: told of the clips that are done.

    Raises:
        EvaluationError: a clip has no answer.
        AudioError: a clean clip cannot be read.
        MissingExtraError: jiwer is not installed.

    """
    try:
        import jiwer
    except ImportError:
        raise MissingExtraError("--max-wer", "eval") from None
    items = [item for item in benchmark.items if altered(item)]
    if not items:
        return None
    clips = {str(path) for item in items for path in (item.audio, item.extra.get("clean")) if path is not None}
    heard = _write_down(sorted(clips), answerer, cache, instruction, batch_size, progress)
    rates: dict[str, float] = {}
    for item in items:
        clean = item.extra.get("clean")
        said = words(heard[str(clean)] if clean is not None else item.extra["said"])
        # where not even the clean clip gave a word, nothing tells that the altered one was heard
        rates[item.id] = float(jiwer.wer(" ".join(said), " ".join(words(heard[str(item.audio)])))) if said else 1.0
    return Hearing(rates, limit, [str(item.extra.get("cluster") or item.id) for item in items])


def without_misheard(arm: Arm, undefended: Arm | None, hearing: Hearing) -> Arm | None:
    """The arm as if its misheard clips had not been asked; None where nothing is left."""
    kept = [answer for answer in arm.answers if answer.id not in hearing.misheard]
    if not kept:
        return None
    items: list[Any] = [
        Judged(a.question, a.answer, a.label, category=a.category, id=a.id, cluster=a.cluster, pair=a.pair)  # type: ignore[arg-type]
        for a in kept
    ]
    plain = [a.verdict for a in undefended.answers if a.id not in hearing.misheard] if undefended else None
    summary = summarise([answer.verdict for answer in kept], items, plain)
    return replace(arm, benchmark=f"{arm.benchmark}, without misheard", summary=summary, answers=tuple(kept))


def _write_down(
    clips: Sequence[str],
    answerer: Answerer,
    cache: Path,
    instruction: str,
    batch_size: int,
    progress: Progress | None,
) -> dict[str, str]:
    whose = json.dumps([identity(answerer.model), instruction, MAX_NEW_TOKENS], sort_keys=True)
    keys = {clip: hashlib.sha256(whose.encode() + Path(clip).read_bytes()).hexdigest() for clip in clips}
    known = _load(cache)
    todo = list({keys[clip]: clip for clip in clips if keys[clip] not in known}.values())
    for start in range(0, len(todo), batch_size):
        batch = todo[start : start + batch_size]
        turns = [user_turn(clip, instruction) for clip in batch]
        replies = answerer.answer(UNDEFENDED, turns, MAX_NEW_TOKENS, batch_size=batch_size)
        with open(cache, "ab") as file:
            for clip, reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    raise EvaluationError(f"{clip}: could not be written down ({reply}); run the same command again")
                known[keys[clip]] = reply.text
                # the line begins the file or ends what a kill may have torn
                file.write(b"\n" + json.dumps({"key": keys[clip], "clip": clip, "heard": reply.text}).encode())
        if progress is not None:
            progress(STAGE, start + len(batch), len(todo))
    return {clip: known[keys[clip]] for clip in clips}


def _load(cache: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in cache.read_bytes().splitlines() if cache.is_file() else ():
        try:
            row = json.loads(line)
            found[row["key"]] = str(row["heard"])
        except (ValueError, KeyError, TypeError):
            continue  # empty, or torn by a kill: that clip is written down again
    return found
