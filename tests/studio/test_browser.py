"""The page in headless Chromium, with the toy: what a visitor sees is what the model answers without a studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import sarsteer
from sarsteer.data.pairs import Pairs
from tests.studio.conftest import WAIT, Offline, Page, StudioProcess

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parents[2] / "benchmarks" / "demo.json"
RECORD_BOTH = """() => { window.both = []; const words = side => document.querySelector(`#${side} .words`);
  for (const side of ["undefended", "defended"]) new MutationObserver(() => {
    window.both.push(["undefended", "defended"].map(one => words(one)?.textContent ?? "")); })
  .observe(document.querySelector(`#${side}`), {childList: true, subtree: true, characterData: true}); }"""
RECORD = """() => { window.seen = []; const panel = document.querySelector("#defended");
  new MutationObserver(() => { const words = panel.querySelector(".words");
    if (words && window.seen.at(-1) !== words.textContent) window.seen.push(words.textContent); })
  .observe(panel, {childList: true, subtree: true, characterData: true}); }"""


def test_an_uploaded_clip_is_answered_piece_by_piece(visitors: Any, offline: Offline, clip: Path) -> None:
    visitor: Page = visitors()
    page = visitor.page
    visitor.upload(clip)
    assert "s at 16000 Hz" in page.locator("#message").inner_text()
    assert page.locator("#clip button[aria-label=Play]").count() == 1  # it can be played
    page.evaluate(RECORD)
    page.evaluate(RECORD_BOTH)
    visitor.answer()
    assert visitor.words("undefended") == offline.answer(clip, None)
    assert visitor.words("defended") == offline.answer(clip, 0.1)
    pieces = [text.removesuffix("▍") for text in page.evaluate("window.seen")]
    growing = [text for text in pieces if text and text != "No answer yet."]
    assert len(set(growing)) > 2
    assert all(growing[-1].startswith(text) for text in growing)
    # both answers have begun, and neither is complete: they stream side by side
    assert any(all(len(text) > 1 and text.endswith("▍") for text in both) for both in page.evaluate("window.both"))
    assert "Steered at α 0.1" in page.locator("#defended").inner_text()
    assert "this request" in page.locator("#score").inner_text()
    assert page.locator("#layers svg").count() == 2
    foreign = [url for url in visitor.requests if not url.startswith((visitor.address, "data:", "blob:"))]
    assert not foreign
    assert not visitor.errors


def test_controls_change_the_answer(visitors: Any, offline: Offline, clip: Path) -> None:
    visitor: Page = visitors()
    page = visitor.page
    visitor.upload(clip)
    visitor.answer()
    before = visitor.words("undefended")
    visitor.set("alpha", 0.02)
    visitor.wait_for("defended", offline.answer(clip, 0.02))
    visitor.set("alpha", 0)  # an empty defense is named, and never answers unsteered
    page.wait_for_selector("#defended [role=alert]")
    assert "alpha is 0, so nothing is added" in visitor.words("defended")
    page.locator("#gate input").check()
    visitor.set("alpha", 0.3)
    visitor.wait_for("defended", offline.answer(clip, 0.3, gate=True))
    page.wait_for_selector("#score [role=status]")
    assert "threshold" in page.locator("#score [role=status]").inner_text()
    visitor.set("threshold", -4)
    page.wait_for_function("document.querySelector('#defended').textContent.includes('Gate open: steered at α 0.3')")
    assert visitor.words("undefended") == before
    page.locator("#reset").click()
    visitor.wait_for("defended", offline.answer(clip, 0.1))
    assert page.locator("#alpha input[type=number]").input_value() == "0.1"


def test_two_visitors_do_not_mix(visitors: Any, offline: Offline, test_pairs: Pairs) -> None:
    clips = [test_pairs[5].harmful.audio, test_pairs[6].harmful.audio]
    both = [visitors(), visitors()]
    for visitor, clip, alpha in zip(both, clips, (0.03, 0.4), strict=True):
        visitor.upload(clip)
        visitor.set("alpha", alpha)
    for visitor in both:
        visitor.page.locator("#answer").click()
    for visitor, clip, alpha in zip(both, clips, (0.03, 0.4), strict=True):
        visitor.page.wait_for_selector("#layers svg")
        assert visitor.words("undefended") == offline.answer(clip, None)
        assert visitor.words("defended") == offline.answer(clip, alpha)
        assert f"α {alpha}" in visitor.page.locator("#defended").inner_text()


def test_bad_clips_are_explained(visitors: Any, clip: Path, tmp_path: Path) -> None:
    visitor: Page = visitors()
    page = visitor.page
    visitor.upload(clip)
    visitor.answer()
    bad = tmp_path / "notes.wav"
    bad.write_text("this is not a clip")
    page.locator("#clip button[aria-label=Clear]").first.click()
    page.locator("#clip input[type=file]").set_input_files(str(bad))
    page.wait_for_selector("#message [role=alert]")
    assert "Notes.wav: is not WAV, FLAC, Ogg or MP3; convert it." in page.locator("#message").inner_text()
    visitor.wait_for("defended", "No answer yet.")  # the answer to the previous clip is gone
    page.locator("#answer").click()
    page.wait_for_timeout(300)
    assert visitor.words("defended") == "No answer yet."


def test_with_the_keyboard_only_on_a_phone(visitors: Any, offline: Offline, test_pairs: Pairs) -> None:
    visitor: Page = visitors(viewport={"width": 390, "height": 844}, has_touch=True)
    page = visitor.page
    reached: dict[str, tuple[str, str]] = {}
    picked = False
    for _ in range(40):
        page.keyboard.press("Tab")
        where = page.evaluate("document.activeElement.closest('[id]')?.id || ''")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        inside = page.evaluate(
            "['clip', 'examples', 'answer', 'alpha', 'gate'].find(id => document.activeElement.closest('#' + id)) || ''"
        )
        reached.setdefault(inside, (where, outline))
        if inside == "examples" and not picked:
            picked = True
            page.keyboard.press("Space")
            page.wait_for_selector("#message .notice")
        if inside == "answer":
            break
    assert {"examples", "answer"} <= set(reached)
    assert reached["answer"][1] != "none"  # the focus is visible
    page.keyboard.press("Enter")
    page.wait_for_selector("#layers svg")
    assert visitor.words("defended") == offline.answer(test_pairs[0].harmful.audio, 0.1)
    assert visitor.overflow == 0
    slider = page.locator("#alpha input[type=range]")
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    visitor.wait_for("defended", offline.answer(test_pairs[0].harmful.audio, 0.12))


def test_colors_are_the_reports_in_both_schemes(visitors: Any, clip: Path) -> None:
    for scheme, paper, ink in (("light", (255, 255, 255), (31, 36, 48)), ("dark", (20, 23, 28), (230, 233, 238))):
        page = visitors(color_scheme=scheme).page
        page.wait_for_function(
            "(color) => getComputedStyle(document.querySelector('#undefended h3')).color === color", arg=f"rgb{ink}"
        )
        assert page.evaluate("getComputedStyle(document.querySelector('#studio-title h1')).color") == f"rgb{ink}"
        variable = page.evaluate("getComputedStyle(document.body).getPropertyValue('--paper').trim()")
        assert variable == "#{:02x}{:02x}{:02x}".format(*paper)
        font = page.evaluate("getComputedStyle(document.querySelector('#undefended h3')).fontFamily")
        assert font.startswith("system-ui")


def test_the_other_tabs(visitors: Any, test_pairs: Pairs, steering: sarsteer.Steering) -> None:
    visitor: Page = visitors(viewport={"width": 390, "height": 844})
    page = visitor.page

    def open_tab(name: str) -> None:
        tab = page.get_by_role("tab", name=name, exact=True)
        if tab.count():
            tab.click()
            return
        page.get_by_label("More tabs").click()  # there is no room for all of them on a phone
        page.locator(".tab-wrapper button:visible", has_text=name).last.click()

    open_tab("Report")
    page.locator("#results-file input[type=file]").set_input_files(str(RESULTS))
    frame = page.frame_locator("#report iframe")
    frame.locator("#table").wait_for()
    assert visitor.overflow == 0
    open_tab("Steering file")
    shown = page.locator("#artifact")
    shown.locator("svg").first.wait_for()
    assert "sarsteer-tiny" in shown.inner_text()
    assert "24 pairs" in shown.inner_text()
    assert visitor.overflow == 0
    open_tab("Calibrate on my clips")
    page.locator("#harmful-clips input[type=file]").set_input_files([str(p.harmful.audio) for p in test_pairs[:12]])
    page.locator("#calibrate").click()
    page.wait_for_selector("#calibrated [role=alert]")
    assert "Give harmful clips and their safe twins" in page.locator("#calibrated").inner_text()
    page.locator("#safe-clips input[type=file]").set_input_files([str(p.safe.audio) for p in test_pairs[:12]])
    page.wait_for_function("document.querySelector('#safe-clips').textContent.includes('.ogg')")
    page.evaluate(RECORD.replace("#defended", "#calibrated").replace(".words", ".progress"))
    page.locator("#calibrate").click()
    page.wait_for_function("document.querySelector('#calibrated').textContent.includes('Calibrated on 12 pairs')")
    assert len(page.evaluate("window.seen")) > 1
    with page.expect_download(timeout=WAIT) as download:
        page.locator("#download").click()
    assert len(load_file(download.value.path())) > 3
    assert visitor.overflow == 0
    other: Page = visitors()  # the next visitor begins with the studio's file
    assert other.page.locator("#k input[type=number]").get_attribute("max") == str(steering.max_k)
    assert not visitor.errors


def test_the_studio_still_answers_after_everybody_left(studio: StudioProcess, visitors: Any, clip: Path) -> None:
    hurried: Page = visitors()
    hurried.upload(clip)
    hurried.page.locator("#answer").click()
    hurried.page.context.close()  # while the model answers
    visitor: Page = visitors()
    visitor.upload(clip)
    visitor.answer()
    assert studio.process.poll() is None
