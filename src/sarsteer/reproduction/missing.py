"""What a machine lacks to run a plan on real checkpoints and data: all of it at once, each with how to get it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sarsteer import tiny
from sarsteer.errors import SarsteerError
from sarsteer.reproduction.datasets import GET, LICENCES
from sarsteer.reproduction.plan import SCORED
from sarsteer.reproduction.published import MODELS, PaperModel
from sarsteer.reproduction.weights import weights_missing

JUDGE = "sorry-bench/ft-mistral-7b-instruct-v0.2-sorry-bench-202406"
JUDGE_GIGABYTES = 14.5
HEADROOM = 1.25
"""Memory over the weights': activations and the cache of a batch of clips."""
TRAIN = "the calibration pairs of SARSteer's repository (figstep train_100)"


@dataclass(frozen=True)
class Missing:
    """One thing that is not there.

    Attributes:
        kind: ``"software"``, ``"hardware"``, ``"checkpoint"``, ``"data"``, or ``"judge"``.
        what: what it is.
        why: what was found instead.
        how: how to get it.

    """

    kind: str
    what: str
    why: str
    how: str


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        models: keys of the paper's models, folders, or names on the Hub.
        benchmarks: columns of the table.
        data: where each one's files are, by column.
        calibration: a manifest of pairs; the FigStep folder's own where None.
        judge: of refusals.
        air_judge: of AIR-Bench.
        device: as torch names it; a GPU where None.

    """

    models: Sequence[str]
    benchmarks: Sequence[str]
    data: Mapping[str, str]
    calibration: str | None = None
    judge: str = ""
    air_judge: str | None = None
    device: str | None = None


def find_missing(wanted: Wanted) -> list[Missing]:
    """Everything that is missing; nothing is loaded or fetched."""
    return [
        *software_missing(wanted.models),
        *_hardware(wanted),
        *(one for model in wanted.models for one in _checkpoint(model)),
        *(one for name in wanted.benchmarks for one in _data(name, wanted)),
        *_calibration(wanted),
        *_judges(wanted),
    ]


def software_missing(models: Sequence[str]) -> Iterator[Missing]:
    """Packages that are not installed: for any evaluation, and for these models."""
    if importlib.util.find_spec("inspect_ai") is None:
        yield Missing("software", "Inspect AI", "not installed", "pip install 'sarsteer[eval]' (Python 3.11 or newer)")
    for key in models:
        for module, how in MODELS[key].packages if key in MODELS else ():
            if importlib.util.find_spec(module) is None:
                yield Missing("software", f"{module}, for {key}", "not installed", how)


def _hardware(wanted: Wanted) -> Iterator[Missing]:
    import torch

    if set(wanted.models) == {tiny.NAME} or not (wanted.device or "cuda").startswith("cuda"):
        return
    sizes = [MODELS[key].gigabytes for key in wanted.models if key in MODELS]
    judged = JUDGE_GIGABYTES if wanted.judge.startswith("sorry-bench:") else 0.0
    need = HEADROOM * (max(sizes, default=0.0) + judged)
    largest = max((key for key in wanted.models if key in MODELS), key=lambda key: MODELS[key].gigabytes, default="")
    told = f"a GPU with {need:.0f} GB of memory, for {largest or 'the model'}" + (
        ", beside the judge" if judged else ""
    )
    how = "use a machine with one; or a smaller --model, or another --judge; --device cpu goes without, and takes weeks"
    if not torch.cuda.is_available():
        why = "torch sees none" if torch.version.cuda else "this torch was built without CUDA"
        yield Missing("hardware", told, why, how)
        return
    there = torch.cuda.get_device_properties(wanted.device or "cuda").total_memory / 1e9
    if there < need:
        yield Missing("hardware", told, f"{torch.cuda.get_device_name()} has {there:.0f} GB", how)


def _checkpoint(key: str) -> Iterator[Missing]:
    model = MODELS.get(key) or PaperModel(key, key, 0)
    if key == tiny.NAME:
        return
    why = weights_missing(model.checkpoint)
    if why:
        size = f" ({model.gigabytes:g} GB)" if model.gigabytes else ""
        yield Missing("checkpoint", f"{model.checkpoint}{size}", why, f"hf download {model.checkpoint}")


def _data(name: str, wanted: Wanted) -> Iterator[Missing]:
    from sarsteer.data.benchmarks import BENCHMARKS, load_benchmark

    benchmark, _ = BENCHMARKS.find(name)
    how = GET[name]
    terms = f"; {LICENCES[name]}" if name in LICENCES else ""
    if name not in wanted.data:
        yield Missing("data", f"{benchmark.title} ({benchmark.license}{terms})", "no folder given", how)
        return
    try:
        load_benchmark(spec_of(name, wanted.data[name]))
    except SarsteerError as error:
        yield Missing("data", benchmark.title, str(error), how)


def spec_of(name: str, place: str) -> str:
    """A benchmark in a folder, or in a manifest, as ``sarsteer evaluate`` names it."""
    return f"manifest:{place}" if place.endswith(".jsonl") else f"{name}:{place}"


def _calibration(wanted: Wanted) -> Iterator[Missing]:
    from sarsteer.data.pairs import load_pairs

    named = calibration_of(wanted)
    if named is None:
        yield Missing("data", TRAIN, "no folder given", GET["figstep"] + ", or --calibration PAIRS of your own")
        return
    try:
        load_pairs(named, "calibration")
    except SarsteerError as error:
        yield Missing("data", "calibration pairs", str(error), "mend them, or name others with --calibration")


def calibration_of(wanted: Wanted) -> str | None:
    """The pairs to calibrate on: those that were named, else FigStep's training half."""
    if wanted.calibration is None and "figstep" in wanted.data:
        return f"figstep@train:{wanted.data['figstep']}"
    return wanted.calibration


def _judges(wanted: Wanted) -> Iterator[Missing]:
    refusals = [name for name in wanted.benchmarks if name != SCORED]
    if refusals:
        yield from _judge(wanted.judge)
    if SCORED in wanted.benchmarks:
        if wanted.air_judge is None:
            yield Missing(
                "judge",
                "a model that scores AIR-Bench's answers (the paper's is GPT-4)",
                "none is named",
                f"--air-judge air-bench:openai/NAME with OPENAI_API_KEY; or leave it out with --without {SCORED}",
            )
        else:
            yield from _judge(wanted.air_judge)


def _judge(spec: str) -> Iterator[Missing]:
    from sarsteer.judges.factory import ALONE, WITH_MODEL, split_spec

    kind, target, options = split_spec(spec)
    if kind in ALONE:
        return
    if kind not in WITH_MODEL or not target:
        known = ", ".join((*ALONE, *(f"{name}:MODEL" for name in WITH_MODEL)))
        yield Missing("judge", spec, "names no judge with its model", f"use one of {known}")
        return
    if target.startswith("openai/"):
        if not os.environ.get("OPENAI_API_KEY"):
            yield Missing("judge", f"a key for {target}", "OPENAI_API_KEY is not set", "set OPENAI_API_KEY")
    elif why := weights_missing(target):
        gate = f"accept its terms at https://huggingface.co/{target} and set HF_TOKEN, then: " if "/" in target else ""
        size = f" ({JUDGE_GIGABYTES:g} GB)" if target == JUDGE else ""
        yield Missing("judge", f"{target}{size}", why, f"{gate}hf download {target}; or name another with --judge")
    if kind == "sorry-bench":
        prompts = options.get("prompts")
        if prompts is None or not Path(prompts).is_file():
            yield Missing(
                "judge",
                "SORRY-Bench's own judge-prompt file, judge_prompts.jsonl",
                "none is named" if prompts is None else f"{prompts} is not there",
                "git clone https://github.com/SORRY-Bench/sorry-bench, find it there; --judge-prompts FILE",
            )
