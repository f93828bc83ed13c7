"""Safe twins of harmful requests: written by one model, checked by another, and kept only if they are similar."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from sarsteer.data.manifest import Item
from sarsteer.data.text import normalize, word_similarity
from sarsteer.data.twin_log import TwinLog, TwinResult
from sarsteer.data.twin_prompts import CHECK, WRITE, ReplyError, twin_in, verdict_in
from sarsteer.errors import AnswerError, ManifestError
from sarsteer.messages import Message
from sarsteer.models.interface import LanguageModel

THRESHOLD = 0.5
"""Least word similarity of a twin; replacing "an illegal human organ trade" by "a fruit trade" gives 0.64."""

TRIES = 4
_TOKENS = 1024


@dataclass(frozen=True)
class Twins:
    """The twins of a list of requests.

    Attributes:
        items: each harmful request as text, followed by its twin.
        rejected: the requests without a twin.

    """

    items: list[Item]
    rejected: list[TwinResult]


def make_twins(
    items: Sequence[Item],
    model: LanguageModel,
    checker: LanguageModel,
    log: Path,
    *,
    threshold: float = THRESHOLD,
    tries: int = TRIES,
    in_flight: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Twins:
    """Write a safe twin for every harmful item.

    Args:
        items: the harmful ones among them are used, by their questions, spoken or not.
        model: writes the twins.
        checker: decides whether a twin is harmless; may be the same model, which then checks itself.
        log: file to which every result is appended; an interrupted run resumes from it.
        threshold: the least word similarity.
        tries: tries per request; each repeats the request with the reason for the last rejection.
        in_flight: requests processed in parallel.
        progress: called with the number of finished requests and their total.

    Raises:
        ManifestError: no item is harmful, or the log belongs to a run with other settings.
        ModelError: the server fails permanently; the results so far stay in the log.

    """
    harmful = [item for item in items if item.harmful]
    if not harmful:
        raise ManifestError("no item is harmful; give harmful requests, from which safe twins are written")
    if not 0 <= threshold <= 1 or tries < 1 or in_flight < 1:
        raise ManifestError("the threshold must be from 0 to 1, and tries and requests in flight at least 1")
    ids = {item.id for item in harmful}
    clash = next((item.id for item in harmful if f"{item.id}-safe" in ids), None)
    if clash is not None:
        raise ManifestError(f"the twin of {clash!r} needs id '{clash}-safe', which another item has; rename that item")
    settings = {"model": str(model), "checker": str(checker), "threshold": threshold, "tries": tries}
    results = TwinLog(log, settings)
    taken = {normalize(item.question) for item in harmful}
    stop = threading.Event()
    lock = threading.Lock()
    done = sum(results.of(item) is not None for item in harmful)

    def work(item: Item) -> None:
        nonlocal done
        if stop.is_set() or results.of(item) is not None:
            return
        try:
            result = _twin_of(item, model, checker, taken, threshold, tries)
        except BaseException:
            stop.set()  # at once, so that no other request is sent before the failure is noticed
            raise
        with lock:
            results.add(result)
            done += 1
            if progress is not None:
                progress(done, len(harmful))

    with ThreadPoolExecutor(in_flight) as pool:
        futures = [pool.submit(work, item) for item in harmful]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            stop.set()
            raise
    pair_counts = Counter(item.pair for item in harmful)
    twins: list[Item] = []
    rejected: list[TwinResult] = []
    for item in harmful:
        result = results.of(item)
        assert result is not None
        if result.twin is None:
            rejected.append(result)
        else:
            pair = item.pair if item.pair is not None and pair_counts[item.pair] == 1 else item.id
            twins += _pair(item, result.twin, pair)
    return Twins(twins, rejected)


def _pair(item: Item, twin: str, pair: str) -> list[Item]:
    written = replace(item, modality="text", media=None, pair=pair)
    safe = replace(written, id=f"{item.id}-safe", question=twin, label="safe", answer=None)
    return [written, safe]


def _twin_of(
    item: Item, model: LanguageModel, checker: LanguageModel, taken: set[str], threshold: float, tries: int
) -> TwinResult:
    conversation: list[Message] = [{"role": "user", "content": WRITE + item.question}]
    reasons: list[str] = []
    for _ in range(tries):
        try:
            (reply,) = model.generate([conversation], _TOKENS)
        except AnswerError as error:
            reasons.append(str(error))
            continue
        try:
            twin = twin_in(reply)
            reason = _dissimilar(item.question, twin, taken, threshold) or _harmful(twin, checker)
        except ReplyError as error:
            reason = str(error)
        if reason is None:
            return TwinResult(item.id, item.question, twin, tuple(reasons))
        reasons.append(reason)
        conversation = [
            *conversation,
            {"role": "assistant", "content": reply},
            {"role": "user", "content": f"That will not do: {reason}. Try again, in the same form."},
        ]
    return TwinResult(item.id, item.question, None, tuple(reasons))


def _dissimilar(question: str, twin: str, taken: set[str], threshold: float) -> str | None:
    same = normalize(twin)
    if same == normalize(question):
        return "the twin is the request itself"
    if not same or same in taken:
        return "the twin is another of the harmful requests" if same else "the twin contains no word"
    similarity = word_similarity(question, twin)
    if similarity < threshold:
        return f"the twin keeps too few of the request's words ({similarity:.2f} of 1, at least {threshold:g} needed)"
    return None


def _harmful(twin: str, checker: LanguageModel) -> str | None:
    """Why the twin is rejected; also if the check cannot be read, so that no unchecked twin is kept."""
    try:
        (reply,) = checker.generate([[{"role": "user", "content": CHECK + twin}]], _TOKENS)
        harmless, because = verdict_in(reply)
    except (AnswerError, ReplyError) as error:
        return f"the twin could not be judged ({error})"
    return None if harmless else f"the twin was judged harmful ({because or 'no reason given'})"
