"""A Flower app: ``server`` and ``client``, for ``flwr run`` (examples/flower).

The run's configuration names the plan and the steering file to write (``plan``, ``out``), and how long sites may take
(``wait-seconds``, ``step-seconds``). A node's configuration names its copy of the plan, its name and key, and the
folder of ``sarsteer federate prepare`` (``plan``, ``name``, ``key``, ``state``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.serverapp import ServerApp

from sarsteer.federated.errors import FederationError
from sarsteer.federated.flower import calibrate_over, client_app
from sarsteer.federated.identity import Identity
from sarsteer.federated.plan import Plan
from sarsteer.federated.site import Site
from sarsteer.steering.pooled.collect import collected

ACTIVATIONS = "activations"


def site_of(context: Any) -> Site:
    """The site that a node's configuration describes."""
    settings = context.node_config
    identity, plan = Identity.load(_path(settings, "key")), Plan.load(_path(settings, "plan"))
    return Site(_text(settings, "name"), identity, plan, collected(_path(settings, "state") / ACTIVATIONS))


def _path(settings: Mapping[str, Any], key: str) -> Path:
    return Path(_text(settings, key))


def _text(settings: Mapping[str, Any], key: str) -> str:
    value = str(settings.get(key) or "")
    if not value:
        raise FederationError(f"the configuration has no {key!r}; set it, as in examples/flower/README.md")
    return value


def main(grid: Any, context: Any) -> None:
    """Run the rounds, and write the steering file."""
    settings = context.run_config
    steering = calibrate_over(
        grid,
        Plan.load(_path(settings, "plan")),
        wait_seconds=float(settings.get("wait-seconds", 60)),
        step_seconds=float(settings.get("step-seconds", 120)),
        report=print,
    )
    steering.save(_path(settings, "out"))
    print(f"wrote {settings['out']}, steering {steering.digest[:12]}")


client = client_app(site_of)
server = ServerApp()  # no annotation: flwr run looks for plain assignments
_register: Any = server.main()
_register(main)
