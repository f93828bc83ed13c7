"""Flower's simulation of four sites, in Flower's environment: ``python -m tests.federated.flower_run FOLDER [LOST]``.

FOLDER has the plan and the keys of tests/federated/test_flower.py, and gets ``out.safetensors``. LOST is a site that
fails from the second round on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation

from sarsteer.federated.flower import calibrate_over, client_app
from sarsteer.federated.identity import Identity
from sarsteer.federated.plan import Plan
from sarsteer.federated.site import Site
from sarsteer.federated.wire import Message
from tests.federated.sites import rows_of


class Failing(Site):
    """A site that fails from the second round on."""

    def handle(self, message: Message) -> Message:
        if message.step == "keys" and message.values["round"] >= 1:
            raise RuntimeError("this site fails")
        return super().handle(message)


def main(folder: Path, lost: str) -> None:
    plan = Plan.load(folder / "plan")
    names = sorted(plan.sites)

    def site_of(context: Any) -> Site:
        number = int(context.node_config["partition-id"])
        kind = Failing if names[number] == lost else Site
        return kind(names[number], Identity.load(folder / f"{names[number]}.key"), plan, rows_of(40, 10, number))

    server: Any = ServerApp()

    @server.main()
    def run(grid: Any, context: Any) -> None:
        calibrate_over(grid, plan, wait_seconds=600, step_seconds=600, report=print).save(folder / "out.safetensors")

    backend = {"init_args": {"num_cpus": 1}, "client_resources": {"num_cpus": 1}}  # one process for all nodes
    run_simulation(server, client_app(site_of), len(names), backend_config=backend)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
