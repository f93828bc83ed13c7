"""Steer a model: add ``α v_l`` to the last position of every decoder layer's output, on every forward.

That is the whole method at inference: in prefill only the last prompt token, then each decoded token; with left
padding the last position of a forward is exactly that. What would break "last position" is refused, and the hooks
prove themselves before the first answer.

- ``α v_l`` lies in one float32 buffer a layer, on the layer's device. Changing α rewrites the buffers in place:
  compiled graphs and captured CUDA graphs see it without being made anew.
- The in-place sum promotes to float32 and rounds once to the activation's type.
- Hooks that are added after ``torch.compile`` traced a model are silently left out of its graphs: attaching drops
  what was compiled.

With a gate (``gate_hooks``) each row's ``α v_l`` is multiplied by its opening, in the layers above the gate's alone.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sarsteer.errors import SteeringError
from sarsteer.models.activations import residual_of
from sarsteer.models.layers import layer_device, unwrap
from sarsteer.models.observer import observer_of, set_observer

if TYPE_CHECKING:
    from sarsteer.steering.gate.gate import Decision, Gate
    from sarsteer.steering.gate.hooks import GateState
    from sarsteer.steering.proof import Probe

_DELTA = "_sarsteer_delta"

# Options of generate() under which a forward's last position is not its one newest token.
_REFUSED_OPTIONS = (
    "assistant_model",
    "assistant_early_exit",
    "prompt_lookup_num_tokens",
    "prefill_chunk_size",
    "use_mtp",
    "speculation_type",
    "custom_generate",
)
_REFUSED_METHODS = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")


def _steer(module: nn.Module, _args: Any, output: Any) -> None:
    """The hook. Nothing here may depend on the data or change Python state: it is traced into compiled graphs."""
    residual_of(output).select(-2, -1).add_(getattr(module, _DELTA))


class SteeringHandle:
    """Steering that is attached to a model. ``remove()`` takes it off; the handle is also a context manager."""

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[nn.Module],
        vectors: torch.Tensor,
        alpha: float,
        probe: Probe | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._given = module
        self._module: Any = unwrap(module)
        self._layers = list(layers)
        self._vectors = vectors.detach().float().cpu()
        self._alpha = _checked_alpha(alpha)
        self._probe = probe
        self._gate = gate
        self._state: GateState | None = None
        self._finished: list[Decision] | None = None  # of the batch that is being answered
        self._answered: tuple[int, list[Decision]] = (-1, [])
        self._undo: list[Callable[[], None]] = []
        self._busy = threading.RLock()  # generate() calls a part's generate() in some families

    @property
    def attached(self) -> bool:
        """Whether the model is steered through this handle."""
        return observer_of(self._module) is self

    @property
    def vectors(self) -> torch.Tensor:
        """The vectors that are added, times α: ``[L, D]``, float32, on the CPU."""
        return self._vectors

    @property
    def alpha(self) -> float:
        """The steering strength; assign to change it in place."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        value = _checked_alpha(value)
        if not self.attached:
            raise SteeringError("this steering was removed; attach it again")
        self._alpha = value
        deltas = self._alpha * self._vectors
        if self._gate is not None:
            deltas[: self._gate.layer + 1] = 0.0
        self._write(deltas)

    @property
    def gate(self) -> Gate | None:
        """What decides which requests are steered; None steers all. See ``set_gate``."""
        return self._gate

    def set_gate(self, gate: Gate | None) -> None:
        """Decide by ``gate`` from the next request on; None steers every request, in every layer.

        In place where the model has the hooks of a gate at this layer; else they are made anew, and proven.

        Raises:
            SteeringError: the gate does not fit, or the proof failed: the steering is off then.

        """
        if not self.attached:
            raise SteeringError("this steering was removed; attach it again")
        if gate is not None:
            _check_gate(gate, self._vectors)
        if gate is None and self._state is None:
            return
        if self._state is None or (gate is not None and not self._state.takes(gate)):
            self.remove()
            self._gate = gate
            self._start()
            return
        self._gate = gate
        self._state.write(gate)
        self.alpha = self._alpha

    @property
    def decisions(self) -> list[Decision]:
        """What the gate decided: one for each answer of the newest ``AudioLanguageModel.generate``, in their order.

        Where the model was called otherwise since (its own ``generate``, a stream, a forward), one for each row of the
        newest prefill, beams and samples included. Empty with no gate, and before the first prefill.
        """
        if self._state is None or self._gate is None:
            return []
        count, answered = self._answered
        return list(answered) if count == self._state.prefills else self._state.decisions(self._alpha)

    def set_vectors(self, vectors: torch.Tensor, alpha: float) -> None:
        """Replace vectors and strength in place, with no new hooks and no recompilation."""
        if vectors.shape != self._vectors.shape:
            raise SteeringError(f"vectors of shape {tuple(vectors.shape)} instead of {tuple(self._vectors.shape)}")
        _check_finite(vectors)
        if not self.attached:
            raise SteeringError("this steering was removed; attach it again")
        self._vectors = vectors.detach().float().cpu()
        self.alpha = alpha

    def remove(self) -> None:
        """Take the steering off; the model answers exactly as before. Safe to call twice."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> SteeringHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Hold the gate's memory, which keeps the decisions of one call, while that call answers.

        ``generate`` and ``stream`` do. A loop of one's own over the model's forward must, too, from each prefill to the
        last token that is decoded after it. With no gate nothing is held: calls may overlap.

        Raises:
            SteeringError: another thread answers: its later tokens would be steered by this call's decisions.

        """
        if self._state is None:
            yield
            return
        if not self._busy.acquire(blocking=False):
            raise SteeringError(
                "this gated model is answering another request, and remembers one call's decisions; let calls take "
                "turns, put them into one batch, or load the model again for each thread"
            )
        try:
            yield
        finally:
            self._busy.release()

    # ---- GenerationObserver: decisions of many batches -----------------------------------------------------------

    def batch_started(self) -> None:
        """A batch is about to be answered."""
        self._finished = []

    def _record(self) -> None:
        """Record the decisions of the newest prefill's prompts, as part of the current batch."""
        if self._state is not None and self._finished is not None:
            self._finished += self._state.decisions(self._alpha)

    def batch_finished(self, rows: int, answers_per_row: int) -> list[list[Decision]]:
        """The decisions of the ``rows`` prompts that were answered: ``answers_per_row`` equal ones for each prompt."""
        if not self._finished:  # a family with its own decoding loop does not call generate()
            self._record()
        decisions, self._finished = self._finished or [], None
        expanded = len(decisions) // rows
        return [[decisions[row * expanded]] * answers_per_row if expanded else [] for row in range(rows)]

    def call_finished(self, records: Sequence[Decision]) -> None:
        """All batches were answered; ``records`` are in the order of the returned answers."""
        if self._state is not None:
            self._answered = (self._state.prefills, list(records))

    # ---- attaching -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Attach, prove, and steer; where that fails the model is left as it was."""
        from sarsteer.steering.gate.proof import prove_gate
        from sarsteer.steering.proof import prove

        try:
            self._attach()
            if self._state is not None:
                self._state.write(None)
            prove(self._given, self._layers, self._write, self._probe)
            if self._state is not None and self._gate is not None:
                prove_gate(self._given, self._layers, self._write, self._state, self._gate, self._probe)
                self._state.write(self._gate)
            self.alpha = self._alpha
        except BaseException:
            self.remove()
            raise

    def _attach(self) -> None:
        from sarsteer.steering.gate.hooks import STATE, GateState, decide, steer_gated

        first_gated = len(self._layers)
        self._state = None
        if self._gate is not None:
            first_gated = self._gate.layer
            with torch.inference_mode(False):
                self._state = GateState(self._gate, layer_device(self._layers[first_gated]))
        set_observer(self._module, self)
        self._undo.append(lambda: set_observer(self._module, None))
        self._undo.append(lambda: _drop_compiled(self._module, self._layers))
        for index, layer in enumerate(self._layers):
            with torch.inference_mode(False):  # else alpha could never be changed outside the caller's inference mode
                buffer = torch.zeros(self._vectors.shape[1], dtype=torch.float32, device=layer_device(layer))
            layer.register_buffer(_DELTA, buffer, persistent=False)
            self._undo.append(functools.partial(delattr, layer, _DELTA))
            if self._state is not None and index >= first_gated:
                setattr(layer, STATE, self._state)
                self._undo.append(functools.partial(delattr, layer, STATE))
            # first among the hooks: whoever captures activations beside us sees them steered
            hook = steer_gated if index > first_gated else _steer
            self._undo.append(layer.register_forward_hook(hook, prepend=True).remove)
            if index == first_gated:
                self._undo.append(layer.register_forward_hook(decide, prepend=True).remove)
        self._guard()
        _drop_compiled(self._module, self._layers)

    def _write(self, deltas: torch.Tensor) -> None:
        for layer, delta in zip(self._layers, deltas, strict=True):
            buffer: torch.Tensor = getattr(layer, _DELTA)
            buffer.copy_(delta)

    def _guard(self) -> None:
        """Refuse, at the model's own doors, what would not be steered exactly."""
        for owner in {id(m): m for m in (self._module, getattr(self._module, "thinker", self._module))}.values():
            if hasattr(owner, "generate"):
                self._replace(owner, "generate", _guarded_generate(owner, self))
            for name in _REFUSED_METHODS:
                if hasattr(owner, name):
                    self._replace(owner, name, _refusing(name))
            hook = owner.register_forward_pre_hook(_refuse_right_padding, with_kwargs=True)
            self._undo.append(hook.remove)

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        own = vars(owner).get(name)
        setattr(owner, name, function)
        self._undo.append(lambda: delattr(owner, name) if own is None else setattr(owner, name, own))


def attach(
    module: nn.Module,
    layers: Sequence[nn.Module],
    vectors: torch.Tensor,
    alpha: float,
    probe: Probe | None = None,
    gate: Gate | None = None,
) -> SteeringHandle:
    """Steer ``module`` by ``alpha * vectors`` (``[L, D]``), prove it, and return the handle.

    ``probe`` generates two tokens where a model has its own way to; transformers' ``generate`` by default. With a
    ``gate``, only what it opens for is steered, in the layers above the gate's.

    Raises:
        SteeringError: the model is steered already, shapes disagree, a value is not finite, or the proof failed;
            the model is left as it was.

    """
    if observer_of(module) is not None:
        raise SteeringError("this model is steered already; remove that steering first, or change its alpha")
    if vectors.ndim != 2 or len(vectors) != len(layers):
        raise SteeringError(f"vectors of shape {tuple(vectors.shape)} for {len(layers)} decoder layers")
    _check_finite(vectors)
    if gate is not None:
        _check_gate(gate, vectors)
    handle = SteeringHandle(module, layers, vectors, alpha, probe, gate)
    handle._start()
    return handle


def _check_gate(gate: Gate, vectors: torch.Tensor) -> None:
    layers, width = vectors.shape
    if gate.layer >= layers - 1:
        raise SteeringError(
            f"a gate at layer {gate.layer} of {layers} leaves no layer above it to steer; use one before {layers - 1}"
        )
    if len(gate.weight) != width:
        raise SteeringError(f"the gate is of width {len(gate.weight)}, the model of {width}; calibrate this model")


def _checked_alpha(alpha: float) -> float:
    if isinstance(alpha, bool) or not math.isfinite(alpha):
        raise SteeringError(f"alpha must be a finite number, not {alpha}")
    return float(alpha)


def _check_finite(vectors: torch.Tensor) -> None:
    if not torch.isfinite(vectors).all():
        raise SteeringError("the steering vectors hold NaN or infinite values; calibrate anew")


def _drop_compiled(module: Any, layers: Sequence[nn.Module]) -> None:
    """Forget compiled graphs: those made before the hooks changed would go on without the change."""
    if "torch._dynamo" not in sys.modules:
        return
    for owner in (module, getattr(module, "thinker", None)):
        if owner is not None and "_compiled_call" in vars(owner):
            del owner._compiled_call
    torch._dynamo.reset()


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise SteeringError(f"{name}() packs requests so that a forward has many last positions; use generate()")

    return refuse


def _guarded_generate(owner: Any, handle: SteeringHandle) -> Callable[..., Any]:
    plain = owner.generate

    @functools.wraps(plain)
    def generate(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("generation_config")
        config = given if given is not None else getattr(owner, "generation_config", None)

        def option(name: str) -> Any:
            value = kwargs.get(name)
            return value if value is not None else getattr(config, name, None)

        for name in _REFUSED_OPTIONS:
            if option(name) not in (None, False, 0):
                raise SteeringError(f"{name} breaks steering: a forward's last position is not its newest token then")
        if option("use_cache") is False:
            raise SteeringError("use_cache=False breaks steering: earlier answer tokens are recomputed unsteered then")
        if handle._state is None:
            return plain(*args, **kwargs)
        with handle.answering():
            handle._state.forget()
            out = plain(*args, **kwargs)
            handle._record()
        return out

    return generate


def _refuse_right_padding(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """A padded last position is no prompt token: steering it would defend nothing."""
    if torch.compiler.is_compiling():
        return
    mask = kwargs.get("attention_mask")
    if not torch.is_tensor(mask) or mask.ndim != 2:
        return
    tokens = kwargs.get("input_ids", args[0] if args else None)
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    if torch.is_tensor(tokens) and tokens.shape[1] > 1 and not bool(mask[:, -1].all()):
        raise SteeringError("right-padded input: the last position is padding; set padding_side='left'")
