"""Answer a visitor's clip undefended and defended, piece by piece.

The defended side shows an answer only if it came from a job that was steered by the chosen strength. In place of an
answer it shows every error, and why an invalid or empty strength would not defend the model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from sarsteer.errors import SarsteerError, SteeringError
from sarsteer.messages import Message
from sarsteer.report.svg import tag
from sarsteer.server.errors import ApiError
from sarsteer.server.job import Failed, Finished, Piece, Started
from sarsteer.server.outbox import Inbox
from sarsteer.server.tenant import Tenant
from sarsteer.steering.gate.gate import Decision, Gate
from sarsteer.steering.strength import ResolvedStrength
from sarsteer.studio.charts import parts_chart, projection_chart, score_scale
from sarsteer.studio.choice import Choice
from sarsteer.studio.panels import answer_panel, failed_panel, figure, page
from sarsteer.studio.reading import GateReading, gate_parts, read_layers
from sarsteer.studio.streams import merged
from sarsteer.studio.visit import Superseded, Visit
from sarsteer.studio.worker import Worker

log = logging.getLogger(__name__)
SETTLE_SECONDS = 0.3
"""A control that moves again within this time is still being moved."""
UNDEFENDED, DEFENDED = "Undefended", "Defended"


@dataclass(frozen=True)
class View:
    """What changed on the page; None for what did not."""

    undefended: str | None = None
    defended: str | None = None
    score: str | None = None
    layers: str | None = None


def blank(gate: Gate | None, threshold: float | None) -> View:
    """The page before a request."""
    return View(
        answer_panel(UNDEFENDED, kind="undefended"),
        answer_panel(DEFENDED, kind="defended"),
        score_view(gate, None, threshold),
        "",
    )


async def answer(worker: Worker, visit: Visit, choice: Choice) -> AsyncIterator[View]:
    """Answer the visitor's clip from the beginning."""
    turn = visit.begin(worker.scheduler)
    visit.asked, visit.undefended = True, None
    async for view in _answer(worker, visit, choice, turn, fresh=True):
        yield view


async def answer_again(worker: Worker, visit: Visit, choice: Choice) -> AsyncIterator[View]:
    """Answer with other settings. The undefended answer does not depend on them, and is kept once it is complete."""
    turn = visit.begin(worker.scheduler)
    await asyncio.sleep(SETTLE_SECONDS)
    if turn == visit.turn and visit.clip is not None and visit.asked:
        async for view in _answer(worker, visit, choice, turn, fresh=visit.undefended is None):
            yield view


async def _answer(worker: Worker, visit: Visit, choice: Choice, turn: int, *, fresh: bool) -> AsyncIterator[View]:
    assert visit.clip is not None
    artifact = visit.artifact
    conversation: list[Message] = [
        {
            "role": "user",
            "content": [
                {"type": "audio", "audio": visit.clip},
                {"type": "text", "text": str(artifact.steering.metadata["instruction"])},
            ],
        }
    ]
    defended: Tenant | None = None
    try:
        strength = choice.resolve(artifact.steering)
        if strength.weakness is not None:
            raise SteeringError(f"this would not defend the model: {strength.weakness}; nothing was answered")
        defended = worker.tenant(visit.name, artifact, strength)
    except SarsteerError as error:
        yield View(defended=failed_panel(DEFENDED, error, "defended"))
    plain = worker.undefended(visit.name, artifact, None if defended is None else defended.strength.gate)
    tenants = [tenant for tenant in (plain if fresh else None, defended) if tenant is not None]
    try:
        queued = worker.submit(tenants, conversation)
        for job, inbox in queued:
            visit.wait_for(job, inbox)
        yield View(
            undefended=answer_panel(UNDEFENDED, "", kind="undefended") if fresh else None,
            defended=answer_panel(DEFENDED, "", kind="defended") if defended is not None else None,
            score=score_view(artifact.steering.gate, None, choice.threshold) if fresh else None,
            layers="" if fresh else None,
        )
        decision: Decision | None = None
        streams = [_stream(visit, job.tenant, inbox, plain=job.tenant is plain) for job, inbox in queued]
        async with aclosing(merged(streams)) as views:
            async for view, decided in views:
                decision = decided or decision
                yield view
        if defended is not None and turn == visit.turn:
            yield await _charts(worker, visit, defended, plain, decision, conversation)
    except Superseded:
        return
    except ApiError as error:  # the queue is full, or the model is not ready
        yield _everywhere(error, fresh)
    except Exception as error:
        if not isinstance(error, SarsteerError):
            log.exception("a request failed")
        yield _everywhere(error, fresh)
    finally:
        if turn == visit.turn:
            visit.begin(worker.scheduler)  # nothing of this request is answered any more, if the visitor left


async def _stream(
    visit: Visit, tenant: Tenant, inbox: Inbox, *, plain: bool
) -> AsyncIterator[tuple[View, Decision | None]]:
    """One answer as it grows, and the gate's decision once it is known."""
    title, kind = (UNDEFENDED, "undefended") if plain else (DEFENDED, "defended")
    text, about = "", ""

    def view(panel: str, score: str | None = None) -> View:
        return View(undefended=panel, score=score) if plain else View(defended=panel, score=score)

    while True:
        event = await inbox.get()
        if isinstance(event, Failed):
            if isinstance(event.error, Superseded):
                raise event.error
            yield view(failed_panel(title, event.error, kind)), None  # nothing that was shown before stays
            raise event.error
        if isinstance(event, Started) and not plain:
            about, score = _applied(tenant.strength, event.decision), None
            if event.decision is not None and tenant.strength.gate is not None:
                reading = reading_of(tenant.strength.gate, event.decision)
                score = score_view(tenant.strength.gate, reading, tenant.strength.gate.threshold)
            yield view(answer_panel(title, text, about=about, kind=kind), score), event.decision
        elif isinstance(event, Piece):
            text += event.text
            yield view(answer_panel(title, text, about=about, kind=kind)), None
        elif isinstance(event, Finished):
            shown = event.text or "(the model ended its answer at once)"
            ended = about + (" Cut at the longest length." if event.reason == "length" else "")
            if plain:
                visit.undefended = shown
            yield view(answer_panel(title, shown, done=True, about=ended.strip(), kind=kind)), None
            return


async def _charts(
    worker: Worker,
    visit: Visit,
    defended: Tenant,
    plain: Tenant,
    decision: Decision | None,
    conversation: list[Message],
) -> View:
    """The charts, from the activations with and without steering."""
    steering, strength = visit.artifact.steering, defended.strength
    if visit.resting is None:
        visit.resting, steered = await worker.activations([plain, defended], conversation)
    else:
        (steered,) = await worker.activations([defended], conversation)
    layers = read_layers(steering, strength, visit.resting, steered)
    gate, reading = strength.gate or steering.gate, None
    if gate is not None:
        if decision is not None:
            reading = reading_of(gate, decision)
        else:
            far = bool(gate.out_of_distribution(visit.resting))
            reading = GateReading(float(gate.score(visit.resting)), gate.threshold, far, True, active=False)
    charts = [
        figure(
            "Projection on the refusal vector, % of the activations’ norm; 0 is the mean of safe clips",
            projection_chart(layers, gate),
        )
    ]
    if gate is not None:
        parts = gate_parts(gate, steering, visit.resting)
        charts.append(figure("What each layer adds to the harm score", parts_chart(parts, len(layers.undefended))))
    score = None if gate is None else score_view(gate, reading, gate.threshold)
    return View(score=score, layers=page(tag("div", *charts, class_="panels")))


def reading_of(gate: Gate, decision: Decision) -> GateReading:
    """A decision of the gate in force."""
    return GateReading(decision.score, gate.threshold, decision.out_of_distribution, decision.harmful, active=True)


def score_view(gate: Gate | None, reading: GateReading | None, threshold: float | None) -> str:
    """The scale of scores, and the decision in words."""
    if gate is None:
        return page(tag("p", "This steering file has no gate: every request is steered, and there is no harm score."))
    scale = score_scale(gate, reading, gate.threshold if threshold is None else threshold)
    words = [] if reading is None else [tag("p", reading.sentence, class_="soft", role="status")]
    return page(figure("Harm score of this request", scale), *words)


def _applied(strength: ResolvedStrength, decision: Decision | None) -> str:
    """What was added, in words."""
    used = f"k {strength.k}, λ {strength.lambda_:g}"
    if decision is None:
        return f"Steered at α {strength.alpha:g}, {used}."
    if decision.opening:
        return f"Gate open: steered at α {decision.strength:.3g}, {used}."
    return "Gate closed: the gate found this request harmless, and nothing is added."


def _everywhere(error: Exception, fresh: bool) -> View:
    panel: dict[str, Any] = {"defended": failed_panel(DEFENDED, error, "defended")}
    if fresh:
        panel["undefended"] = failed_panel(UNDEFENDED, error, "undefended")
    return View(**panel)
