"""What a plan with real checkpoints and data needs, what of it is missing on this machine, and how to get it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sarsteer import tiny
from sarsteer.errors import SarsteerError
from sarsteer.reproduction.data_sources import HOW_TO_GET, LIMITS
from sarsteer.reproduction.paper_models import MODELS, PaperModel
from sarsteer.reproduction.plan import SCORED
from sarsteer.reproduction.weights import missing_weights

JUDGE = "sorry-bench/ft-mistral-7b-instruct-v0.2-sorry-bench-202406"
JUDGE_GIGABYTES = 14.5
MEMORY_FACTOR = 1.25
"""Memory needed per memory of the weights: activations and the cache of a batch come on top."""
CALIBRATION_PAIRS = "the calibration pairs of SARSteer's repository (figstep train_100)"


@dataclass(frozen=True)
class Missing:
    """One missing requirement.

    Attributes:
        kind: ``"software"``, ``"hardware"``, ``"checkpoint"``, ``"data"``, or ``"judge"``.
        what: its name.
        why: what was found instead.
        how: how to get it.

    """

    kind: str
    what: str
    why: str
    how: str


@dataclass(frozen=True)
class Requirements:
    """What a run needs.

    Attributes:
        models: keys of the paper's models, folders, or names on the Hub.
        benchmarks: columns of the table.
        data: the folder or manifest of each column.
        calibration: a manifest of pairs; None: those in the FigStep folder.
        judge: the judge of refusals.
        air_judge: the judge of AIR-Bench.
        device: as torch names it; None: a GPU.

    """

    models: Sequence[str]
    benchmarks: Sequence[str]
    data: Mapping[str, str]
    calibration: str | None = None
    judge: str = ""
    air_judge: str | None = None
    device: str | None = None


def find_missing(required: Requirements) -> list[Missing]:
    """All missing requirements. Loads and downloads nothing."""
    return [
        *missing_software(required.models),
        *_hardware(required),
        *(item for model in required.models for item in _checkpoint(model)),
        *(item for name in required.benchmarks for item in _data(name, required)),
        *_calibration(required),
        *_judges(required),
    ]


def missing_software(models: Sequence[str]) -> Iterator[Missing]:
    """Packages that evaluations or these models need and that are not installed."""
    if importlib.util.find_spec("inspect_ai") is None:
        yield Missing("software", "Inspect AI", "not installed", "pip install 'sarsteer[eval]' (Python 3.11 or newer)")
    for key in models:
        for module, how in MODELS[key].packages if key in MODELS else ():
            if importlib.util.find_spec(module) is None:
                yield Missing("software", f"{module}, for {key}", "not installed", how)


def _hardware(required: Requirements) -> Iterator[Missing]:
    import torch

    if set(required.models) == {tiny.NAME} or not (required.device or "cuda").startswith("cuda"):
        return
    sizes = [MODELS[key].gigabytes for key in required.models if key in MODELS]
    judged = JUDGE_GIGABYTES if required.judge.startswith("sorry-bench:") else 0.0
    need = MEMORY_FACTOR * (max(sizes, default=0.0) + judged)
    largest = max((key for key in required.models if key in MODELS), key=lambda key: MODELS[key].gigabytes, default="")
    what = f"a GPU with {need:.0f} GB of memory, for {largest or 'the model'}" + (
        ", beside the judge" if judged else ""
    )
    how = "use a machine with a GPU, a smaller --model or another --judge; --device cpu works but takes weeks"
    if not torch.cuda.is_available():
        why = "torch finds none" if torch.version.cuda else "this torch was built without CUDA"
        yield Missing("hardware", what, why, how)
        return
    available = torch.cuda.get_device_properties(required.device or "cuda").total_memory / 1e9
    if available < need:
        yield Missing("hardware", what, f"{torch.cuda.get_device_name()} has {available:.0f} GB", how)


def _checkpoint(key: str) -> Iterator[Missing]:
    model = MODELS.get(key) or PaperModel(key, key, 0)
    if key == tiny.NAME:
        return
    why = missing_weights(model.checkpoint)
    if why:
        size = f" ({model.gigabytes:g} GB)" if model.gigabytes else ""
        yield Missing("checkpoint", f"{model.checkpoint}{size}", why, f"hf download {model.checkpoint}")


def _data(name: str, required: Requirements) -> Iterator[Missing]:
    from sarsteer.data.benchmarks import BENCHMARKS, load_benchmark

    benchmark, _ = BENCHMARKS.find(name)
    how = HOW_TO_GET[name]
    limits = f"; {LIMITS[name]}" if name in LIMITS else ""
    if name not in required.data:
        yield Missing("data", f"{benchmark.title} ({benchmark.license}{limits})", "no folder given", how)
        return
    try:
        load_benchmark(spec_of(name, required.data[name]))
    except SarsteerError as error:
        yield Missing("data", benchmark.title, str(error), how)


def spec_of(name: str, place: str) -> str:
    """The spec of a benchmark in a folder or a manifest, for ``sarsteer evaluate --benchmark``."""
    return f"manifest:{place}" if place.endswith(".jsonl") else f"{name}:{place}"


def _calibration(required: Requirements) -> Iterator[Missing]:
    from sarsteer.data.pairs import load_pairs

    named = calibration_of(required)
    if named is None:
        yield Missing(
            "data", CALIBRATION_PAIRS, "no folder given", f"{HOW_TO_GET['figstep']}; or pass --calibration PAIRS"
        )
        return
    try:
        load_pairs(named, "calibration")
    except SarsteerError as error:
        yield Missing("data", "calibration pairs", str(error), "fix them, or pass others with --calibration")


def calibration_of(required: Requirements) -> str | None:
    """The calibration pairs: those given, else FigStep's training half."""
    if required.calibration is None and "figstep" in required.data:
        return f"figstep@train:{required.data['figstep']}"
    return required.calibration


def _judges(required: Requirements) -> Iterator[Missing]:
    refusals = [name for name in required.benchmarks if name != SCORED]
    if refusals:
        yield from _judge(required.judge)
    if SCORED in required.benchmarks:
        if required.air_judge is None:
            yield Missing(
                "judge",
                "a model that scores AIR-Bench's answers (the paper's is GPT-4)",
                "none is given",
                f"pass --air-judge air-bench:openai/NAME and set OPENAI_API_KEY; or pass --without {SCORED}",
            )
        else:
            yield from _judge(required.air_judge)


def _judge(spec: str) -> Iterator[Missing]:
    from sarsteer.errors import JudgeError
    from sarsteer.judges import parse_judge
    from sarsteer.judges.sorry_bench import SorryBenchJudge
    from sarsteer.judges.text_model import TextModelOptions

    try:
        judge = parse_judge(spec)
    except JudgeError as error:
        yield Missing("judge", spec, str(error), "pass another --judge")
        return
    if isinstance(judge, SorryBenchJudge) and (judge.prompts is None or not judge.prompts.is_file()):
        yield Missing(
            "judge",
            "SORRY-Bench's judge-prompt file, judge_prompts.jsonl",
            "none is given" if judge.prompts is None else f"{judge.prompts} does not exist",
            "git clone https://github.com/SORRY-Bench/sorry-bench, which contains it; pass --judge-prompts FILE",
        )
    if not isinstance(judge, TextModelOptions):
        return
    if judge.runs_remotely:
        if not os.environ.get("OPENAI_API_KEY"):
            yield Missing("judge", f"a key for {judge.model}", "OPENAI_API_KEY is not set", "set OPENAI_API_KEY")
    elif why := missing_weights(judge.model):
        gate = f"accept its terms at https://huggingface.co/{judge.model} and set HF_TOKEN, then: "
        size = f" ({JUDGE_GIGABYTES:g} GB)" if judge.model == JUDGE else ""
        how = f"hf download {judge.model}; or pass another --judge"
        yield Missing("judge", f"{judge.model}{size}", why, gate + how if "/" in judge.model else how)
