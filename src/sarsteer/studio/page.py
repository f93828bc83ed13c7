"""The page: inputs, controls, answers and tabs, and what happens when one is used.

Importing this imports Gradio, which reads its environment variables then; see ``run``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from sarsteer.audio import check_length
from sarsteer.errors import SarsteerError
from sarsteer.report.svg import tag
from sarsteer.studio.answering import DEFENDED, View, answer, answer_again, blank
from sarsteer.studio.choice import Artifact, Choice, defaults, ranges
from sarsteer.studio.examples import Example
from sarsteer.studio.own_clips import own_benign, own_pairs
from sarsteer.studio.panels import explanation, failed_panel, notice, page
from sarsteer.studio.tabs import artifact_view, report_view
from sarsteer.studio.uploads import only_uploads, read_upload
from sarsteer.studio.visit import Visit, Visits
from sarsteer.studio.worker import Stopped, StudioSettings, Worker

log = logging.getLogger(__name__)
AT_ONCE = 32
"""Visitors' requests that are handled at once; the model's queue has its own limit."""


class Studio:
    """The handlers of the page. ``worker`` and ``visits`` exist once the server runs.

    Args:
        settings: how the studio is started.
        folder: where visitors' files lie.
        examples: clips to begin with; they are in ``folder``.
        results: of an evaluation, to show at the start.

    """

    def __init__(
        self, settings: StudioSettings, folder: Path, examples: Sequence[Example], results: Path | None
    ) -> None:
        self.settings, self.folder, self.examples, self.results = settings, folder, examples, results
        self.worker: Worker
        self.visits: Visits

    def start(self, worker: Worker) -> None:
        """Answer with this worker."""
        self.worker, self.visits = worker, Visits(self.settings.artifact, worker.scheduler)
        worker.start()

    # ---- the clip ------------------------------------------------------------------------------------------------

    def take_clip(self, visit: Visit, path: str | None) -> None:
        """Use an uploaded clip from now on.

        Raises:
            AudioError: it is invalid; there is no clip then.

        """
        clip = None
        try:
            if path is not None:
                clip = read_upload(path, self.settings.limits)
                model = self.worker.model
                if model is not None and not model.split_long_audio:
                    check_length(clip.seconds, clip.name, model.window_seconds)
        except SarsteerError:
            clip = None
            raise
        finally:
            visit.use_clip(clip)

    async def check_clip(self, visit: Visit, path: str | None) -> tuple[str, View]:
        """A message about a new clip, and the page without the answers to the previous one."""
        async with visit.lock:  # an answer that was asked for meanwhile must not be cancelled
            return await self._check_clip(visit, path)

    async def _check_clip(self, visit: Visit, path: str | None) -> tuple[str, View]:
        before = visit.clip
        try:
            await asyncio.to_thread(self.take_clip, visit, path)
        except SarsteerError as error:
            visit.begin(self.worker.scheduler)
            return notice(explanation(error), warning=True), self._blank(visit)
        if visit.clip is None:
            visit.begin(self.worker.scheduler)
            return "", self._blank(visit)
        same = before is not None and before.digest == visit.clip.digest
        if not same:
            visit.begin(self.worker.scheduler)
        text = f"{visit.clip.seconds:.1f} s at {visit.clip.rate} Hz. Press Answer."
        return notice(text), View() if same else self._blank(visit)

    @staticmethod
    def _blank(visit: Visit) -> View:
        return blank(visit.artifact.steering.gate, None)

    async def run(self, visit: Visit, path: str | None, choice: Choice) -> AsyncIterator[tuple[str | None, View]]:
        """Answer a clip: messages and views."""
        try:
            async with visit.lock:
                await asyncio.to_thread(self.take_clip, visit, path)
        except SarsteerError as error:
            yield notice(explanation(error), warning=True), self._blank(visit)
            return
        if visit.clip is None:
            yield notice("Speak, upload a clip, or pick an example first.", warning=True), View()
            return
        async for view in answer(self.worker, visit, choice):
            yield None, view

    # ---- the visitor's own calibration ---------------------------------------------------------------------------

    async def calibrate(
        self, visit: Visit, harmful: Sequence[str], safe: Sequence[str], benign: Sequence[str]
    ) -> AsyncIterator[tuple[str, Artifact | None, str | None]]:
        """Calibrate on the visitor's clips: messages, and in the end the artifact and its file."""
        turn = visit.begin(self.worker.scheduler)
        limits = self.settings.limits
        steps: asyncio.Queue[tuple[str, int, int] | None] = asyncio.Queue()
        task: asyncio.Task[Any] | None = None
        try:
            yield progress_view("Reading the clips", 0, 1), None, None
            pairs = await asyncio.to_thread(own_pairs, harmful, safe, limits)
            others = await asyncio.to_thread(own_benign, benign, limits)
            yield progress_view("Waiting for the model", 0, 1), None, None
            task = asyncio.create_task(
                self.worker.calibrate(
                    pairs,
                    others,
                    lambda *step: steps.put_nowait(step),
                    lambda: visit.turn != turn,
                )
            )
            task.add_done_callback(lambda _: steps.put_nowait(None))
            while (step := await steps.get()) is not None:
                yield progress_view(*step), None, None
            steering = await task
            place = self.folder / f"calibration-{visit.name}-{turn}"
            place.mkdir()
            file = place / "steering.safetensors"
            steering.save(file)
            artifact = Artifact(steering, file.name)
            visit.use_artifact(artifact)
            about = "" if steering.gate else f" No gate was fitted: {steering.metadata['no_gate']}."
            count = f"{len(pairs)} pairs" + (f" and {len(others)} benign clips" if others else "")
            text = f"Calibrated on {count}. You now use this steering file; other visitors do not.{about}"
            yield notice(text), artifact, str(file)
        except Stopped:
            return
        except SarsteerError as error:
            yield notice(explanation(error), warning=True), None, None
        except Exception as error:
            log.exception("a calibration failed")
            yield notice(explanation(error), warning=True), None, None
        finally:
            if task is not None and not task.done() and visit.turn == turn:
                visit.begin(self.worker.scheduler)  # the visitor left: the model stops calibrating at its next step


def progress_view(stage: str, done: int, total: int) -> str:
    """A progress bar with words."""
    share = f"{done} of {total}" if total > 1 else ""
    bar = tag("progress", max=str(max(total, 1)), value=str(done), aria_label=stage)
    return page(tag("div", tag("p", f"{stage} … {share}".strip(), role="status"), bar, class_="progress"))


def build(studio: Studio) -> gr.Blocks:
    """The page as ``gradio.Blocks``."""
    steering = studio.settings.artifact.steering
    begin, most = defaults(steering), ranges(steering)
    empty = blank(steering.gate, begin.threshold)

    def files(component: Any) -> Any:
        return only_uploads(component, studio.folder)

    def changed(view: View) -> list[Any]:
        values = (view.undefended, view.defended, view.score, view.layers)
        return [gr.skip() if value is None else value for value in values]

    def control_updates(artifact: Artifact) -> list[Any]:
        first, top = defaults(artifact.steering), ranges(artifact.steering)
        gated = artifact.steering.gate is not None
        return [
            gr.update(value=first.alpha, maximum=top.alpha),
            gr.update(value=first.k, maximum=top.k),
            gr.update(value=first.lambda_, maximum=top.lambda_),
            gr.update(value=first.gated, interactive=gated),
            gr.update(
                value=first.threshold or 0.0, minimum=top.threshold[0], maximum=top.threshold[1], interactive=gated
            ),
        ]

    with gr.Blocks(
        title="sarsteer studio", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    ) as blocks:
        _html(
            str(
                tag("h1", "sarsteer studio")
                + tag(
                    "p",
                    f"{studio.settings.model_name}, steered by {studio.settings.artifact.name}. Your clips stay on "
                    "this server, and are deleted after an hour.",
                )
            ),
            elem_id="studio-title",
        )
        with gr.Tab("Try it"), gr.Row(elem_id="try"):
            with gr.Column(elem_id="input"):
                audio = files(
                    gr.Audio(
                        sources=["upload", "microphone"],
                        type="filepath",
                        label="Your request",
                        editable=False,
                        buttons=[],
                        elem_id="clip",
                    )
                )
                picked = gr.Radio(
                    [(example.label, str(i)) for i, example in enumerate(studio.examples)],
                    label="Or pick an example",
                    visible=bool(studio.examples),
                    elem_id="examples",
                )
                message = _html("", elem_id="message")
                ask = gr.Button("Answer", variant="primary", elem_id="answer")
            with gr.Column(elem_id="results"):
                with gr.Row(elem_id="answers"):
                    undefended = _html(empty.undefended, elem_id="undefended")
                    defended = _html(empty.defended, elem_id="defended")
                score = _html(empty.score, elem_id="score")
                layers = _html("", elem_id="layers")
            with gr.Column(elem_id="controls"):
                alpha = gr.Slider(0, most.alpha, begin.alpha, step=0.01, label="α, steering strength", elem_id="alpha")
                k = gr.Slider(0, most.k, begin.k, step=1, label="k, ablated safe components", elem_id="k")
                lambda_ = gr.Slider(0, most.lambda_, begin.lambda_, step=0.05, label="λ, ablation", elem_id="lambda")
                gated = gr.Checkbox(
                    begin.gated,
                    label="Gate: steer only what looks harmful",
                    interactive=steering.gate is not None,
                    elem_id="gate",
                )
                threshold = gr.Slider(
                    *most.threshold,
                    begin.threshold or 0.0,
                    step=0.01,
                    label="Gate threshold",
                    interactive=steering.gate is not None,
                    elem_id="threshold",
                )
                reset = gr.Button("The file’s own settings", elem_id="reset")
        with gr.Tab("Report"):
            results = files(
                gr.File(
                    label="results.json of sarsteer evaluate, or demo-results.json",
                    file_types=[".json"],
                    elem_id="results-file",
                )
            )
            report = _html(report_view(studio.results) if studio.results else "", elem_id="report")
        with gr.Tab("Steering file"):
            other = files(
                gr.File(label="Look at another steering file", file_types=[".safetensors"], elem_id="artifact-file")
            )
            shown = _html(artifact_view(studio.settings.artifact), elem_id="artifact")
        with gr.Tab("Calibrate on my clips"):
            _html(
                page(
                    tag(
                        "p",
                        "Give harmful requests and, for each, a harmless twin about the same topic in the same "
                        "voice. They are paired in the order of their file names. 100 pairs are a good number; a "
                        "gate needs ten. Meanwhile the model answers nobody else.",
                    )
                )
            )
            with gr.Row():
                harmful = files(gr.File(label="Harmful clips", file_count="multiple", elem_id="harmful-clips"))
                safe = files(gr.File(label="Safe twins", file_count="multiple", elem_id="safe-clips"))
                benign = files(
                    gr.File(label="Other safe clips (optional)", file_count="multiple", elem_id="benign-clips")
                )
            calibrate = gr.Button("Calibrate", variant="primary", elem_id="calibrate")
            calibrated = _html("", elem_id="calibrated")
            download = files(gr.DownloadButton("Download the steering file", visible=False, elem_id="download"))
            back = gr.Button("Use the studio’s file again", visible=False, elem_id="back")

        settings = [alpha, k, lambda_, gated, threshold]
        panels = [undefended, defended, score, layers]

        def visit_of(request: gr.Request) -> Visit:
            return studio.visits.of(str(request.session_hash))

        def choice_of(values: Sequence[Any]) -> Choice:
            return Choice(float(values[0]), int(values[1]), float(values[2]), bool(values[3]), float(values[4]))

        def pick(number: str | None) -> Any:
            return gr.skip() if number is None else studio.examples[int(number)].path

        async def accept(request: gr.Request, path: str | None) -> list[Any]:
            text, view = await studio.check_clip(visit_of(request), path)
            return [text, *changed(view)]

        async def answer_clip(request: gr.Request, path: str | None, *values: Any) -> AsyncIterator[list[Any]]:
            visit = visit_of(request)
            async for text, view in studio.run(visit, path, choice_of(values)):
                yield [gr.skip() if text is None else text, *changed(view)]

        async def adjust(request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
            visit = visit_of(request)
            try:
                choice = choice_of(values)
            except (TypeError, ValueError):  # an emptied number field
                yield changed(View(defended=failed_panel(DEFENDED, "a setting is not a number", "defended")))
                return
            yield changed(View())  # Gradio empties all panels if a superseded request ends without a step
            async for view in answer_again(studio.worker, visit, choice):
                yield changed(view)

        def restore(request: gr.Request) -> list[Any]:
            return control_updates(visit_of(request).artifact)

        def show_report(path: str | None) -> str:
            return _shown(lambda: "" if path is None else report_view(Path(path)))

        def show_artifact(request: gr.Request, path: str | None) -> str:
            return _shown(
                lambda: artifact_view(visit_of(request).artifact if path is None else Artifact.load(Path(path)))
            )

        async def calibrate_clips(
            request: gr.Request, one: list[str] | None, two: list[str] | None, three: list[str] | None
        ) -> AsyncIterator[list[Any]]:
            visit = visit_of(request)
            async for text, artifact, file in studio.calibrate(visit, one or [], two or [], three or []):
                if artifact is None:
                    yield [text, *[gr.skip()] * (len(settings) + len(panels) + 3)]
                    continue
                yield [
                    text,
                    *control_updates(artifact),
                    *changed(studio._blank(visit)),
                    artifact_view(artifact),
                    gr.update(value=file, visible=True),
                    gr.update(visible=True),
                ]

        def use_first(request: gr.Request) -> list[Any]:
            visit = visit_of(request)
            visit.begin(studio.worker.scheduler)
            visit.use_artifact(studio.settings.artifact)
            return [
                notice(f"You use {studio.settings.artifact.name} again."),
                *control_updates(visit.artifact),
                *changed(studio._blank(visit)),
                artifact_view(visit.artifact),
                gr.update(visible=False),
                gr.update(visible=False),
            ]

        def leave(request: gr.Request) -> None:
            studio.visits.forget(str(request.session_hash))

        plain: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": AT_ONCE}
        everything = [calibrated, *settings, *panels, shown, download, back]
        picked.input(pick, picked, audio, **plain)
        audio.change(accept, audio, [message, *panels], **plain)
        ask.click(answer_clip, [audio, *settings], [message, *panels], trigger_mode="multiple", **plain)
        moved = [control.input for control in settings]
        # "multiple" would start requests at once, in any order: an older setting could win
        gr.on(moved, adjust, settings, panels, trigger_mode="always_last", **plain)
        reset.click(restore, None, settings, **plain).then(adjust, settings, panels, trigger_mode="multiple", **plain)
        results.change(show_report, results, report, **plain)
        other.change(show_artifact, other, shown, **plain)
        calibrate.click(calibrate_clips, [harmful, safe, benign], everything, **plain)
        back.click(use_first, None, everything, **plain)
        blocks.unload(leave)
    blocks.queue(api_open=False, max_size=4 * AT_ONCE, default_concurrency_limit=AT_ONCE)
    return blocks


def _html(value: str | None, elem_id: str | None = None) -> gr.HTML:
    """Our own HTML, without Gradio's colors for text."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False)


def _shown(view: Callable[[], str]) -> str:
    try:
        return view()
    except SarsteerError as error:
        return notice(explanation(error), warning=True)
    except Exception as error:
        log.exception("a file could not be shown")
        return notice(explanation(error), warning=True)
