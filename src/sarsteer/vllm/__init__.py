"""Steering inside vLLM: ``SARSTEER_STEERING=FILE vllm serve MODEL`` answers no request unsteered.

vLLM calls ``register`` in its front end, in every engine core and in every worker (entry point ``sarsteer`` of the
group ``vllm.general_plugins``). Nothing here imports vLLM or torch before it is called.
"""

from sarsteer.vllm.plugin import register

__all__ = ["register"]
