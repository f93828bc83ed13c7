"""The hooks, buffers and guards of one steered model, and their exact removal."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from sarsteer.models.layers import layer_device, unwrap
from sarsteer.models.observer import GenerationObserver, set_observer
from sarsteer.steering.gate import hooks as gate_hooks
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.guards import REFUSED_METHODS, Forward, GuardedGenerate, check_padding, refusing
from sarsteer.steering.hooks import DELTA, SteeredForward, steered_forward


class Installation:
    """Installs on construction; the buffers hold zeros, and the gate is open, until something is written.

    Hooks that are added after ``torch.compile`` traced a model are silently left out of its graphs, so installing and
    removing drop what was compiled.

    Args:
        module: the model, wrapped or not.
        layers: its decoder layers.
        width: D, the width of the residual stream.
        gate: reads its layers and decides at the last of them; the layers above obey. None installs no gate hooks.
        observer: receives the reports of the model's batches.
        session: a context in which each ``generate`` of the model runs.
        before_forward: with a gate, called before each forward that is not compiled, with whether it starts a request
            of one token.

    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[nn.Module],
        width: int,
        gate: Gate | None,
        observer: GenerationObserver,
        session: Callable[[], AbstractContextManager[None]],
        before_forward: Callable[[bool], None],
    ) -> None:
        self._before_forward = before_forward
        self._module: Any = unwrap(module)
        self._layers = layers
        self._undo: list[Callable[[], None]] = []
        self._shared: dict[int, torch.Tensor] = {}  # buffers [D] of layers whose rows are steered differently
        self.state: gate_hooks.GateState | None = None
        try:
            if gate is not None:
                with torch.inference_mode(False):
                    self.state = gate_hooks.GateState(gate, layer_device(layers[gate.layer]))
                self.state.write(None)
            set_observer(self._module, observer)
            self._undo.append(lambda: set_observer(self._module, None))
            self._undo.append(self._drop_compiled)
            for index, layer in enumerate(layers):
                self._install(layer, index, width, gate)
            self._guard(session)
            self._drop_compiled()
        except BaseException:
            self.remove()
            raise

    def takes(self, gate: Gate | None) -> bool:
        """Whether ``gate`` can be written in place."""
        return gate is None or (self.state is not None and self.state.takes(gate))

    def write(self, deltas: torch.Tensor) -> None:
        """Set what the hooks add: ``[L, D]`` for all rows, in place, or ``[L, B, D]`` row by row."""
        for index, (layer, delta) in enumerate(zip(self._layers, deltas, strict=True)):
            buffer: torch.Tensor = getattr(layer, DELTA)
            if delta.ndim > 1:
                self._shared.setdefault(index, buffer)
                setattr(layer, DELTA, delta.to(buffer.device, torch.float32, copy=True))  # never the caller's memory
                continue
            if index in self._shared:
                buffer = self._shared.pop(index)
                setattr(layer, DELTA, buffer)
            buffer.copy_(delta)

    def written(self) -> torch.Tensor:
        """What the hooks add, on the CPU: ``[L, D]`` or ``[L, B, D]``."""
        return torch.stack([getattr(layer, DELTA).cpu() for layer in self._layers])

    def remove(self) -> None:
        """Restore the model. Safe to call twice."""
        while self._undo:
            self._undo.pop()()

    def _install(self, layer: nn.Module, index: int, width: int, gate: Gate | None) -> None:
        with torch.inference_mode(False):  # otherwise alpha could only be changed in the caller's inference mode
            buffer = torch.zeros(width, dtype=torch.float32, device=layer_device(layer))
        layer.register_buffer(DELTA, buffer, persistent=False)
        self._undo.append(functools.partial(delattr, layer, DELTA))
        earlier = [] if gate is None else list(gate.earlier)
        if gate is not None and (index >= gate.layer or index in earlier):
            setattr(layer, gate_hooks.STATE, self.state)
            self._undo.append(functools.partial(delattr, layer, gate_hooks.STATE))
        if index in earlier:
            setattr(layer, gate_hooks.PLACE, earlier.index(index))
            self._undo.append(functools.partial(delattr, layer, gate_hooks.PLACE))
        self._undo.append(self._forward_of(index, gate)(layer).install())

    @staticmethod
    def _forward_of(index: int, gate: Gate | None) -> type[SteeredForward]:
        """What replaces the ``forward`` of layer ``index``."""
        if gate is None or index < gate.layer:
            return gate_hooks.ReadForward if gate is not None and index in gate.earlier else SteeredForward
        return gate_hooks.DecidingForward if index == gate.layer else gate_hooks.GatedForward

    def _guard(self, session: Callable[[], AbstractContextManager[None]]) -> None:
        for owner in {id(m): m for m in (self._module, getattr(self._module, "thinker", self._module))}.values():
            if hasattr(owner, "generate"):
                for name, method in GuardedGenerate(owner, session, self.check_installed).methods().items():
                    self._replace(owner, name, method)
            for name in REFUSED_METHODS:
                if hasattr(owner, name):
                    self._replace(owner, name, refusing(name))
            hook = owner.register_forward_pre_hook(self._check, with_kwargs=True)
            self._undo.append(hook.remove)

    def _check(self, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """The forward pre-hook."""
        if torch.compiler.is_compiling():
            return
        tokens = kwargs.get("input_ids")
        if self.state is None and isinstance(tokens, torch.Tensor) and tokens.shape[-1] == 1:
            return  # a decode step, in a fraction of the time
        forward = Forward.of(args, kwargs)
        if forward is None:
            return
        if forward.length > 1:
            check_padding(forward)
            self.check_installed()
        if self.state is not None:  # without a gate, a decode step does not read the cache's length
            self._before_forward(forward.length == 1 and forward.past == 0)

    def check_installed(self) -> None:
        """Raise ``SteeringError`` if a layer's hook was replaced since the installation."""
        for layer in self._layers:
            steered_forward(layer)

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        previous = vars(owner).get(name)
        setattr(owner, name, function)
        self._undo.append(lambda: delattr(owner, name) if previous is None else setattr(owner, name, previous))

    def _drop_compiled(self) -> None:
        """Forget compiled graphs: they would run without the changed hooks."""
        if "torch._dynamo" not in sys.modules:
            return
        for owner in (self._module, getattr(self._module, "thinker", None)):
            if owner is not None and "_compiled_call" in vars(owner):
                del owner._compiled_call
        torch._dynamo.reset()
