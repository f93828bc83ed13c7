"""Steering in one worker: attach after the weights are loaded, write rows before each step, prove after compilation.

The runner's methods are replaced on the instance, not on its class: a process without steering keeps vLLM's own.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch

from sarsteer.errors import SteeringError
from sarsteer.vllm.settings import ServerSettings, digest_of_sets, read_steering
from sarsteer.vllm.worker.decision_log import DecisionLog
from sarsteer.vllm.worker.gate_proof import prove_gates
from sarsteer.vllm.worker.proof import ROWS, prove
from sarsteer.vllm.worker.requests import SteeredRequests
from sarsteer.vllm.worker.runner import observe_runner
from sarsteer.vllm.wrapper import wrap

logger = logging.getLogger(__name__)


class SteeredWorker:
    """Steers one worker, and makes it answer ``sarsteer_status`` and ``sarsteer_decisions``."""

    def __init__(self, worker: Any, settings: ServerSettings) -> None:
        self.worker, self.settings = worker, settings
        self.runner: Any = worker.model_runner
        self.requests = SteeredRequests(settings)
        self.checked: list[str] = []
        self.proven = self.confirmed = False
        self._attached_digest: str | None = None
        wrap(self.runner, "load_model", self._load_model)
        wrap(worker, "compile_or_warm_up_model", self._compile)
        wrap(worker, "execute_dummy_batch", self._dummy_batch)
        observe_runner(worker, self.requests)
        worker.sarsteer_status = self.status
        worker.sarsteer_confirm = self.confirm
        worker.sarsteer_decisions = self.decisions

    def _load_model(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self.attach()
        return result

    def attach(self) -> None:
        """Check the weights, and attach the hooks to this worker's layers."""
        from sarsteer.vllm.worker.attachment import Attachment
        from sarsteer.vllm.worker.weights import check_weights

        vectors, gates, digests = [], [], []
        for vector_set in self.settings.sets:
            steering = read_steering(vector_set.source)
            resolved = steering.resolve(vector_set.strength)
            digests.append(resolved.digest)
            if digests[-1] != vector_set.digest:
                raise SteeringError(
                    "has other vectors, or another gate, on this node than where the server was started; copy it again",
                    place=vector_set.source,
                )
            self.checked = check_weights(
                self.worker.vllm_config, steering, allow_other_model=self.settings.allow_other_model
            )
            vectors.append(resolved.vectors)
            gates.append(resolved.gate)
        attachment = Attachment(
            self.runner.get_model(), torch.stack(vectors), self.runner.max_num_tokens, self.runner.device, gates
        )
        self.requests.attach(attachment)
        self._attached_digest = digest_of_sets(digests)
        if not self.settings.defends:
            logger.warning("sarsteer: SHADOW MODE: gates decide and nothing is steered; requests are NOT defended")
        logger.info(
            "sarsteer: attached to decoder layers %d to %d of %d; checked: %s",
            min(attachment.layers),
            max(attachment.layers),
            attachment.total,
            ", ".join(self.checked),
        )

    def _compile(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self.prove()
        return result

    def prove(self) -> None:
        """See ``proof``: on a mixed batch, and on the graphs of pure decoding if vLLM captures them."""
        if self.requests.attachment is None:
            raise SteeringError("the model was loaded without calling sarsteer; nothing was attached")
        config = self.worker.vllm_config
        if self.runner.max_num_tokens < ROWS:
            raise SteeringError(
                f"--max-num-batched-tokens is {self.runner.max_num_tokens}; the proof needs at least {ROWS}"
            )
        modes = [False]
        graphs = not config.model_config.enforce_eager and config.scheduler_config.max_num_seqs >= ROWS
        if graphs and config.speculative_config is None:  # with drafts a decode step has other lengths
            modes.append(True)
        with torch.inference_mode():
            for uniform in modes:
                step = functools.partial(self._dummy_step, uniform)
                prove(self.requests.attachment, step)
                prove_gates(self.requests.attachment, step)
        self.requests.attach(self.requests.attachment)  # forget the requests that warmed up the kernels
        self._open_log(int(config.parallel_config.tensor_parallel_size))
        self.proven = True

    def _open_log(self, tensor_parallel_size: int) -> None:
        """Log decisions from now on, if the operator wants it, in one of the workers that decide alike."""
        path = self.settings.decisions
        if path is None or self.requests.slots is None or int(self.worker.rank) % tensor_parallel_size:
            return
        try:
            self.requests.log = DecisionLog(path)
        except OSError as error:
            raise SteeringError(f"cannot be opened to log decisions ({error.strerror})", place=path) from None

    def _dummy_batch(self, original: Any) -> Any:
        """Data-parallel engines run one while another has work. It must not decide for the last step's requests."""
        if self.requests.attachment is not None:
            self.requests.attachment.rest()
        return original()

    def _dummy_step(self, uniform_decode: bool) -> Any:
        outputs: list[Any] = []
        execute = self.runner.execute_model

        def recording(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            if self.worker.use_v2_model_runner and not uniform_decode:
                # requests of one token would use the decode graphs here, too
                scheduler_output.num_scheduled_tokens = {f"_dummy_req_{i}": 2 for i in range(ROWS // 2)}
            outputs.append(execute(scheduler_output, *args, **kwargs))
            return outputs[-1]

        self.runner.execute_model = recording  # the second runner returns a pipeline stage's tensors only from there
        try:
            # without attention some backends leave its output unwritten, and no two runs agree
            hidden = self.runner._dummy_run(ROWS, uniform_decode=uniform_decode, force_attention=True)[0]
        finally:
            del self.runner.execute_model
        return outputs[-1] if hidden is None else hidden

    def confirm(self, digest: str) -> None:
        """The engine core saw every worker attached. Only a patched engine core calls this."""
        if digest != self.settings.digest:
            raise SteeringError("the engine core confirmed other vectors than this worker's")
        self.confirmed = True

    def status(self) -> dict[str, Any]:
        """What is attached now, as values that any transport can carry."""
        attachment = self.requests.attachment
        if attachment is not None and not attachment.intact:
            attachment = None
        return {
            "rank": int(self.worker.rank),
            "digest": self._attached_digest if attachment is not None else None,
            "layers": sorted(attachment.layers) if attachment is not None else [],
            "checked": list(self.checked),
            "proven": self.proven,
            "confirmed": self.confirmed,
            "gated": self.requests.slots.totals() if self.requests.slots is not None else None,
        }

    def decisions(self) -> dict[str, list[float]]:
        """The gates' decisions by request: opening, score, distance, 1 if out of distribution. See ``slots``."""
        return self.requests.slots.take() if self.requests.slots is not None else {}
