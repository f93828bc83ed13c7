"""Figures that are reported for the paper's experiments, each with its source.

None was read from the paper. They come from third-party summaries of its ICML version, cross-checked where two
summaries agree; six of them also agree with the listing of the paper's results at wizwand.com. Compare with them, but
do not treat them as ground truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where a figure comes from."""

    name: str

    def __str__(self) -> str:
        return f"{self.name}, second-hand: from third-party summaries of the paper, not checked against it"


PAPER = "SARSteer (arXiv 2510.17633, ICML version)"
MAIN_TABLE = Source(f"{PAPER}, main table")
OTHER_MODELS = Source(f"{PAPER}, results on other models")
UTILITY = Source(f"{PAPER}, results on AIR-Bench")
DIFFERENCES = (
    "the paper judges refusals with SORRY-Bench's judge, and its prompt defenses use the wording of their authors; "
    "do not compare results of another judge"
)


@dataclass(frozen=True)
class Figure:
    """Reported numbers of one model under one defense on one benchmark.

    Attributes:
        source: where they come from.
        asr, brr: in percent.
        score: AIR-Bench's, from 1 to 10.

    """

    source: Source
    asr: float | None = None
    brr: float | None = None
    score: float | None = None


def _row(figstep: float, sorry: float, ajail: float, advbench: float, brr: float, brr_adv: float) -> dict[str, Figure]:
    return {
        "figstep": Figure(MAIN_TABLE, figstep, brr),
        "sorry_bench": Figure(MAIN_TABLE, sorry),
        "ajailbench": Figure(MAIN_TABLE, ajail),
        "advbench": Figure(MAIN_TABLE, advbench, brr_adv),
    }


def _other(none: float, sarsteer: float) -> dict[str, dict[str, Figure]]:
    return {"none": {"figstep": Figure(OTHER_MODELS, none)}, "sarsteer": {"figstep": Figure(OTHER_MODELS, sarsteer)}}


FIGURES: dict[str, dict[str, dict[str, Figure]]] = {
    "qwen2-audio": {
        "none": {**_row(51.6, 27.5, 48.8, 2.9, 70.2, 85.2), "air_bench_chat": Figure(UTILITY, score=7.43)},
        "prompt:ada": _row(30.0, 20.5, 19.0, 1.2, 69.8, 79.8),
        "prompt:harm-check": _row(12.0, 10.6, 19.0, 0.8, 63.2, 64.0),
        "h2s": _row(84.0, 75.5, 38.5, 26.4, 60.8, 81.2),
        "c2r": _row(90.8, 78.4, 49.0, 23.5, 54.2, 84.2),
        "sarsteer": {**_row(10.8, 13.4, 18.0, 0.6, 80.0, 85.0), "air_bench_chat": Figure(UTILITY, score=7.53)},
    },
    "kimi-audio": {
        "none": {**_row(15.6, 12.5, 17.0, 0.0, 61.4, 60.8), "air_bench_chat": Figure(UTILITY, score=7.20)},
        "sarsteer": {**_row(10.0, 6.1, 11.0, 0.0, 88.8, 86.8), "air_bench_chat": Figure(UTILITY, score=7.10)},
    },
    "midashenglm": _other(12.8, 0.0),
    "qwen2.5-omni": _other(42.0, 31.0),
    "qwen3-omni": _other(7.0, 5.0),
    "voxtral-mini": _other(34.0, 30.0),
}
"""By model, defense and benchmark."""


def figure(model: str, defense: str, benchmark: str) -> Figure | None:
    """The reported numbers; None if there are none."""
    return FIGURES.get(model, {}).get(defense, {}).get(benchmark)


def sources(figures: Iterable[Figure | None]) -> list[Source]:
    """The different sources of ``figures``, in their order."""
    return list(dict.fromkeys(figure.source for figure in figures if figure is not None))
