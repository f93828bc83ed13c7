"""Steering inside vLLM: ``SARSTEER_STEERING=FILE vllm serve MODEL`` answers no request unsteered.

vLLM calls ``register`` in its front end, in every engine core and in every worker (entry point ``sarsteer`` of the
group ``vllm.general_plugins``). Importing this package imports neither vLLM nor torch. Code is in folders by the
process that runs it:

- ``frontend``: reads the operator's settings, checks requests, verifies the workers, starts the server.
- ``engine``: the engine core, which checks its workers and keys the prefix cache.
- ``worker``: attaches the hooks, writes each step's rows, proves the steering.
- ``calibration``: reads activations in workers that do not steer.
"""

# Nothing is imported here. vLLM logs an error while it imports a plugin, and continues without the plugin. An error in
# ``register`` stops vLLM.


def register() -> None:
    """Patch vLLM in this process so that it can steer. Later calls do nothing.

    Raises:
        SteeringError: steering is configured and cannot work here; the process must not answer.

    """
    import os

    try:
        from sarsteer.vllm.plugin import install

        install()
    except Exception as error:
        if os.environ.get("SARSTEER_STEERING", "").strip():
            raise
        import logging

        # another vLLM server in this environment does not depend on sarsteer
        logging.getLogger(__name__).warning("sarsteer cannot be loaded (%s); no steering is configured", error)


__all__ = ["register"]
