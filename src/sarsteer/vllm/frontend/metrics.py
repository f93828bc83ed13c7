"""Prometheus counters of steered requests and tokens, beside vLLM's own under ``/metrics``."""

from __future__ import annotations

import functools
from typing import Any

from sarsteer.vllm.settings import ServerSettings, VectorSet
from sarsteer.vllm.strengths import applied_strength
from sarsteer.vllm.wrapper import wrap

_STEERED = "whether they are steered: yes, no (alpha 0), gated (as the gate decides), or shadow (no, only decided)"


@functools.cache
def counters() -> tuple[Any, Any]:
    """Counters of requests and of tokens; created once in a process."""
    from prometheus_client import Counter

    labels = ("set", "steered")
    return (
        Counter("sarsteer_requests", f"Requests received, by vector set and {_STEERED}.", labels),
        Counter("sarsteer_tokens", f"Tokens generated, by vector set and {_STEERED}.", labels),
    )


def count_steered(output_processor: Any, settings: ServerSettings) -> None:
    """Count the requests that an engine's output processor receives, and the tokens that come back.

    Each token of an answer comes from one steered position: the last prompt token, or the token before it.
    """
    requests, tokens = counters()
    for vector_set in settings.sets:  # shown as 0 from the start
        label = vector_set.name, _steered(vector_set)
        requests.labels(*label), tokens.labels(*label)
    labels: dict[str, tuple[str, str]] = {}

    def add(original: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        strength = applied_strength(getattr(request.sampling_params, "extra_args", None), settings)
        vector_set = settings.sets[strength.set_index]
        label = vector_set.name, _steered(vector_set) if strength.alpha or vector_set.shadow else "no"
        labels[request.request_id] = label
        requests.labels(*label).inc()
        return original(request, *args, **kwargs)

    def process(original: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        for output in outputs:
            label = labels.get(output.request_id)
            if label is not None and output.new_token_ids:
                tokens.labels(*label).inc(len(output.new_token_ids))
            if output.finish_reason is not None:
                labels.pop(output.request_id, None)
        return original(outputs, *args, **kwargs)

    def abort(original: Any, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        aborted = original(request_ids, *args, **kwargs)
        for request_id in aborted:
            labels.pop(request_id, None)
        return aborted

    wrap(output_processor, "add_request", add)
    wrap(output_processor, "process_outputs", process)
    wrap(output_processor, "abort_requests", abort)


def _steered(vector_set: VectorSet) -> str:
    return "shadow" if vector_set.shadow else "yes" if vector_set.gate_layer is None else "gated"
