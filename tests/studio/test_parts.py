"""The studio's parts, without a browser."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import escape

import sarsteer
from sarsteer.audio import load_clip
from sarsteer.data.pairs import Pairs
from sarsteer.errors import AudioError, CalibrationError, SarsteerError, SteeringError
from sarsteer.report.style import embedded_style, page_style
from sarsteer.server.limits import Limits
from sarsteer.steering.gate.gate import Gate
from sarsteer.studio.answering import View, answer
from sarsteer.studio.charts import parts_chart, projection_chart, score_scale
from sarsteer.studio.choice import Artifact, Choice, defaults, ranges
from sarsteer.studio.examples import copy_examples, example_items
from sarsteer.studio.own_clips import own_benign, own_pairs
from sarsteer.studio.panels import answer_panel, explanation, failed_panel
from sarsteer.studio.protection import Protection, host_name
from sarsteer.studio.reading import GateReading, gate_parts, read_layers
from sarsteer.studio.run import check_access, read_auth
from sarsteer.studio.streams import merged
from sarsteer.studio.uploads import only_uploads, read_upload
from sarsteer.studio.visit import Visit
from sarsteer.studio.worker import StudioSettings, Worker
from tests.studio.conftest import TOKENS, Offline

SIDES = ("undefended", "defended")


def run(coroutine: Any) -> Any:
    """Its result; in a thread of its own, because the browser's driver keeps an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="module")
def gate(steering: sarsteer.Steering) -> Gate:
    assert steering.gate is not None
    return steering.gate


def test_unmoved_controls_are_the_files_own_strength(steering: sarsteer.Steering, gate: Gate) -> None:
    chosen = defaults(steering).resolve(steering)
    assert chosen.digest == steering.resolve().digest
    gated = Choice(0.1, 10, 1.0, True, round(gate.threshold, 2)).resolve(steering)
    assert gated.gate is gate  # with the exact threshold and its stated rates
    assert Choice(0.1, 10, 1.0, True, -0.5).resolve(steering).settings["gate"]["threshold"] == -0.5
    assert Choice(0.1, 10, 1.0, False, -0.5).resolve(steering).gate is None
    top = ranges(steering)
    assert top.threshold[0] <= gate.threshold <= top.threshold[1]
    assert top.k == steering.max_k


def test_a_choice_that_is_not_possible_is_an_error(steering: sarsteer.Steering) -> None:
    with pytest.raises(SteeringError, match="lower threshold"):
        Choice(0.1, 10, 1.0, True, 99.0).resolve(steering)
    with pytest.raises(SteeringError, match="no gate"):
        Choice(0.1, 10, 1.0, True, 0.0).resolve(steering.with_gate(None))
    with pytest.raises(SteeringError, match="k = 99"):
        Choice(0.1, 99, 1.0, False).resolve(steering)


def test_the_parts_of_the_score_add_up(steering: sarsteer.Steering, gate: Gate) -> None:
    h = steering.safe_mean + torch.randn_like(steering.safe_mean)
    parts = gate_parts(gate, steering, h)
    assert set(parts) == set(gate.layers)
    # the last part contains the float32 rounding of the others
    assert sum(parts.values()) == pytest.approx(float(gate.score(h)), abs=1e-5)
    middle = gate_parts(gate, steering, steering.safe_mean)
    assert sum(middle.values()) == pytest.approx(float(gate.score(steering.safe_mean)), abs=1e-5)


def test_projections(steering: sarsteer.Steering) -> None:
    strength = steering.resolve()
    moved = steering.safe_mean + 0.3 * strength.vectors
    reading = read_layers(steering, strength, steering.safe_mean, moved)
    assert reading.undefended == pytest.approx([0.0] * len(moved), abs=1e-6)
    expected = (0.3 * strength.vectors.norm(dim=1) / steering.activation_norms).tolist()
    assert reading.defended == pytest.approx(expected, rel=1e-4)  # float32 sums in another order


def test_charts_of_odd_values(steering: sarsteer.Steering, gate: Gate) -> None:
    strength = steering.resolve()
    nothing = read_layers(steering, strength, steering.safe_mean, steering.safe_mean)
    charts = [projection_chart(nothing, gate), parts_chart(dict.fromkeys(gate.layers, 0.0), 8)]
    for score in (-50.0, 0.0, 50.0, float("nan"), float("inf")):
        charts.append(score_scale(gate, GateReading(score, 0.4, False, True, active=True), 0.4))
    charts.append(score_scale(gate, None, 0.4))
    for chart in charts:
        numbers = re.findall(r' (?:x|y|x1|x2|y1|y2|width|height)="([^"]*)"', chart)
        assert numbers
        assert all(-60 <= float(number) <= 460 for number in numbers), chart


def test_texts_are_escaped_and_errors_are_sentences() -> None:
    nasty = "<img src=x onerror=alert(1)>"
    for html in (answer_panel("Defended", nasty, done=True), failed_panel("Defended", nasty)):
        assert "<img" not in html
    assert explanation(AudioError("is silent", place="a.wav")) == "A.wav: is silent."
    assert "secret" not in explanation(RuntimeError("secret"))  # unexpected errors keep their message


def test_uploads_only(tmp_path: Path, test_pairs: Pairs) -> None:
    class Component:
        pass

    folder = tmp_path / "uploads"
    folder.mkdir()
    inside = folder / "a.ogg"
    inside.write_bytes(test_pairs[0].safe.audio.read_bytes())
    (folder / "link.wav").symlink_to("/etc/hostname")
    component = only_uploads(Component(), folder)
    assert run(component.async_move_resource_to_block_cache(str(inside))) == str(inside)
    assert component.move_resource_to_block_cache(None) is None
    for other in (
        "/etc/hostname",
        str(folder / ".." / "x.wav"),
        str(folder / "link.wav"),
        "http://127.0.0.1/a.wav",
        "https://example.org/a.wav",
    ):
        with pytest.raises(SarsteerError, match="not an uploaded file"):
            run(component.async_move_resource_to_block_cache(other))
    assert read_upload(str(inside), Limits()).name == "a.ogg"
    with pytest.raises(AudioError, match=r"a\.ogg: is larger than 0 MiB"):
        read_upload(str(inside), Limits(body_bytes=10))


def test_own_clips(test_pairs: Pairs, tmp_path: Path) -> None:
    harmful = [str(pair.harmful.audio) for pair in test_pairs[:3]]
    safe = [str(pair.safe.audio) for pair in test_pairs[:3]]
    pairs = own_pairs(harmful[::-1], safe, Limits())
    assert [pair.harmful.media for pair in pairs] == sorted(map(Path, harmful), key=lambda path: path.name)
    assert [item.label for item in own_benign(safe, Limits())] == ["safe"] * 3
    with pytest.raises(CalibrationError, match="2 harmful clips and 3 safe"):
        own_pairs(harmful[:2], safe, Limits())
    with pytest.raises(CalibrationError, match="give harmful clips"):
        own_pairs([], [], Limits())
    with pytest.raises(CalibrationError, match="at most 200"):
        own_pairs(harmful * 70, safe * 70, Limits())
    bad = tmp_path / "bad.wav"
    bad.write_text("no clip")
    with pytest.raises(AudioError, match=r"bad\.wav: is not WAV"):
        own_pairs([*harmful[:2], str(bad)], safe, Limits())


def test_examples(tmp_path: Path) -> None:
    items = example_items("sarsteer-tiny", None)
    examples = copy_examples(items, tmp_path)
    assert len(examples) == 6
    assert "(harmful)" in examples[0].label
    assert all(Path(one.path).is_relative_to(tmp_path) for one in examples)


def test_access() -> None:
    assert read_auth(None) is None
    assert read_auth("ann:a:b") == ("ann", "a:b")
    check_access("127.0.0.1", None)
    check_access("::1", None)
    check_access("0.0.0.0", ("ann", "a long password"))
    for auth, says in ((None, "no password"), (("ann", "short"), "has 5 characters")):
        with pytest.raises(SarsteerError, match=says):
            check_access("0.0.0.0", auth)
    for text in ("ann", "ann:", ":secret"):
        with pytest.raises(SarsteerError, match="USER:PASSWORD"):
            read_auth(text)


def test_foreign_host_names_are_refused() -> None:
    assert [host_name(h) for h in ("localhost:1", "127.0.0.1", "[::1]:80", "[::1]")] == [
        "localhost",
        "127.0.0.1",
        "::1",
        "::1",
    ]
    sent = []

    async def app(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {}

    protected = Protection(app, frozenset({"localhost"}))
    for host in (b"localhost:7860", b"attacker.example"):
        run(protected({"type": "http", "headers": [(b"host", host)]}, receive, send))
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert [message["status"] for message in starts] == [200, 421]
    assert b"content-security-policy" in dict(starts[0]["headers"])


def test_the_studio_has_the_reports_colors() -> None:
    report, studio = page_style(), embedded_style(".part", ".dark")
    for color in ("--s1: #1f66b0", "--s1: #6aaef5", "--paper: #14171c"):
        assert color in report
        assert color in studio
    assert "&" not in report.replace("&amp;", "")


def test_nothing_else_imports_gradio() -> None:
    code = (
        "import sys, sarsteer.cli.main, sarsteer.server.run, sarsteer.report.html, sarsteer.studio.run\n"
        "assert 'gradio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--steering", "none.safetensors"], "none.safetensors: no such"),
        (["--steering", "none.safetensors", "--host", "0.0.0.0"], "has no password"),
        (["--steering", "none.safetensors", "--auth", "ann"], "USER:PASSWORD"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sarsteer.cli.failure import fail
    from sarsteer.cli.main import app

    with pytest.raises(SarsteerError) as error:
        app(["studio", "sarsteer-tiny", *options], standalone_mode=False)
    assert fail(error.value) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("\n") == 1


def test_both_answers_are_generated_side_by_side(
    embedded: sarsteer.AudioLanguageModel, steering: sarsteer.Steering, offline: Offline, clip: Path
) -> None:
    file = Artifact(steering, "s")

    async def views_of(choice: Choice) -> list[View]:
        errors: list[Exception] = []
        settings = StudioSettings("toy", lambda: embedded, file, Limits(tokens=TOKENS))
        worker = Worker(settings, lambda: None, errors.append)
        worker.start()
        try:
            while not worker.scheduler.ready:
                assert not errors
                await asyncio.sleep(0.02)
            visit = Visit("one", file)
            visit.use_clip(load_clip(clip))
            return [view async for view in answer(worker, visit, choice)]
        finally:
            worker.stop()
            if worker.scheduler.engine is not None:
                worker.scheduler.engine.detach()

    for gated in (False, True):
        views = run(views_of(Choice(0.3, 10, 1.0, gated)))
        shown = [(side, str(getattr(view, side))) for view in views for side in SIDES if getattr(view, side)]
        order = [side for side, html in shown if re.search('class="words">[^<]+<span', html)]  # of growing answers
        # neither side ends before the other one has begun
        assert order.index("defended") < len(order) - 1 - order[::-1].index("undefended")
        assert order.index("undefended") < len(order) - 1 - order[::-1].index("defended")
        last = dict(shown)
        for side, expected in (
            ("undefended", offline.answer(clip, None)),
            ("defended", offline.answer(clip, 0.3, gated)),
        ):
            assert f"{escape(expected)}</p>" in last[side]
        assert views[-1].layers is not None


def test_streams_are_merged_as_they_come() -> None:
    async def counting(name: str, pauses: list[float], fails: bool = False) -> AsyncIterator[str]:
        for number, pause in enumerate(pauses):
            await asyncio.sleep(pause)
            yield f"{name}{number}"
        if fails:
            raise SarsteerError("the end")

    async def collect(*streams: AsyncIterator[str]) -> list[str]:
        found: list[str] = []
        try:
            async for one in merged(streams):
                found.append(one)
        except SarsteerError as error:
            found.append(str(error))
        return found

    async def both() -> list[list[str]]:
        return [
            await collect(),
            await collect(counting("a", [0, 0.2]), counting("b", [0.1, 0.2])),
            await collect(counting("a", [0, 60]), counting("b", [0.1], fails=True)),
        ]

    assert run(both()) == [[], ["a0", "b0", "a1", "b1"], ["a0", "b0", "the end"]]
