"""Steering inside vLLM: ``SARSTEER_STEERING=FILE vllm serve MODEL`` answers no request unsteered.

vLLM calls ``register`` in its front end, in every engine core and in every worker (entry point ``sarsteer`` of the
group ``vllm.general_plugins``). Importing this package imports neither vLLM nor torch. Code is in folders by the
process that runs it:

- ``frontend``: reads the operator's settings, checks requests, verifies the workers, starts the server.
- ``engine``: the engine core, which checks its workers and keys the prefix cache.
- ``worker``: attaches the hooks, writes each step's rows, proves the steering.
- ``calibration``: reads activations in workers that do not steer.
"""

from sarsteer.vllm.plugin import register

__all__ = ["register"]
