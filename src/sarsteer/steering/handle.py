"""The handle of a steered model: change its strength in place, read what the gate decided, remove the steering.

Steering is attached, proven by a probe (``proof.py``, ``gate/proof.py``), and only then used. With a gate each row's
``α v_l`` is multiplied by the row's opening, in the layers above the gate's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.observer import observer_of
from sarsteer.steering.gate.gate import Decision, Gate
from sarsteer.steering.gate.hooks import GateState
from sarsteer.steering.gate.proof import prove_gate
from sarsteer.steering.hooks import DELTA
from sarsteer.steering.installation import Installation
from sarsteer.steering.proof import ROW_FACTORS, Probe, generate_two_tokens, prove
from sarsteer.steering.rows import RowSteering
from sarsteer.steering.strength import ResolvedStrength
from sarsteer.steering.turns import Turns


def attach(
    module: nn.Module, layers: Sequence[nn.Module], strength: ResolvedStrength, probe: Probe | None = None
) -> SteeringHandle:
    """Steer ``module``, prove it, and return the handle.

    Args:
        module: a transformers model, wrapped or not.
        layers: its decoder layers.
        strength: what is added, and the gate.
        probe: generates two tokens for a model with its own decoding loop; transformers' ``generate`` by default.

    Raises:
        SteeringError: the model is already steered, has another number of layers, or the proof failed; the model is
            unchanged.

    """
    if observer_of(module) is not None or any(hasattr(layer, DELTA) for layer in layers):
        raise SteeringError("this model is already steered; remove that steering first, or change its alpha")
    if len(strength.vectors) != len(layers):
        raise SteeringError(
            f"vectors of shape {tuple(strength.vectors.shape)} for {len(layers)} decoder layers; give one per layer"
        )
    return SteeringHandle(module, layers, strength, probe)


class SteeringHandle:
    """Steering that is attached to a model. ``remove()`` detaches it; the handle is also a context manager.

    Create it with ``Steering.attach`` or ``attach``. It implements ``GenerationObserver``: the model reports its
    batches, so that ``decisions`` come in the order of the answers.
    """

    def __init__(
        self, module: nn.Module, layers: Sequence[nn.Module], strength: ResolvedStrength, probe: Probe | None = None
    ) -> None:
        self._module, self._layers, self._probe = module, list(layers), probe
        self._turns = Turns()
        self._strength = strength
        self._batch: list[Decision] | None = None  # of the batch that is being answered
        self._answered: tuple[int, list[Decision]] = (-1, [])  # prefills after a call, and the call's decisions
        self._installations = 0
        self._rows: RowSteering | None = None  # while a call answers rows of different strengths
        self._rows_proven = 0  # the installation for which `prove_rows` succeeded
        self._installation = self._install()

    # ---- strength ------------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether the model is steered through this handle."""
        return observer_of(self._module) is self

    @property
    def strength(self) -> ResolvedStrength:
        """The strength in force; see ``apply``."""
        return self._strength

    @property
    def installations(self) -> int:
        """How often hooks were installed: what ``prove`` showed holds until this changes."""
        return self._installations

    @property
    def vectors(self) -> torch.Tensor:
        """The vectors that are added, times α: ``[L, D]``, float32, on the CPU."""
        return self._strength.vectors

    @property
    def gate(self) -> Gate | None:
        """Decides which requests are steered; None steers all."""
        return self._strength.gate

    @property
    def defended(self) -> bool:
        """Whether requests are steered: False after removal, in shadow mode, and if nothing would be added."""
        return self.attached and self._strength.weakness is None

    @property
    def alpha(self) -> float:
        """The steering strength; assign to change it in place."""
        return self._strength.alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        with self._turns.change():
            self._check_attached()
            self._strength = self._strength.with_alpha(value)
            self._installation.write(self._strength.deltas)

    def apply(self, strength: ResolvedStrength) -> None:
        """Change vectors, alpha and gate in one step, after running answers have finished (see ``turns``).

        The buffers are rewritten in place. Only a gate at another layer, or the first gate, needs new hooks: they are
        installed and proven.

        Raises:
            SteeringError: this steering was removed, the vectors have another shape, or the proof failed. The previous
                strength stays in force. If new hooks failed and the previous ones cannot be proven again either, the
                steering is removed, and ``attached`` is False.

        """
        if strength.vectors.shape != self.vectors.shape:
            raise SteeringError(
                f"vectors of shape {tuple(strength.vectors.shape)} for a model of {tuple(self.vectors.shape)}; "
                "use a steering of this model"
            )
        with self._turns.change():
            self._check_attached()
            previous = self._strength
            try:
                self._use(strength)
            except BaseException:
                self._use(previous)
                raise

    def prove(self, probe: Probe) -> None:
        """Prove that another decoding loop is steered. The strength in force is the same afterwards.

        Args:
            probe: runs a prefill and a decode step of at least one row; with a gate, of two different rows.

        Raises:
            SteeringError: a layer is not steered exactly.

        """
        self._prove(probe)

    def prove_rows(self, probe: Probe | None = None) -> None:
        """Prove that the rows of a batch can be steered differently (``by_row``). The strength stays the same.

        Args:
            probe: as in ``prove``, of two different rows; transformers' ``generate`` by default.

        Raises:
            SteeringError: a row is not steered exactly.

        """
        self._rows_proven = 0
        self._prove(probe or (lambda: generate_two_tokens(self._module, rows=len(ROW_FACTORS))), ROW_FACTORS)
        self._rows_proven = self._installations

    def suspend(self) -> None:
        """Add zeros and decide nothing until the next ``apply``; the proven hooks stay."""
        self.apply(ResolvedStrength(torch.zeros_like(self.vectors), 0.0))

    def remove(self) -> None:
        """Detach the steering after running answers have finished; the model answers exactly as before.

        Safe to call twice.
        """
        with self._turns.change():
            self._installation.remove()

    def __enter__(self) -> SteeringHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _prove(self, probe: Probe, factors: torch.Tensor | None = None) -> None:
        with self._turns.change():
            self._check_attached()
            write, state, gate = self._installation.write, self._state, self.gate
            try:
                if state is not None:
                    state.write(None)
                prove(self._module, self._layers, write, probe, factors)
                if state is not None and gate is not None:
                    prove_gate(self._module, self._layers, write, state, gate, probe, factors)
            finally:
                self._use(self._strength)

    def _use(self, strength: ResolvedStrength) -> None:
        self._strength = strength
        if not self.attached or not self._installation.takes(strength.gate):
            self.remove()
            self._installation = self._install()
            return
        if self._state is not None:
            self._state.write(strength.gate)
        self._installation.write(strength.deltas)

    def _check_attached(self) -> None:
        if not self.attached:
            raise SteeringError("this steering was removed; attach it again")

    def _install(self) -> Installation:
        """Install, prove, and write the strength; after a failure the model is unchanged."""
        gate, width = self._strength.gate, self._strength.vectors.shape[1]
        self._answered = (-1, [])
        installation = Installation(
            self._module, self._layers, width, gate, self, self._generating, self._before_forward
        )
        self._installation = installation
        self._installations += 1
        try:
            prove(self._module, self._layers, installation.write, self._probe)
            if installation.state is not None and gate is not None:
                prove_gate(self._module, self._layers, installation.write, installation.state, gate, self._probe)
                installation.state.write(gate)
            installation.write(self._strength.deltas)
        except BaseException:
            installation.remove()
            raise
        return installation

    # ---- decisions -----------------------------------------------------------------------------------------------

    @property
    def decisions(self) -> list[Decision]:
        """What the gate decided: one for each answer of the newest ``AudioLanguageModel.generate``, in their order.

        If the model was called in another way since (its own ``generate``, a stream, a forward): one for each row of
        the newest prefill, beams and samples included. Empty without a gate, and before the first prefill.
        """
        if self._state is None or self.gate is None:
            return []
        prefills, decisions = self._answered
        return list(decisions) if prefills == self._state.prefills else self._newest()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A context in which one call answers: the steering does not change meanwhile.

        ``generate`` and ``stream`` enter it. A custom decoding loop over the model's forward must do so too, from each
        prefill to the last token that is decoded after it. Without a gate, calls of several threads may overlap.

        Raises:
            SteeringError: there is a gate, and another thread is answering: its next tokens would be steered by this
                call's decisions.

        """
        with self._turns.answer(alone=self._state is not None):
            yield

    @contextmanager
    def by_row(self) -> Iterator[RowSteering]:
        """``answering``, for a call that steers each row of its batches by a strength of its own.

        All strengths have the gate in force. Afterwards all rows are steered by ``strength`` again. Calls of other
        threads are refused meanwhile.

        Raises:
            SteeringError: another thread is answering, or this one does so by row.

        """
        with self._turns.answer(alone=True):
            self._check_attached()
            if self._rows is not None:
                raise SteeringError("this call steers its rows already; end it first")
            proven = self._rows_proven == self._installations
            self._rows = RowSteering(self._installation, self._strength, proven=proven)
            try:
                yield self._rows
            finally:
                self._rows = None
                if self.attached:
                    self._installation.write(self._strength.deltas)

    def forget(self) -> None:
        """Discard the gate's decisions before a custom loop runs a prefill: until it decides, all is steered."""
        if self._state is not None:
            self._state.forget()

    def openings(self, rows: int) -> torch.Tensor | None:
        """What the newest prefill decided, as ``[rows, 1]``, for ``resume``; None without gate hooks."""
        return None if self._state is None else self._state.openings[:rows].clone()

    def resume(self, openings: torch.Tensor) -> None:
        """Steer the next decode steps of a custom decoding loop by ``openings``, row by row.

        A loop whose rows join and leave keeps each row's opening from its own prefill, and calls this before each step.
        """
        if self._state is not None:
            self._state.resume(openings)

    def batch_started(self) -> None:
        """A batch is about to be answered."""
        self._batch = []

    def batch_finished(self, rows: int, answers_per_row: int) -> list[list[Decision]]:
        """The decisions of the ``rows`` prompts that were answered: ``answers_per_row`` equal ones for each prompt."""
        if not self._batch:  # a family with its own decoding loop does not call generate()
            self._record()
        decisions, self._batch = self._batch or [], None
        expanded = len(decisions) // rows
        return [[decisions[row * expanded]] * answers_per_row if expanded else [] for row in range(rows)]

    def call_finished(self, records: Sequence[Decision]) -> None:
        """All batches were answered; ``records`` are in the order of the returned answers."""
        if self._state is not None:
            self._answered = (self._state.prefills, list(records))

    @property
    def _state(self) -> GateState | None:
        return self._installation.state

    @contextmanager
    def _generating(self) -> Iterator[None]:
        """One ``generate`` of the model: nothing is decided yet, and its decisions join the current batch."""
        with self.answering():
            if self._state is not None:
                self._state.forget()
            yield
            self._record()

    def _before_forward(self, new_request: bool) -> None:
        """A forward of a gated model begins; called outside of compiled graphs.

        Args:
            new_request: whether it is the first forward of a request of one token, which does not look like a prefill.

        """
        self._turns.check_forward()
        if new_request and self._state is not None:
            self._state.forget()

    def _record(self) -> None:
        """Record the decisions of the newest prefill's prompts as part of the current batch."""
        if self._state is not None and self._batch is not None:
            self._batch += self._newest()

    def _newest(self) -> list[Decision]:
        """The decisions on the newest prefill's rows."""
        assert self._state is not None
        if self._rows is None:
            return self._state.decisions(0.0 if self._strength.shadow else self.alpha)
        decisions, alphas = self._state.decisions(1.0), self._rows.alphas
        if len(decisions) != len(alphas):
            raise SteeringError(f"the gate decided on {len(decisions)} rows, {len(alphas)} are steered")
        return [replace(one, strength=alpha * one.opening) for one, alpha in zip(decisions, alphas, strict=True)]
