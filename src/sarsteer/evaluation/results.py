"""The results of an evaluation: settings, answers, verdicts, numbers. Reports contain nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sarsteer.errors import EvaluationError
from sarsteer.evaluation.note import Note, read_note
from sarsteer.evaluation.scores import Scores
from sarsteer.evaluation.summary import Category, Summary
from sarsteer.files import write_text
from sarsteer.judges.base import Verdict
from sarsteer.stats.estimate import Estimate, Score

RESULTS = "results.json"
"""The name of the results in the folder of an evaluation."""

FORMAT_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)
"""Version 1 has notes as texts; versions 1 and 2 have no gain over a control, and no transcripts."""


@dataclass(frozen=True)
class Answer:
    """One request under one defense.

    Attributes:
        id: of the item.
        question: the request as text.
        label: ``"harmful"`` or ``"safe"``.
        answer: the whole answer of the model.
        verdict: the judge's.
        category, pair, cluster: see ``JudgedAnswer``.
        audio: the clip's path, if the request was spoken.
        text: the instruction beside it.
        wer: word error rate of the model's transcript, if this was measured.
        direction: number of the direction that the request met, under a control with several.
        transcript: what the model, undefended, wrote down of the clip, if it was asked to.

    """

    id: str
    question: str
    label: Literal["harmful", "safe"]
    answer: str
    verdict: Verdict
    category: str | None = None
    pair: str | None = None
    cluster: str | None = None
    audio: str | None = None
    text: str | None = None
    wer: float | None = None
    direction: int | None = None
    transcript: str | None = None


@dataclass(frozen=True)
class Arm:
    """One benchmark under one defense.

    Attributes:
        benchmark: its name.
        defense: its name, unique within the benchmark.
        settings: everything that shaped the answers: alpha, k, lambda, prompts, decoding, system prompt.
        summary: the numbers.
        answers: one per request, in the benchmark's order.
        steering: digest of the steering file, if one was used.
        log: path of its Inspect log.
        control_of: for a control, the name of the defense that it controls.

    """

    benchmark: str
    defense: str
    settings: Mapping[str, Any]
    summary: Summary
    answers: tuple[Answer, ...] = field(repr=False)
    steering: str | None = None
    log: str | None = None
    control_of: str | None = None


@dataclass(frozen=True)
class CurvePoint:
    """A benchmark's numbers at one strength: a point of the curve of safety against over-refusal."""

    benchmark: str
    defense: str
    alpha: float
    summary: Summary


@dataclass(frozen=True)
class Evaluation:
    """Benchmarks under defenses, evaluated on one model.

    Attributes:
        model: name, family, revision, fingerprint digest.
        judge: names and signatures of the judges.
        command: the command that produced it, ready to be run again.
        created: ISO 8601.
        versions: of the packages that matter.
        arms: benchmark by benchmark, no defense first, controls last.
        curve: steered defenses at other strengths, if a sweep was requested.
        layers: ``LayerReport`` of each layer as dicts, if a steering file was used.
        notes: what a reader must know.

    """

    model: Mapping[str, Any]
    judge: Mapping[str, Any]
    command: str
    created: str
    versions: Mapping[str, str]
    arms: tuple[Arm, ...]
    curve: tuple[CurvePoint, ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[Note, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON, atomically."""
        target = Path(path)
        write_text(target, json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, ensure_ascii=False, indent=1))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read a file that ``save`` wrote, in this or an earlier format version, or the file in its folder.

        Raises:
            EvaluationError: the file is missing, damaged, or has another format.

        """
        target = results_file(path)
        place = str(target)
        if target.suffix == ".eval" and target.exists():
            raise EvaluationError("is a log of Inspect; pass the results.json beside its folder", place=place)
        try:
            data = json.loads(target.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EvaluationError(
                "no such file or folder; give the --out folder of sarsteer evaluate", place=place
            ) from None
        except OSError as error:
            raise EvaluationError(f"cannot be read ({error.strerror}); pass a results.json", place=place) from None
        except (ValueError, RecursionError):
            text = "is not a valid JSON file, or was cut off; run sarsteer evaluate again"
            raise EvaluationError(text, place=place) from None
        version = data.pop("format_version", None) if isinstance(data, dict) else None
        if version is None:
            raise EvaluationError("is not a results file; give the --out folder of sarsteer evaluate", place=place)
        if version not in READABLE_VERSIONS:
            raise EvaluationError(f"has format version {version}, not {FORMAT_VERSION}; update sarsteer", place=place)
        try:
            arms = tuple(
                Arm(**{**arm, "summary": _summary(arm["summary"]), "answers": tuple(map(_answer, arm["answers"]))})
                for arm in data.pop("arms")
            )
            curve = tuple(CurvePoint(**{**point, "summary": _summary(point["summary"])}) for point in data.pop("curve"))
            layers, notes = tuple(data.pop("layers")), tuple(map(read_note, data.pop("notes")))
            return cls(**data, arms=arms, curve=curve, layers=layers, notes=notes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(f"is damaged ({error}); run sarsteer evaluate again", place=place) from None


def results_file(path: str | os.PathLike[str]) -> Path:
    """The results file that ``path`` names: itself, or ``results.json`` in the folder of an evaluation.

    Raises:
        EvaluationError: the folder contains no results.

    """
    target = Path(path)
    if not target.is_dir():
        return target
    file = target / RESULTS
    if not file.is_file():
        raise EvaluationError(
            f"this folder has no {RESULTS}; give the --out folder of sarsteer evaluate", place=str(path)
        )
    return file


def _answer(data: dict[str, Any]) -> Answer:
    return Answer(**{**data, "verdict": Verdict(**data["verdict"])})


def _estimate(data: Any) -> Any:
    return Estimate(**data) if isinstance(data, dict) else data


def _summary(data: dict[str, Any]) -> Summary:
    apart = ("bounds", "categories", "notes", "scores")
    plain = {name: _estimate(value) for name, value in data.items() if name not in apart}
    return Summary(
        **plain,
        bounds={name: (low, high) for name, (low, high) in data["bounds"].items()},
        categories={
            name: Category(**{key: _estimate(value) for key, value in row.items()})
            for name, row in data["categories"].items()
        },
        notes=tuple(map(read_note, data["notes"])),
        scores=_scores(data["scores"]) if data.get("scores") else None,
    )


def _scores(data: dict[str, Any]) -> Scores:
    means: dict[str, Any] = {name: value if value is None else Score(**value) for name, value in data.items()}
    return Scores(**{**means, "unreadable": Estimate(**data["unreadable"])})
