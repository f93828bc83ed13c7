"""Read last-prompt-token activations in vLLM's workers. Eager mode only, in a process that calibrates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from sarsteer.errors import SteeringError
from sarsteer.vllm.worker.rows import past_prompt
from sarsteer.vllm.worker.runner import observe_runner
from sarsteer.vllm.wrapper import wrap

CAPTURE = {"capture": True}
"""Value of ``sarsteer`` in ``additional_config`` in a process that calibrates."""


class CapturingWorker:
    """Keeps ``h_l`` at the last prompt token of every request, and makes the worker answer ``sarsteer_take``.

    A ``RunnerObserver``.
    """

    def __init__(self, worker: Any) -> None:
        self._worker, self._runner = worker, worker.model_runner
        self._rows: list[tuple[int, str]] = []
        self._index: torch.Tensor | None = None
        self._activations: dict[str, dict[int, bytes]] = {}
        if not worker.vllm_config.model_config.enforce_eager:
            raise SteeringError("activations can be read in eager mode only; set enforce_eager=True")
        wrap(self._runner, "load_model", self._load_model)
        observe_runner(worker, self)
        worker.sarsteer_take = self.take

    def _load_model(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        from sarsteer.vllm.worker.layers import local_layers

        result = original(*args, **kwargs)
        total = self._worker.vllm_config.model_config.hf_text_config.num_hidden_layers
        for number, layer in local_layers(self._runner.get_model(), total).items():
            layer.register_forward_hook(self._recorder(number))
        return result

    def _recorder(self, number: int) -> Any:
        def record(_layer: Any, _args: Any, output: Any) -> None:
            if self._index is None:
                return
            parts = (output,) if torch.is_tensor(output) else output
            states = torch.stack([part[..., self._index, :].float() for part in parts]).sum(0)
            for (_, request_id), state in zip(self._rows, states.reshape(len(self._rows), -1), strict=True):
                self._activations.setdefault(request_id, {})[number] = state.detach().cpu().numpy().tobytes()

        return record

    def add(self, request_id: str, sampling_params: Any) -> None:
        """Do nothing."""

    def remove(self, request_ids: Iterable[str]) -> None:
        """Do nothing: activations are kept until they are taken."""

    def step(self, request_ids: Sequence[str], computed: Any, scheduled: Any, prompt_lengths: Any) -> None:
        """Find the rows of last prompt tokens."""
        rows = np.flatnonzero(past_prompt(computed, scheduled, prompt_lengths) == 0).tolist()
        owners = np.repeat(np.arange(len(request_ids)), np.asarray(scheduled, dtype=np.int64))
        self._rows = [(row, request_ids[owners[row]]) for row in rows]
        self._index = torch.tensor(rows, device=self._runner.device) if rows else None

    def take(self) -> dict[str, dict[str, bytes]]:
        """Float32 activations by request id and layer number; each is returned once."""
        taken, self._activations = self._activations, {}
        return {request_id: {str(n): data for n, data in layers.items()} for request_id, layers in taken.items()}
