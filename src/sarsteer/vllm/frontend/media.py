"""URLs in requests: vLLM opens every address by default, a steered server none. ``sarsteer.urls`` has the switch."""

from __future__ import annotations

from typing import Any

from sarsteer.errors import SteeringError
from sarsteer.urls import SWITCH, allowed_urls

NOWHERE = f"none, because {SWITCH} is not set"
"""A domain that no URL has; vLLM prints it in its error message."""


def close_media_urls(model_config: Any) -> None:
    """Let vLLM open no URL, unless the operator named domains or set the switch to ``all``.

    Raises:
        SteeringError: the switch is ``public``, which vLLM cannot check.

    """
    if model_config.allowed_media_domains:
        return
    allowed = allowed_urls()
    if allowed == "public":
        raise SteeringError(
            f"{SWITCH}=public: vLLM does not check addresses; give --allowed-media-domains, or set {SWITCH}=all"
        )
    if allowed == "none":
        model_config.allowed_media_domains = [NOWHERE]
