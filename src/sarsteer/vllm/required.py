"""``vllm serve MODEL --middleware sarsteer.vllm.required.Steering``: vLLM does not start unless it is steered.

vLLM ignores ``SARSTEER_STEERING`` if it did not load the plugin, because ``VLLM_PLUGINS`` leaves it out or sarsteer is
not installed. It cannot ignore ``--middleware``: importing this module fails in all these cases.
"""

from __future__ import annotations

import os

from sarsteer.errors import SteeringError
from sarsteer.vllm.frontend.route_guard import RouteGuard
from sarsteer.vllm.plugin import is_installed


class Steering(RouteGuard):
    """The route guard of a steered server."""


if not os.environ.get("SARSTEER_STEERING", "").strip():
    raise SteeringError("--middleware sarsteer.vllm.required.Steering needs steering: set SARSTEER_STEERING=FILE")
if not is_installed():
    raise SteeringError("vLLM did not load sarsteer's plugin; add sarsteer to VLLM_PLUGINS, or unset it")
