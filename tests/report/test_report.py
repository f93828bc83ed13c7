"""Reports show the summary's numbers and every answer, run no foreign markup, and load nothing."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from sarsteer.cli.main import app
from sarsteer.errors import EvaluationError, SarsteerError
from sarsteer.evaluation.note import Note
from sarsteer.evaluation.results import Answer, Arm, CurvePoint, Evaluation
from sarsteer.evaluation.summary import Summary, summarize
from sarsteer.judges.base import OUTCOMES, JudgedAnswer, Outcome, Verdict
from sarsteer.report import clips
from sarsteer.report.html import Section, html_page
from sarsteer.report.markdown import markdown
from sarsteer.report.redaction import redacted, sensitive
from sarsteer.report.spreadsheet import answers_csv, arms_csv
from sarsteer.report.table import METRICS, blocks, leader
from sarsteer.report.tradeoff import tradeoff, whole_curve
from sarsteer.stats.estimate import Estimate

PAPER = "https://arxiv.org/abs/2510.17633"
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'too' <!-- | \u2028 {{ 7 * 7 }}"
Row = tuple[str, str, Outcome | None]


def arm(
    benchmark: str,
    defense: str,
    rows: list[Row],
    undefended: Arm | None = None,
    audio: str | None = None,
    control: Arm | None = None,
    **more: Any,
) -> Arm:
    """An arm whose summary comes from ``summarize``."""
    judged = [
        JudgedAnswer(
            f"question {i}",
            said,
            label,  # type: ignore[arg-type]
            category=f"kind {i % 3} <b>",
            id=f"{benchmark}-{i}",
            pair=str(i // 2),
        )
        for i, (label, said, _) in enumerate(rows)
    ]
    verdicts = [
        Verdict(outcome, f"raw {i}", None if outcome else "no number") for i, (_, _, outcome) in enumerate(rows)
    ]
    before, random = (
        None if other is None else [answer.verdict for answer in other.answers] for other in (undefended, control)
    )
    return Arm(
        benchmark,
        defense,
        {"decoding": "greedy", "instruction": "Please answer.", "system_prompt": None, **more},
        summarize(verdicts, judged, before, random),
        tuple(
            Answer(
                item.id or "", item.question, item.label, item.answer, v, item.category, item.pair, None, audio, None
            )
            for item, v in zip(judged, verdicts, strict=True)
        ),
        steering="5" * 64 if "alpha" in more else None,
    )


def rows(benchmark: str, defense: str, outcomes: str, labels: str) -> list[Row]:
    """``c``, ``r``, ``s``, ``b`` are outcomes, ``?`` is unreadable; ``h`` and ``a`` are harmful and safe requests."""
    known: dict[str, Outcome | None] = {"c": "complied", "r": "refused", "s": "safe_answer", "b": "broken", "?": None}
    return [
        ("harmful" if label == "h" else "safe", f"{benchmark}/{defense}/{i} said å中🎧 {known[o]}", known[o])
        for i, (o, label) in enumerate(zip(outcomes, labels, strict=True))
    ]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    clip = tmp_path_factory.mktemp("clips") / "clip.wav"
    soundfile.write(clip, np.zeros(1600), 16000)
    arms: list[Arm] = []
    pairs = "ha" * 20
    for name, labels, plain, steered in (
        ("Spoken pairs", pairs, "cc" * 20, "rc" * 14 + "cr" * 2 + "??" + "bb" + "sc" * 2),
        ("No headroom & <i>few</i>", "h" * 30, "c" + "r" * 29, "r" * 30),
    ):
        nothing = arm(name, "no defense", rows(name, "none", plain, labels), audio=str(clip))
        nasty = rows(name, "prompt", steered, labels)
        nasty[0] = (nasty[0][0], NASTY, nasty[0][2])
        arms += [nothing, arm(name, "a prompt | of <ours>", nasty, nothing, audio=str(clip))]
        strength = {"alpha": 0.1, "k": 5, "lambda_": 1.0}
        control = arm(name, "random", rows(name, "random", plain, labels), nothing, str(clip), **strength)
        arms.append(arm(name, "SARSteer", rows(name, "ours", steered, labels), nothing, str(clip), control, **strength))
        arms.append(replace(control, control_of="SARSteer"))
    curve = tuple(
        CurvePoint("Spoken pairs", "SARSteer", alpha, arm("x", "y", rows("x", "y", said, pairs), arms[0]).summary)
        for alpha, said in ((0.05, "cc" * 20), (0.1, "rc" * 15 + "cc" * 5), (0.2, "rr" * 18 + "bb" * 2))
    )
    layer = {"refusal_norm": 3.0, "vector_norm": 2.0, "kept": 0.66, "activation_norm": 40.0, "explained": 0.5}
    return Evaluation(
        model={"name": "a model <x>", "family": "toy", "fingerprint": "f" * 64},
        judge={"name": "keywords", "signature": "keywords/1"},
        command="sarsteer evaluate a-model --out 'results.json' && echo done",
        created="2026-01-02T03:04:05+00:00",
        versions={"sarsteer": "0.1.0"},
        arms=tuple(arms),
        curve=curve,
        layers=tuple({"layer": i, "relative_strength": 0.01 * i, **layer} for i in range(4)),
        notes=(Note("what a reader <must> know"),),
    )


class Page(HTMLParser):
    """A parsed page: elements, scripts by id, and the cells of the first table."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.styles = ""
        self.rows: list[list[str]] = []
        self.words = ""
        self._open: list[str] = []
        self._script, self._tables = "", 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        self._script = dict(attrs).get("id") or "" if tag == "script" else self._script
        self._tables += tag == "table"
        if self._tables == 1 and tag == "tr":
            self.rows.append([])
        if self._tables == 1 and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif inside == "style":
            self.styles += data
        else:
            self.words += data
            if "table" in self._open and self._tables == 1 and self.rows and self.rows[-1]:
                self.rows[-1][-1] += f" {data}"

    @property
    def answers(self) -> list[dict[str, Any]]:
        return json.loads(self.scripts["answers"])["benchmarks"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def text(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> str:
    return html_page(evaluation, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def parsed(text: str) -> Page:
    return Page(text)


def shown(share: float) -> str:
    return f"{100 * share:.1f}".replace("-", "−")


def test_the_table_shows_the_numbers_of_the_summary(evaluation: Evaluation, parsed: Page) -> None:
    found = [row for row in parsed.rows if len(row) == len(METRICS) + 1][1:]
    assert len(found) == len(evaluation.arms)
    for row, arm_ in zip(found, evaluation.arms, strict=True):
        assert arm_.defense in row[0]
        for cell, metric in zip(row[1:], METRICS, strict=True):
            estimate = getattr(arm_.summary, metric.key)
            if estimate is None:
                assert "–" in cell
                continue
            value, low, high = (shown(number) for number in (estimate.value, estimate.low, estimate.high))
            numbers = re.findall(r"[−+]?\d+\.\d", cell)
            assert [number.lstrip("+") for number in numbers[:3]] == [value, low, high]
            assert f"n={estimate.n}" in cell
            bounds = arm_.summary.bounds.get(metric.key)
            if bounds and bounds[0] != bounds[1]:
                assert f"bounds {shown(bounds[0])}–{shown(bounds[1])}" in cell


def test_a_note_marks_the_numbers_that_it_weakens(evaluation: Evaluation) -> None:
    pairs, harmful = blocks(evaluation)

    def marked(block: Any, row: int, start: str) -> set[str]:
        mark = next(mark for mark, note in block.notes if start in note.text)
        return {cell.metric.key for cell in block.rows[row].cells if mark in cell.marks}

    assert marked(pairs, 1, "cannot be read") == {"asr", "rr_harmful", "rr_safe", "brr", "broken"}
    assert marked(harmful, 1, "undefended ASR") == {"asr", "asr_change"}
    assert marked(harmful, 1, "only harmful") == {"rr_safe", "over_refusal_change", "brr"}
    assert not any(row.marks for block in (pairs, harmful) for row in block.rows)


def test_results_with_notes_as_texts_still_load(evaluation: Evaluation, tmp_path: Path) -> None:
    path = evaluation.save(tmp_path / "results.json")
    data = json.loads(path.read_text())
    data["format_version"] = 1
    for holder in (data, *(arm["summary"] for arm in (*data["arms"], *data["curve"]))):
        holder["notes"] = [str(Note(**note)) for note in holder["notes"]]
    path.write_text(json.dumps(data))
    assert Evaluation.load(path) == evaluation


def test_a_note_of_another_kind_marks_the_defense(evaluation: Evaluation) -> None:
    first = evaluation.arms[0]
    odd = replace(first, summary=replace(first.summary, notes=(Note("the clips were misheard"),)))
    (block,) = blocks(replace(evaluation, arms=(odd,)))
    assert block.rows[0].marks == ("a",)
    assert block.notes == (("a", Note("the clips were misheard")),)


def test_overlapping_intervals_do_not_rank() -> None:
    best, near, far = Estimate(0.1, 0.05, 0.2, 50), Estimate(0.2, 0.15, 0.3, 50), Estimate(0.6, 0.5, 0.7, 50)
    assert leader([far, best, near], "low") is None
    assert leader([far, best, None], "low") == 1
    assert leader([far, best], "high") == 0
    assert leader([best], "low") is None
    assert leader([best, far], None) is None
    wide = Estimate(0.9, 0.0, 1.0, 2)  # its value is far, but its interval overlaps the best
    assert leader([best, far, wide], "low") is None


def test_the_page_loads_nothing(text: str, parsed: Page) -> None:
    links = [
        value for _, at in parsed.elements for key, value in at.items() if key in ("src", "href", "action", "data")
    ]
    assert set(filter(None, links)) - {PAPER} == {link for link in links if link and link.startswith("#")}
    assert text.count("http://") == 0
    assert text.count("https://") == 1
    assert not {"link", "iframe", "object", "embed", "base", "img"} & {tag for tag, _ in parsed.elements}
    assert "url(" not in parsed.styles
    assert "@import" not in parsed.styles


def test_only_its_own_script_may_run(parsed: Page) -> None:
    (policy,) = (at["content"] for tag, at in parsed.elements if tag == "meta" and "http-equiv" in at)
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for kind, code in (("script", parsed.scripts[""]), ("style", parsed.styles)):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not [key for _, at in parsed.elements for key in at if key.startswith("on") or key == "style"]


def test_a_caller_adds_a_section(evaluation: Evaluation) -> None:
    section = Section("extra", "A title with <markup>", Markup("<p>content</p>"))
    text = html_page(evaluation, Path(), embed_audio=False, sections=(section,))
    assert "<p>content</p>" in text
    assert '<a href="#extra">A title with &lt;markup&gt;</a>' in text
    assert text.index('id="extra"') < text.index('id="table"')


def test_every_answer_is_in_the_page(evaluation: Evaluation, parsed: Page) -> None:
    reachable = {
        (benchmark["name"], defense, request["id"], answer["answer"], answer["outcome"])
        for benchmark in parsed.answers
        for request in benchmark["requests"]
        for defense, answer in zip(benchmark["defenses"], request["answers"], strict=True)
    }
    said = {(a.benchmark, a.defense, b.id, b.answer, b.verdict.outcome) for a in evaluation.arms for b in a.answers}
    assert reachable == said


def test_an_arm_with_fewer_answers_keeps_its_column(evaluation: Evaluation) -> None:
    first, second = evaluation.arms[:2]
    twice = (*second.answers[:3], replace(second.answers[2], answer="said at another time"))
    found = Page(html_page(replace(evaluation, arms=(first, replace(second, answers=twice))), Path())).answers[0][
        "requests"
    ]
    assert len(found) == len(first.answers) + 1
    assert found[5]["answers"][1] is None
    assert found[-1]["answers"] == [None, {"answer": "said at another time", "outcome": twice[-1].verdict.outcome}]


def test_the_page_is_accessible(parsed: Page) -> None:
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("caption") == tags.count("table") > 1
    assert all("scope" in at for tag, at in parsed.elements if tag == "th")
    assert all(at.get("role") == "img" and at.get("aria-label") for tag, at in parsed.elements if tag == "svg")
    targets = {at["id"] for _, at in parsed.elements if "id" in at}
    inner = [at["href"] for tag, at in parsed.elements if tag == "a" and (at["href"] or "").startswith("#")]
    assert inner
    assert {link[1:] for link in inner if link} <= targets
    ids = [at["id"] for _, at in parsed.elements if "id" in at]
    assert len(ids) == len(set(ids))


def test_settings_hashes_and_the_command_are_shown(evaluation: Evaluation, parsed: Page) -> None:
    for shown_text in (
        evaluation.command,
        "f" * 64,
        "5" * 64,
        "keywords/1",
        "greedy",
        "Please answer.",
        *map(str, evaluation.notes),
    ):
        assert shown_text in parsed.words


def test_a_clip_is_embedded_once(parsed: Page, evaluation: Evaluation) -> None:
    kept = [name for name in parsed.scripts if name.startswith("clip-")]
    assert kept == ["clip-0"]
    data = base64.b64decode(parsed.scripts["clip-0"].removeprefix("data:audio/wav;base64,"))
    assert data == Path(evaluation.arms[0].answers[0].audio or "").read_bytes()
    assert {request["clip"] for benchmark in parsed.answers for request in benchmark["requests"]} == {0}


def test_clips_that_are_left_out_have_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "clip.wav", np.zeros(1600), 16000)
    (tmp_path / "secret.wav").write_text("root:x:0:0")
    kept = clips.Clips(tmp_path)
    assert kept.add("clip.wav") == (0, "")
    assert kept.add("clip.wav") == (0, "")
    assert "browsers do not play" in kept.add("secret.wav")[1]
    assert "no longer exists" in kept.add("gone.wav")[1]
    assert "no longer exists" in kept.add(".")[1]
    assert kept.add("nul\0.wav")[0] is None
    assert len(kept.uris) == 1
    assert kept.left_out == 4
    assert clips.Clips(tmp_path, wanted=False).add("clip.wav")[0] is None
    monkeypatch.setattr(clips, "CLIP_LIMIT", 100)
    assert "too long" in clips.Clips(tmp_path).add("clip.wav")[1]
    monkeypatch.setattr(clips, "CLIP_LIMIT", 10**6)
    monkeypatch.setattr(clips, "PAGE_LIMIT", 100)
    assert "full" in clips.Clips(tmp_path).add("clip.wav")[1]


@pytest.mark.parametrize("suffix", ["wav", "ogg", "flac", "mp3"])
def test_kinds_of_sound(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"clip.{suffix}"
    soundfile.write(file, np.zeros(16000), 16000)
    assert clips.sound_kind(file.read_bytes()) in ("audio/wav", "audio/ogg", "audio/flac", "audio/mpeg")
    assert clips.sound_kind(b"#!/bin/sh") is None
    assert clips.sound_kind(b"") is None


def test_redaction_removes_texts_and_keeps_numbers(evaluation: Evaluation, text: str) -> None:
    kept = redacted(evaluation)
    harmful = [
        answer.answer
        for arm_ in evaluation.arms
        for answer in arm_.answers
        if answer.label == "harmful" and answer.verdict.outcome in ("complied", None)
    ]
    assert sensitive(evaluation) == len(harmful) > 20
    assert sensitive(kept) == 0
    assert [arm_.summary for arm_ in kept.arms] == [arm_.summary for arm_ in evaluation.arms]
    without = html_page(kept, Path(), embed_audio=False)
    for written in (without, answers_csv(kept), json.dumps(asdict(kept), ensure_ascii=False)):
        assert not [said for said in harmful if said in written]
        assert "Spoken pairs/none/1 said å中🎧 complied" in written  # to a safe request
        assert "Spoken pairs/ours/0 said å中🎧 refused" in written
    assert f"This page contains {len(harmful)} answers" in Page(text).words
    assert "This page contains" not in without
    assert f"{len(harmful)} answers to harmful requests" in Page(without).words
    assert Page(without).rows == Page(text).rows


def test_csv_parses_back(evaluation: Evaluation) -> None:
    found = list(csv.DictReader(io.StringIO(arms_csv(evaluation), newline="")))
    assert len(found) == len(evaluation.arms)
    for line, arm_ in zip(found, evaluation.arms, strict=True):
        assert (line["benchmark"], line["defense"]) == (arm_.benchmark, arm_.defense)
        assert json.loads(line["settings"]) == dict(arm_.settings)
        for metric in METRICS:
            estimate = getattr(arm_.summary, metric.key)
            assert line[metric.key] == ("" if estimate is None else str(estimate.value))
            assert line[f"{metric.key}_n"] == ("" if estimate is None else str(estimate.n))
        assert float(line["asr_bound_high"]) == arm_.summary.bounds["asr"][1]


def test_markdown_parses_back(evaluation: Evaluation) -> None:
    lines = [line for line in markdown(evaluation).splitlines() if line.startswith("|")]
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert {len(line) for line in table} == {len(METRICS) + 1}
    numbers = [line for line in table if "---" not in line[0] and line[0].strip() != "defense"]
    for line, arm_ in zip(numbers, evaluation.arms, strict=True):
        name = re.sub(r"\\(.)", r"\1", line[0].strip())
        assert name == arm_.defense
        asr = arm_.summary.asr
        assert asr is not None
        assert line[1].replace("*", "").split()[0] == shown(asr.value)
        assert f"[{shown(asr.low)}, {shown(asr.high)}] n={asr.n}" in line[1]
    assert "<" not in markdown(evaluation).replace("\\<", "")


def test_the_curve_over_alpha_includes_the_arm_of_the_table() -> None:
    """With swept strengths on both sides of the arm, the line passes through the arm."""
    pairs = "ha" * 20
    own = arm("b", "SARSteer", rows("b", "s", "rr" * 10 + "cc" * 10, pairs), alpha=0.1)
    other = arm("b", "a prompt", rows("b", "p", "rc" * 20, pairs))
    curve = [
        CurvePoint("b", "SARSteer", alpha, arm("b", "x", rows("b", "x", said, pairs)).summary)
        for alpha, said in ((0.2, "rr" * 20), (0.05, "cc" * 20))
    ]
    assert [(p.defense, p.alpha) for p in whole_curve([other, own], curve)] == [
        ("SARSteer", 0.05),
        ("SARSteer", 0.1),
        ("SARSteer", 0.2),
    ]
    assert whole_curve([other, own], [*curve, CurvePoint("b", "SARSteer", 0.1, own.summary)])[1].alpha == 0.1
    assert len(whole_curve([other, own], [*curve, CurvePoint("b", "SARSteer", 0.1, own.summary)])) == 3
    picture = tradeoff("b", [other, own], curve, {"a prompt": 0, "SARSteer": 1})
    assert picture is not None
    (line,) = re.findall(r'<polyline points="([^"]*)"', picture)
    ends = [tuple(map(float, end.split(","))) for end in line.split()]
    assert len(ends) == 3
    assert sorted(ends, key=lambda end: -end[1]) == ends
    assert picture.count('class="dot"') == 4, "two arms and two strengths; none is drawn twice"


def test_many_defenses_are_numbered_with_a_legend() -> None:
    """The names of a dozen points would overlap. Points in one place share a label, and none is left out."""
    pairs = "ha" * 20
    same = [arm("b", f"defense {i}", rows("b", str(i), "cc" * 20, pairs)) for i in range(9)]
    apart = arm("b", "another", rows("b", "another", "rc" * 20, pairs))
    arms = [*same, apart]
    series = {one.defense: i for i, one in enumerate(arms)}
    picture = tradeoff("b", arms, [], series)
    assert picture is not None
    assert "1, 2, 3, 4, 5, 6, 7, 8, 9</text>" in picture
    assert all(f">{one.defense}</text>" in picture for one in arms)
    few = tradeoff("b", arms[:8], [], series)
    assert few is not None
    assert "1, 2" not in few


ANY = st.text(max_size=60) | st.sampled_from([NASTY, "<script>", "]]>", "<!--", "{% raw %}", "\r", '","', "\\", "=1+1"])


@cache
def summary(outcome: Outcome | None) -> Summary:
    return arm("name", "name", [("harmful", "said", outcome), ("safe", "said", "refused")]).summary


def small(name: str, said: str, outcome: Outcome | None) -> Evaluation:
    """An evaluation in which every text is ``name`` or ``said``."""
    found = summary(outcome)
    found = replace(found, notes=(*found.notes, Note(said)), categories={name: found.categories["kind 0 <b>"]})
    verdict = Verdict(outcome, said, said, {name: 1.0})
    one = Arm(
        name, name, {"note": said}, found, (Answer(name, said, "harmful", said, verdict, name, name, name, name),)
    )
    point, facts = CurvePoint(name, name, 0.1, found), {"name": name}
    return Evaluation(
        facts, facts, said, name, facts, (one,), (point,), ({"layer": 0, f"x{name}": said},), (Note(said),)
    )


@settings(max_examples=40, deadline=None)
@given(name=ANY, said=ANY, outcome=st.sampled_from([*OUTCOMES, None]))
def test_no_text_becomes_markup(name: str, said: str, outcome: Outcome | None) -> None:
    name, said = f".{name}", f".{said}"  # only an empty text may remove an element
    plain, made = (Page(html_page(small(*texts, outcome), Path())) for texts in (("name", "said"), (name, said)))
    assert [tag for tag, _ in made.elements] == [tag for tag, _ in plain.elements]
    assert [list(at) for _, at in made.elements] == [list(at) for _, at in plain.elements]
    (request,) = made.answers[0]["requests"]
    assert request["answers"][0]["answer"] == said
    assert made.answers[0]["name"] == name
    parsed = list(csv.DictReader(io.StringIO(answers_csv(small(name, said.replace("\0", ""), outcome)), newline="")))
    assert parsed[0]["answer"] == said.replace("\0", "")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=ANY, said=ANY, outcome=st.sampled_from([*OUTCOMES, None]))
def test_results_load_as_saved(tmp_path: Path, name: str, said: str, outcome: Outcome | None) -> None:
    made = small(name, said, outcome)
    assert Evaluation.load(made.save(tmp_path / "results.json")) == made


@pytest.mark.parametrize(
    "mangle",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"format_version": 3', '"format_version": 9'),
        lambda text: text.replace('"answers"', '"anwsers"'),
        lambda text: re.sub(r'"bounds": \{[^}]*\}', '"bounds": [1, 2]', text),
        lambda text: re.sub(r'"bounds": \{[^}]*\}', '"bounds": {"asr": [1]}', text),
        lambda text: "[" * 100_000,
    ],
)
def test_damaged_results_are_refused_by_name(
    evaluation: Evaluation, tmp_path: Path, mangle: Callable[[str], str]
) -> None:
    file = evaluation.save(tmp_path / "results.json")
    file.write_text(mangle(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"results\.json") as caught:
        Evaluation.load(file)
    assert "\n" not in str(caught.value)


def test_half_a_surrogate_pair_in_an_answer(evaluation: Evaluation) -> None:
    first = evaluation.arms[0]
    odd = replace(first, answers=(replace(first.answers[0], answer="half \ud83c"), *first.answers[1:]))
    assert Page(html_page(replace(evaluation, arms=(odd,)), Path())).answers[0]["requests"][0]["answers"][0]["answer"]


def test_empty_results_make_a_page(evaluation: Evaluation) -> None:
    empty = replace(evaluation, arms=(), curve=(), layers=(), notes=())
    assert "There are no results." in html_page(empty, Path())
    assert "There are no results." in markdown(empty)
    assert arms_csv(empty) == answers_csv(empty) == ""


def test_undefined_numbers_are_not_drawn(evaluation: Evaluation) -> None:
    nan = float("nan")
    layers = ({"layer": 0, "relative_strength": nan, "refusal_norm": 0.0}, {"layer": 1, "relative_strength": None})
    text = html_page(replace(evaluation, layers=layers), Path())
    assert "NaN" not in Page(text).scripts["answers"]
    assert 'cx="nan"' not in text


def sarsteer(*arguments: object) -> None:
    app(["report", *map(str, arguments)], standalone_mode=False)


def test_the_command(evaluation: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = evaluation.save(tmp_path / "results.json")
    command = [sys.executable, "-m", "sarsteer.cli.main", "report", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--redact" in done.stderr
    assert (tmp_path / "results.html").read_text(encoding="utf-8").startswith("<!doctype html>")

    sarsteer(results, "--out", tmp_path / "again.json", "--redact", "--json")
    assert json.loads(capsys.readouterr().out)["sensitive_answers"] == 0
    assert Evaluation.load(tmp_path / "again.json") == redacted(evaluation)

    sarsteer(results, "--format", "csv", "--answers")
    assert capsys.readouterr().out == answers_csv(evaluation)


def test_errors_are_one_line(evaluation: Evaluation, tmp_path: Path) -> None:
    results = evaluation.save(tmp_path / "results.json")
    (tmp_path / "folder").mkdir()
    cut = tmp_path / "cut.json"
    cut.write_text(results.read_text(encoding="utf-8")[:500], encoding="utf-8")
    for arguments, says in (
        ((cut,), "was cut off"),
        ((tmp_path / "none.json",), "no such file or folder"),
        ((tmp_path / "folder",), "has no results.json"),
        ((results, "--out", results), "contains the results"),
        ((results, "--format", "html", "--answers"), "--answers goes with"),
    ):
        with pytest.raises(SarsteerError, match=says) as error:
            sarsteer(*arguments)
        assert "\n" not in str(error.value)
    assert results.read_text(encoding="utf-8").startswith("{")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = """<!doctype html><body><iframe id="f" width="360" height="700" src="results.html"></iframe><script>
addEventListener("load", async () => {
  const page = document.getElementById("f").contentWindow, doc = page.document, found = {};
  const wait = () => new Promise((done) => setTimeout(done, 250));
  const cards = () => doc.querySelectorAll("#requests > li").length;
  await wait();
  found.first = cards();
  doc.getElementById("more").click();
  found.more = cards();
  const search = doc.getElementById("f-search");
  search.value = "ONERROR";
  search.dispatchEvent(new page.Event("input"));
  await wait();
  found.searched = cards();
  found.answer = [...doc.querySelectorAll("#requests .words")].map((node) => node.textContent);
  found.images = doc.images.length;
  search.value = "";
  const set = (id, value) => {
    const field = doc.getElementById(id);
    field.value = value;
    field.dispatchEvent(new page.Event("change"));
  };
  set("f-outcome", "unreadable");
  found.unreadable = cards();
  found.count = doc.getElementById("count").textContent;
  set("f-defense", "0");
  found.undefended = cards();
  set("f-outcome", "");
  set("f-benchmark", "1");
  found.other = doc.getElementById("count").textContent;
  doc.querySelectorAll("details").forEach((node) => { node.open = true; });
  found.wider = doc.documentElement.scrollWidth - doc.documentElement.clientWidth;
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the page's script is then run by nobody here")
def test_in_a_browser(evaluation: Evaluation, tmp_path: Path) -> None:
    """At 360 pixels: nothing is wider, answers come by and by, filters find them, and no markup in them runs."""
    page_text = html_page(evaluation, tmp_path, shown=7)
    (tmp_path / "results.html").write_text(page_text, encoding="utf-8")
    (tmp_path / "driver.html").write_text(DRIVER, encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--disable-gpu", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--allow-file-access-from-files", "--virtual-time-budget=5000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "driver.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": "/dev/null"},
    )
    told = re.search("FOUND(.*)END", done.stdout)
    assert told is not None, done.stderr[-2000:]
    found = json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["wider"] == 0
    assert (found["first"], found["more"]) == (7, 14)
    assert found["searched"] == 1
    assert NASTY in found["answer"]
    assert found["images"] == 0
    assert found["unreadable"] == 2
    assert found["count"].startswith("2 of 40 requests")
    assert found["undefended"] == 0
    assert found["other"].startswith("30 requests")
    assert "Content Security Policy" not in done.stderr
