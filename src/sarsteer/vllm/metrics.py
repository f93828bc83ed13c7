"""Prometheus counters of what was steered, beside vLLM's own under ``/metrics``."""

from __future__ import annotations

import functools
from typing import Any

from sarsteer.vllm.patching import wrap
from sarsteer.vllm.settings import Settings
from sarsteer.vllm.strengths import applied_strength


@functools.cache
def counters() -> tuple[Any, Any]:
    """Requests and tokens; made once a process."""
    from prometheus_client import Counter

    labels = ("set", "steered")
    return (
        Counter("sarsteer_requests", "Requests taken, by vector set and by whether their alpha is not 0.", labels),
        Counter("sarsteer_tokens", "Tokens answered, by vector set and by whether they were steered.", labels),
    )


def count_steered(output_processor: Any, settings: Settings) -> None:
    """Count the requests that an engine's output processor is given, and the tokens that come back.

    Each token of an answer comes from one steered position: the last prompt token, or the token before it.
    """
    requests, tokens = counters()
    for one in settings.sets:  # shown as 0 from the start
        requests.labels(one.name, "yes"), tokens.labels(one.name, "yes")
    labels: dict[str, tuple[str, str]] = {}

    def add(original: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        strength = applied_strength(getattr(request.sampling_params, "extra_args", None), settings)
        label = settings.sets[strength.index].name, "yes" if strength.alpha else "no"
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
