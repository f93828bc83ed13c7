"""Keep calibration and test apart: a defense must not be evaluated on the requests that it was calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sarsteer.data.benchmarks import LoadedBenchmark
from sarsteer.data.overlap import check_disjoint
from sarsteer.data.pairs import Pairs, pair_up
from sarsteer.errors import EvaluationError, ManifestError
from sarsteer.evaluation.note import Note

if TYPE_CHECKING:
    from sarsteer.steering.artifact import Steering


def check_not_calibrated_on(
    benchmarks: Sequence[LoadedBenchmark], pairs: Pairs | None, steering: Steering | None
) -> list[Note]:
    """Compare every benchmark with the calibration; returns notes on what could not be compared.

    Args:
        benchmarks: the requests to evaluate on.
        pairs: the calibration pairs, if the user passed them.
        steering: the steering file's content, if there is one; it contains a digest of its pairs.

    Raises:
        EvaluationError: a benchmark shares requests with the calibration.

    """
    for benchmark in benchmarks:
        if pairs is not None:
            try:
                check_disjoint([*pairs.harmful, *pairs.safe], benchmark.items)
            except ManifestError as error:
                raise EvaluationError(str(error), place=benchmark.name) from None
        if steering is not None and _is_calibration_set(benchmark, steering):
            raise EvaluationError(
                "the steering was calibrated on these very requests; evaluate on others", place=benchmark.name
            )
    if steering is None:
        return []
    if pairs is None:
        text = (
            "without --calibration only whole sets were compared: requests that both sets share were not searched for"
        )
        return [Note(text, "overlap")]
    if not _calibrated_on(pairs, steering):
        text = "the steering was not calibrated on the pairs of --calibration, so its own pairs were not compared"
        return [Note(text, "overlap")]
    return []


def _is_calibration_set(benchmark: LoadedBenchmark, steering: Steering) -> bool:
    try:
        return _calibrated_on(pair_up(benchmark.items, benchmark.name), steering)
    except ManifestError:  # it has no pairs
        return False


def _calibrated_on(pairs: Pairs, steering: Steering) -> bool:
    """Whether the steering was calibrated on these pairs, or on the first of them."""
    n = int(steering.metadata.get("pairs", 0))
    return len(pairs) >= n and pairs[:n].digest == steering.metadata.get("pairs_digest")
