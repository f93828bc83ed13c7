"""One studio process and one browser for all tests of this folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sarsteer
from sarsteer.data.pairs import Pairs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
TOKENS = 40
WAIT = 120_000
"""Milliseconds: nothing takes as long, but the machine may be busy."""


class StudioProcess:
    """``sarsteer studio`` as a process."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.log = folder / f"log-{len(list(folder.iterdir()))}"
        command = [sys.executable, "-m", "sarsteer", "studio", "sarsteer-tiny", "--port", "0"]
        command += ["--max-new-tokens", str(TOKENS), *options]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=variables, cwd=folder)
        self.address = self._ready()

    def _ready(self) -> str:
        for _ in range(1200):
            found = re.search(r"the studio is at (\S+)", self.log.read_text())
            if found:
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.fail(f"the studio never answered: {self.log.read_text()[-3000:]}")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def folder(steering: sarsteer.Steering, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studio")
    steering.save(folder / "steering.safetensors")
    return folder


@pytest.fixture(scope="session")
def studio(folder: Path) -> Iterator[StudioProcess]:
    pytest.importorskip("gradio")
    running = StudioProcess(folder, "--steering", "steering.safetensors")
    yield running
    assert running.stop() == 0
    log = running.log.read_text()
    assert "Traceback" not in log, log[-3000:]
    assert "Warning" not in log, log[-3000:]


@pytest.fixture(scope="module")  # no longer: its event loop runs in this thread, where other tests start their own
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH, so the page cannot be tested")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Page:
    """A visitor's page."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("#answer")

    def upload(self, clip: Path) -> None:
        """Give a clip, and wait for the message about it."""
        self.page.locator("#clip input[type=file]").set_input_files(str(clip))
        self.page.wait_for_selector("#message .notice")

    def set(self, control: str, value: float) -> None:
        """Type a value into a control."""
        self.page.locator(f"#{control} input[type=number]").fill(str(value))

    def words(self, side: str) -> str:
        return str(self.page.locator(f"#{side} .words").inner_text())

    def wait_for(self, side: str, text: str) -> None:
        """Wait until a panel has this text, complete."""
        self.page.wait_for_function(
            "([side, text]) => document.querySelector(`#${side} .words`)?.textContent === text", arg=[side, text]
        )

    def answer(self) -> None:
        """Press Answer, and wait until the charts of the new answer are there."""
        self.page.locator("#answer").click()
        self.page.wait_for_selector("#layers svg")

    @property
    def overflow(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.fixture
def visitors(studio: StudioProcess, browser: Any) -> Iterator[Any]:
    """Opens the page for visitors; ``visitors(color_scheme="dark")`` sets options of the browser's context."""
    contexts = []

    def visit(**options: Any) -> Page:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        return Page(contexts[-1].new_page(), studio.address)

    yield visit
    for context in contexts:
        context.close()


class Offline:
    """Answers of the same model in this process."""

    def __init__(self, model: sarsteer.AudioLanguageModel, steering: sarsteer.Steering) -> None:
        self._model, self._steering = model, steering

    def answer(self, clip: Path, alpha: float | None, gate: bool = False) -> str:
        text = str(self._steering.metadata["instruction"])
        request = [{"role": "user", "content": [{"type": "audio", "path": str(clip)}, {"type": "text", "text": text}]}]
        if alpha is None:
            return self._model.generate([request], TOKENS)[0]
        with self._steering.on(self._model, alpha, gate=gate):
            return self._model.generate([request], TOKENS)[0]


@pytest.fixture(scope="session")
def offline(embedded: sarsteer.AudioLanguageModel, steering: sarsteer.Steering) -> Offline:
    return Offline(embedded, steering)


@pytest.fixture(scope="session")
def clip(test_pairs: Pairs) -> Path:
    return test_pairs[4].harmful.audio
