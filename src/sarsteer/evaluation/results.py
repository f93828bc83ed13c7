"""What an evaluation found: settings, answers, verdicts, numbers. Reports are made of this and of nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sarsteer.errors import EvaluationError
from sarsteer.evaluation.note import Note, read_note
from sarsteer.evaluation.scores import Scores
from sarsteer.evaluation.summary import Category, Summary
from sarsteer.files import write_text
from sarsteer.judges.interface import Verdict
from sarsteer.stats.estimate import Estimate, Score

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 has notes as texts."""


@dataclass(frozen=True)
class Answer:
    """One request under one defense.

    Attributes:
        id: of the item.
        question: what was asked, as text.
        label: ``"harmful"`` or ``"safe"``.
        answer: what the model said, whole.
        verdict: the judge's.
        category, pair, cluster: see ``Judged``.
        audio: the clip's path, where the request was spoken.
        text: the instruction beside it.
        wer: word error rate of the model's own transcript, where the clip is an altered one and this was measured.

    """

    id: str
    question: str
    label: str
    answer: str
    verdict: Verdict
    category: str | None = None
    pair: str | None = None
    cluster: str | None = None
    audio: str | None = None
    text: str | None = None
    wer: float | None = None


@dataclass(frozen=True)
class Arm:
    """One benchmark under one defense.

    Attributes:
        benchmark: its name.
        defense: its name, unique within the benchmark.
        settings: everything that shaped the answers: α, k, λ, prompts, decoding, system prompt.
        summary: the numbers.
        answers: every request, in the benchmark's order.
        steering: digest of the steering file, where there is one.
        log: path of the log that it was read from.

    """

    benchmark: str
    defense: str
    settings: Mapping[str, Any]
    summary: Summary
    answers: tuple[Answer, ...] = field(repr=False)
    steering: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class CurvePoint:
    """A benchmark's numbers at one strength, for the curve of safety against over-refusal."""

    benchmark: str
    defense: str
    alpha: float
    summary: Summary


@dataclass(frozen=True)
class Evaluation:
    """A grid of benchmarks and defenses, evaluated on one model by one judge.

    Attributes:
        model: name, family, revision, fingerprint digest.
        judge: its name and signature.
        command: what made it, ready to be run again.
        created: ISO 8601.
        versions: of the packages that matter.
        arms: benchmark by benchmark, no defense first.
        curve: the same at other strengths, where a sweep was asked for.
        layers: ``LayerReport`` of each layer as dicts, where a steering file was used.
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
        """Write it as JSON, whole or not at all."""
        target = Path(path)
        write_text(target, json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, ensure_ascii=False, indent=1))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what ``save`` wrote.

        Raises:
            EvaluationError: the file is missing, cut, or of another format.

        """
        target = Path(path)
        if target.suffix == ".eval" and target.exists():
            raise EvaluationError(f"{target}: is a log of Inspect; give the results.json beside its folder")
        try:
            data = json.loads(target.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EvaluationError(f"{target}: no such results; make them with sarsteer evaluate") from None
        except OSError as error:
            raise EvaluationError(f"{target}: cannot be read ({error.strerror}); name a file of results") from None
        except (ValueError, RecursionError):
            raise EvaluationError(f"{target}: is no JSON, or was cut; run sarsteer evaluate again") from None
        version = data.pop("format_version", None) if isinstance(data, dict) else None
        if version not in READABLE_VERSIONS:
            raise EvaluationError(f"{target}: has format version {version}, not {FORMAT_VERSION}; update sarsteer")
        try:
            arms = tuple(
                Arm(**{**arm, "summary": _summary(arm["summary"]), "answers": tuple(map(_answer, arm["answers"]))})
                for arm in data.pop("arms")
            )
            curve = tuple(CurvePoint(**{**point, "summary": _summary(point["summary"])}) for point in data.pop("curve"))
            layers, notes = tuple(data.pop("layers")), tuple(map(read_note, data.pop("notes")))
            return cls(**data, arms=arms, curve=curve, layers=layers, notes=notes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(f"{target}: is damaged ({error}); run sarsteer evaluate again") from None


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
