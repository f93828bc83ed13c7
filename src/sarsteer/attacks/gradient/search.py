"""The search that all gradient attacks share: signed, projected steps with momentum on one or several clips.

Every ``CHECK`` steps the clip is rounded to 16 bits, written, and given to the real, defended model; the search ends
when its greedy answer complies. The same steps save the state, so that a killed search ends with the same clip.
A search is a generator that asks for these answers, so that several searches can share a batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sarsteer.attacks.gradient.compliance import Look
from sarsteer.attacks.gradient.forward import DifferentiableClip, frozen
from sarsteer.attacks.gradient.objective import Terms, Weights, terms
from sarsteer.attacks.state import SavedState
from sarsteer.errors import AttackError
from sarsteer.runtime.answerer import Answerer
from sarsteer.steering.strength import ResolvedStrength

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOMENTUM = 0.9
FIRST_STEP, LAST_STEP = 0.2, 0.02
"""Lengths of the first and last step, as shares of the budget; between them they follow half a cosine."""
CHECK = 10
"""Steps between two looks at the real model."""
BETA_FACTOR, BETA_LOWEST, BETA_HIGHEST = 1.5, 1e-3, 1e3
"""An adaptive β is multiplied by the factor at a check while the gate is open, and divided by it while it is closed."""


@dataclass(frozen=True)
class Target:
    """One clip under attack.

    Attributes:
        clip: the differentiable model of its conversation.
        base: ``[T]``, the clean samples, with silence where the attack adds sound.
        radius: ``[T]``, the budget of each sample; 0 where nothing may change.
        answer: ``[M]``, the wanted answer.
        clean: ``[L, D]``, see ``objective.terms``.
        strengths: what the attacker differentiates: one defense, or those that one is drawn from; None for the
            undefended model.

    """

    clip: DifferentiableClip = field(repr=False)
    base: torch.Tensor = field(repr=False)
    radius: torch.Tensor = field(repr=False)
    answer: torch.Tensor = field(repr=False)
    clean: torch.Tensor = field(repr=False)
    strengths: Sequence[ResolvedStrength | None] = (None,)


@dataclass(frozen=True)
class Check:
    """What was seen at a step.

    Attributes:
        step: steps so far, over all restarts.
        complied: for each clip, whether the real model's answer complied.
        outcomes: the judge's verdicts.
        openings: the real gate's openings; None without a gate.
        loss, answer, margin, projection, cancel: the objective and its parts, means over the clips.
        soft: the mean soft opening that the attacker followed.
        beta: β.

    """

    step: int
    complied: tuple[bool, ...]
    outcomes: tuple[str | None, ...]
    openings: tuple[float | None, ...]
    loss: float
    answer: float
    margin: float
    projection: float
    cancel: float
    soft: float | None
    beta: float


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        steps: gradient steps of each restart.
        restarts: how often to start; the first from the clean clip, the others from random noise within the budget.
        weights: of the objective; ``weights.defense`` is β at the start.
        adaptive: whether β follows the gate's decisions.
        temperature: of the gate's soft opening.
        stop: whether the attacker sees the defended answers: the search ends at the first compliance, and prefers it.
        share: the share of audio tokens that may change, chosen by the first gradient; None for all.
        from_noise: whether the first restart, too, starts from noise. Silence has no gradient: its features are at
            their floor.

    """

    steps: int = 200
    restarts: int = 1
    weights: Weights = field(default_factory=Weights)
    adaptive: bool = False
    temperature: float = 0.5
    stop: bool = True
    share: float | None = None
    from_noise: bool = False


@dataclass
class _State:
    step: int
    delta: torch.Tensor
    velocity: torch.Tensor
    mask: torch.Tensor  # 1 where the search may change the clip
    beta: float
    checks: list[Check]
    best: torch.Tensor
    best_loss: float
    done: bool


@dataclass(frozen=True)
class Found:
    """The end of a search: the change ``[N]``, and what was seen on the way."""

    delta: torch.Tensor = field(repr=False)
    checks: tuple[Check, ...]

    @property
    def success_step(self) -> int | None:
        """The first step at which every clip's answer complied; None if none did."""
        return next((check.step for check in self.checks if all(check.complied)), None)


def search(
    targets: Sequence[Target],
    settings: Settings,
    answerer: Answerer,
    state: SavedState,
    noise: Callable[[int, int], NDArray[np.float32]],
    progress: Callable[[int], None] = lambda step: None,
) -> Generator[torch.Tensor, Sequence[Look], Found]:
    """Search for one change of all ``targets``' clips: its first ``T`` values are added to a clip of ``T`` samples.

    Yields each change ``[N]`` that the real, defended model should be asked about, and must be sent what it answers to
    the clips, rounded as files are.

    Args:
        targets: the clips.
        settings: how to search.
        answerer: owns the model's steering.
        state: where the search is saved; a finished one is returned at once.
        noise: uniform values in [-1, 1], from a restart's number and a length.
        progress: called with the number of finished steps.

    Raises:
        AttackError: the objective or its gradient is not finite, or no gradient reaches the clip.

    """
    run = _Search(targets, settings, answerer)
    now = _loaded(state) or run.start(0, noise)
    total = settings.steps * settings.restarts
    while not now.done:
        between = 0 < now.step < total and now.step % settings.steps == 0  # one restart has ended
        due = now.step % CHECK == 0 or between or now.step == total
        noisy = now.step == 0 and settings.from_noise
        parts = None
        if due and (not now.checks or now.checks[-1].step != now.step):  # else it was saved after its check
            parts = run.gradient(now, needed=now.step < total and not (between or noisy))
            run.check(now, parts, (yield now.delta))
            now.done = now.step >= total or (settings.stop and all(now.checks[-1].complied))
            _save(state, now)
            progress(now.step)
            if now.done:
                break
        if between or noisy:
            run.restart(now, noise)
        if between or noisy or parts is None:
            parts = run.gradient(now)
        if due and not between:
            run.adapt(now, parts)
        run.move(now)
        now.step += 1
    final = now.delta if settings.stop and all(now.checks[-1].complied) else now.best
    return Found(final, tuple(now.checks))


class _Search:
    def __init__(
        self,
        targets: Sequence[Target],
        settings: Settings,
        answerer: Answerer,
    ) -> None:
        self._targets, self._settings, self._answerer = list(targets), settings, answerer
        longest = max(targets, key=lambda one: len(one.base))
        self._radius = longest.radius
        for one in targets:  # one change fits all: a shorter clip gets its beginning
            if not torch.equal(one.radius, self._radius[: len(one.radius)]):
                raise AttackError("clips that share a change must have the same budget at each sample")
        self._gradient = torch.zeros_like(self._radius)

    def start(self, restart: int, noise: Callable[[int, int], NDArray[np.float32]], *, checked: bool = False) -> _State:
        """The state at the start of a restart; the first starts from silence until it was ``checked``."""
        delta = torch.zeros_like(self._radius)
        if restart or (checked and self._settings.from_noise):
            delta = torch.from_numpy(noise(restart, len(delta))).to(delta) * self._radius
        mask = (self._radius > 0).to(delta)
        zeros = torch.zeros_like(delta)
        beta = self._settings.weights.defense
        return _State(0, delta, zeros, mask, beta, [], zeros.clone(), math.inf, False)

    def restart(self, now: _State, noise: Callable[[int, int], NDArray[np.float32]]) -> None:
        """Begin again from noise; what was seen and the best change stay."""
        fresh = self.start(now.step // self._settings.steps, noise, checked=True)
        now.delta, now.velocity, now.beta = fresh.delta * now.mask, fresh.velocity, fresh.beta

    def gradient(self, now: _State, *, needed: bool = True) -> list[tuple[Terms, float | None, float | None]]:
        """The terms, soft and true opening of each clip and strength; with ``needed``, ``move`` gets their gradient."""
        total = torch.zeros_like(self._radius)
        seen = []
        with self._answerer.unsteered(), frozen(self._targets[0].clip.model), torch.set_grad_enabled(needed):
            for one, strength in [(target, each) for target in self._targets for each in target.strengths]:
                delta = now.delta[: len(one.base)].clone().requires_grad_(needed)
                samples = (one.base + delta).clamp(-1, 1)
                output = one.clip.forward(samples, one.answer, strength, self._settings.temperature)
                parts = terms(output, one.answer, strength, one.clean)
                if needed:
                    parts.total(self._settings.weights, now.beta).backward()  # type: ignore[no-untyped-call]
                    assert delta.grad is not None
                    total[: len(delta)] += delta.grad / (len(self._targets) * len(one.strengths))
                soft = output.reading.soft_opening
                values = Terms(*(part.detach() for part in vars(parts).values()))
                seen.append((values, None if soft is None else float(soft.detach()), output.reading.opening))
        if not torch.isfinite(total).all():
            raise AttackError("the gradient is not finite; use float32 (--dtype float32)")
        self._gradient = total * (self._radius > 0)
        if needed and now.step == 0:
            if not self._gradient.any():
                raise AttackError(
                    "no gradient reaches the clip; give one that is longer than an audio token, or use an attack "
                    "without gradients"
                )
            if self._settings.share is not None:
                now.mask = now.mask * self._loudest_tokens(self._settings.share)
        return seen

    def move(self, now: _State) -> None:
        """One signed step, back into the budget."""
        gradient = self._gradient * now.mask
        size = gradient.abs().sum()
        now.velocity = MOMENTUM * now.velocity + (gradient / size if float(size) > 0 else gradient)
        done = (now.step % self._settings.steps) / self._settings.steps
        length = LAST_STEP + (FIRST_STEP - LAST_STEP) * (1 + math.cos(math.pi * done)) / 2
        moved = now.delta - length * self._radius * now.velocity.sign()
        now.delta = torch.minimum(torch.maximum(moved, -self._radius), self._radius) * now.mask

    def check(
        self,
        now: _State,
        parts: Sequence[tuple[Terms, float | None, float | None]],
        looks: Sequence[Look],
    ) -> None:
        """Record what the real model answered, and remember the best change."""
        means = {
            name: sum(float(getattr(term, name)) for term, _, _ in parts) / len(parts)
            for name in ("answer", "margin", "projection", "cancel")
        }
        loss = sum(float(term.total(self._settings.weights, now.beta)) for term, _, _ in parts) / len(parts)
        softs = [soft for _, soft, _ in parts if soft is not None]
        now.checks.append(
            Check(
                now.step,
                tuple(one.complied for one in looks),
                tuple(one.outcome for one in looks),
                tuple(one.opening for one in looks),
                loss,
                soft=sum(softs) / len(softs) if softs else None,
                beta=now.beta,
                **means,
            )
        )
        # by the attacker's own, constant measure: more compliance, if he sees it, then a lower loss at the first β
        own = sum(float(term.total(self._settings.weights, self._settings.weights.defense)) for term, _, _ in parts)
        rank = own / len(parts) - 1e6 * sum(one.complied for one in looks if self._settings.stop)
        if rank < now.best_loss:
            now.best_loss, now.best = rank, now.delta.clone()

    def adapt(self, now: _State, parts: Sequence[tuple[Terms, float | None, float | None]]) -> None:
        """Raise an adaptive β while the gate is open, lower it while it is closed."""
        gates = [opening for _, _, opening in parts if opening is not None]
        if self._settings.adaptive and gates and now.step:
            opened = sum(gates) / len(gates) > 0.5
            factor = BETA_FACTOR if opened else 1 / BETA_FACTOR
            now.beta = min(max(now.beta * factor, BETA_LOWEST), BETA_HIGHEST)

    def _loudest_tokens(self, share: float) -> torch.Tensor:
        """1 for the samples of the audio tokens with the most gradient, which are ``share`` of all."""
        width = self._targets[0].clip.samples_per_token
        energy = _padded(self._gradient.square(), width).view(-1, width).sum(1)
        allowed = _padded((self._radius > 0).float(), width).view(-1, width).any(1)
        count = max(1, round(share * int(allowed.sum())))
        chosen = torch.zeros_like(energy)
        chosen[energy.where(allowed, energy.new_full((), -1.0)).topk(count).indices] = 1.0
        return chosen.repeat_interleave(width)[: len(self._radius)]


def _padded(values: torch.Tensor, width: int) -> torch.Tensor:
    """``values`` ``[N]`` with zeros up to a multiple of ``width``."""
    return torch.nn.functional.pad(values, (0, -len(values) % width))


def _save(state: SavedState, now: _State) -> None:
    about: Mapping[str, Any] = {
        "beta": now.beta,
        "best_loss": None if math.isinf(now.best_loss) else now.best_loss,
        "done": now.done,
        "checks": [asdict(check) for check in now.checks],
    }
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8).copy()
    tensors = {"delta": now.delta, "velocity": now.velocity, "mask": now.mask, "best": now.best}
    state.save(now.step, {**tensors, "about": torch.from_numpy(text)})


def _loaded(state: SavedState) -> _State | None:
    found = state.load()
    if found is None:
        return None
    step, tensors = found
    about = json.loads(bytes(tensors["about"].numpy()).decode())
    checks = []
    for one in about["checks"]:
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in one.items()}
        checks.append(Check(**values))
    best = math.inf if about["best_loss"] is None else about["best_loss"]
    return _State(
        step=step,
        delta=tensors["delta"],
        velocity=tensors["velocity"],
        mask=tensors["mask"],
        beta=about["beta"],
        checks=checks,
        best=tensors["best"],
        best_loss=best,
        done=about["done"],
    )
