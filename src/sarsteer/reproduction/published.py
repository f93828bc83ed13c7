"""The paper's models, and the figures that are told of it.

The figures are second-hand digests of the ICML version (arXiv 2510.17633), cross-checked where two digests agree. They
were not read off the paper: leads to compare with, no ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND_HAND = (
    "published figures are second-hand digests of the ICML version of arXiv 2510.17633, cross-checked where two agree, "
    "and not read off the paper; its judge is SORRY-Bench's, and its prompt defenses have the originals' wording"
)


@dataclass(frozen=True)
class PaperModel:
    """A model of the paper.

    Attributes:
        key: what ``--model`` calls it.
        checkpoint: its name on the Hub.
        gigabytes: of its weights in bfloat16, roughly.
        packages: what else must be installed, by module, each with how.
        remote_code: whether the checkpoint brings its own Python code.

    """

    key: str
    checkpoint: str
    gigabytes: float
    packages: tuple[tuple[str, str], ...] = ()
    remote_code: bool = False


MODELS = {
    model.key: model
    for model in (
        PaperModel("qwen2-audio", "Qwen/Qwen2-Audio-7B-Instruct", 17),
        PaperModel(
            "kimi-audio",
            "moonshotai/Kimi-Audio-7B-Instruct",
            20,
            (
                ("kimia_infer", "install Moonshot's package from https://github.com/MoonshotAI/Kimi-Audio"),
                ("flash_attn", "pip install flash-attn --no-build-isolation"),
            ),
            remote_code=True,
        ),
        PaperModel("qwen2.5-omni", "Qwen/Qwen2.5-Omni-7B", 18),
        PaperModel("qwen3-omni", "Qwen/Qwen3-Omni-30B-A3B-Instruct", 64),
        PaperModel(
            "voxtral-mini", "mistralai/Voxtral-Mini-3B-2507", 9.5, (("mistral_common", "pip install mistral-common"),)
        ),
        PaperModel("midashenglm", "mispeech/midashenglm-7b", 17, remote_code=True),
    )
}
DEFAULT_MODELS = ("qwen2-audio", "kimi-audio")
"""Those of the paper's main table."""


@dataclass(frozen=True)
class Figure:
    """Published numbers of one model under one defense on one benchmark: per cent, and AIR-Bench's from 1 to 10."""

    asr: float | None = None
    brr: float | None = None
    score: float | None = None


def _row(figstep: float, sorry: float, ajail: float, advbench: float, brr: float, brr_adv: float) -> dict[str, Figure]:
    return {
        "figstep": Figure(figstep, brr),
        "sorry_bench": Figure(sorry),
        "ajailbench": Figure(ajail),
        "advbench": Figure(advbench, brr_adv),
    }


FIGURES: dict[str, dict[str, dict[str, Figure]]] = {
    "qwen2-audio": {
        "none": {**_row(51.6, 27.5, 48.8, 2.9, 70.2, 85.2), "air_bench_chat": Figure(score=7.43)},
        "prompt:ada": _row(30.0, 20.5, 19.0, 1.2, 69.8, 79.8),
        "prompt:harm-check": _row(12.0, 10.6, 19.0, 0.8, 63.2, 64.0),
        "h2s": _row(84.0, 75.5, 38.5, 26.4, 60.8, 81.2),
        "c2r": _row(90.8, 78.4, 49.0, 23.5, 54.2, 84.2),
        "sarsteer": {**_row(10.8, 13.4, 18.0, 0.6, 80.0, 85.0), "air_bench_chat": Figure(score=7.53)},
    },
    "kimi-audio": {
        "none": {**_row(15.6, 12.5, 17.0, 0.0, 61.4, 60.8), "air_bench_chat": Figure(score=7.20)},
        "sarsteer": {**_row(10.0, 6.1, 11.0, 0.0, 88.8, 86.8), "air_bench_chat": Figure(score=7.10)},
    },
    "midashenglm": {"none": {"figstep": Figure(12.8)}, "sarsteer": {"figstep": Figure(0.0)}},
    "qwen2.5-omni": {"none": {"figstep": Figure(42.0)}, "sarsteer": {"figstep": Figure(31.0)}},
    "qwen3-omni": {"none": {"figstep": Figure(7.0)}, "sarsteer": {"figstep": Figure(5.0)}},
    "voxtral-mini": {"none": {"figstep": Figure(34.0)}, "sarsteer": {"figstep": Figure(30.0)}},
}
"""By model, defense and benchmark."""


def figure(model: str, defense: str, benchmark: str) -> Figure | None:
    """The published numbers, where there are any."""
    return FIGURES.get(model, {}).get(defense, {}).get(benchmark)
