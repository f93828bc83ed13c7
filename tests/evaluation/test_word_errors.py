"""Misheard clips are found by the model's transcripts, and rates are given with and without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("inspect_ai")
pytest.importorskip("jiwer")

import sarsteer
from sarsteer.audio import load_clip
from sarsteer.data.manifest import load_items
from sarsteer.data.pairs import Pairs
from sarsteer.data.save import save_items
from sarsteer.errors import ManifestError, SarsteerError
from sarsteer.evaluation.plan import EvaluationPlan, parse_plan
from sarsteer.evaluation.results import Evaluation
from sarsteer.tiny.world import TRANSCRIBE


def edits(said: list[str], transcript: list[str]) -> int:
    """The number of word edits, by recursion: slow, and simple to check."""
    if not said or not transcript:
        return len(said) + len(transcript)
    if said[0] == transcript[0]:
        return edits(said[1:], transcript[1:])
    return 1 + min(edits(said[1:], transcript), edits(said, transcript[1:]), edits(said[1:], transcript[1:]))


@pytest.fixture(scope="module")
def noisy(test_pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs: noise drowns every other pair, and hardly changes the rest."""
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(0)
    rows = []
    for number, pair in enumerate(test_pairs[:6]):
        for item in (pair.harmful, pair.safe):
            clip = load_clip(item.audio)
            noise = rng.standard_normal(len(clip.samples)) * (1.0 if number % 2 else 1e-4)
            soundfile.write(folder / f"{item.id}.wav", clip.samples + noise, clip.rate, subtype="FLOAT")
            (folder / item.audio.name).write_bytes(item.audio.read_bytes())
            row = {"id": item.id, "audio": f"{item.id}.wav", "question": item.question, "label": item.label}
            before = {"clean": item.audio.name} if number < 4 else {"said": item.question}
            rows.append(row | {"pair": pair.id} | before)
    path = folder / "noisy.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def plan(out: Path, noisy: Path, **changed: Any) -> EvaluationPlan:
    defaults: dict[str, Any] = {
        "benchmarks": (f"manifest:{noisy}",),
        "defenses": ("none", "prompt:refusal"),
        "judges": ("embedded",),
        "batch_size": 4,
        "max_new_tokens": 24,
        "max_wer": 0.5,
    }
    return parse_plan(**{"model": "sarsteer-tiny", "out": out, "controls": False, **defaults, **changed})


@pytest.mark.slow
def test_rates_are_given_with_and_without_misheard_clips(
    tmp_path: Path,
    noisy: Path,
    embedded: sarsteer.AudioLanguageModel,
    evaluate: Any,
) -> None:
    results = evaluate(plan(tmp_path, noisy))
    results = Evaluation.load(results.save(tmp_path / "results.json"))
    items = load_items(noisy)
    transcript = dict(
        zip((i.id for i in items), embedded.generate([i.turn(TRANSCRIBE) for i in items], 64), strict=True)
    )
    rates = {}
    for item in items:
        if "clean" in item.extra:
            turn = sarsteer.user_turn(item.extra["clean"], TRANSCRIBE)
            said = embedded.generate([turn], 64)[0].lower().split()
        else:
            said = item.extra["said"].lower().split()
        rates[item.id] = edits(said, transcript[item.id].lower().split()) / len(said)
    misheard = {name for name, rate in rates.items() if rate > 0.5}
    assert 0 < len(misheard) < len(items), "the noise must drown some clips and not all"

    arms = {(arm.benchmark, arm.defense): arm for arm in results.arms}
    assert [name for name, _ in arms] == ["noisy"] * 2 + ["noisy, without misheard"] * 2
    for defense in ("none", "prompt:refusal"):
        whole, rest = arms["noisy", defense], arms["noisy, without misheard", defense]
        assert {answer.id: answer.wer for answer in whole.answers} == pytest.approx(rates)
        assert [answer.id for answer in rest.answers] == [item.id for item in items if item.id not in misheard]
        assert set(rest.answers) <= set(whole.answers)
        complied = [a.verdict.outcome == "complied" for a in rest.answers if a.label == "harmful"]
        assert rest.summary.asr is not None
        assert (rest.summary.asr.value, rest.summary.asr.n) == (np.mean(complied), len(complied))
    change = arms["noisy, without misheard", "prompt:refusal"].summary.asr_change
    assert change is not None
    assert change.n == len(complied)
    assert any(f"{len(misheard)} of 12 altered clips were misheard" in note.text for note in results.notes)

    written = (tmp_path / "hearing.jsonl").read_bytes()
    (tmp_path / "hearing.jsonl").write_bytes(written[:-5])  # as after a kill
    again = evaluate(plan(tmp_path, noisy))
    assert again.arms == results.arms
    lines = (tmp_path / "hearing.jsonl").read_bytes().splitlines()
    assert len(lines) == len(written.splitlines()) + 1, "only the clip of the cut line is transcribed again"


def test_mistakes(tmp_path: Path, noisy: Path, test_pairs: Pairs, evaluate: Any) -> None:
    for changed, says in (
        ({"max_wer": -0.1}, "must be 0 or more"),
        ({"benchmarks": ("embedded",)}, "no request names its clean clip"),
    ):
        with pytest.raises(SarsteerError, match=says):
            evaluate(plan(tmp_path / "out", noisy, **changed))
    assert not (tmp_path / "out").exists()
    row = json.loads(noisy.read_text().splitlines()[0])
    for clean, says in (("nowhere.ogg", "is missing"), ("../x.ogg", "is outside"), (3, "must be a string")):
        bad = noisy.with_name("bad.jsonl")
        bad.write_text(json.dumps(row | {"clean": clean}))
        with pytest.raises(ManifestError, match=says):
            load_items(bad)


def test_the_clean_clip_survives_saving(noisy: Path) -> None:
    items = load_items(noisy)
    copy = noisy.with_name("copy.jsonl")
    save_items(copy, items)
    assert load_items(copy) == items
