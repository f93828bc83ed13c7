"""A site's process for tests: made-up clips, the real client. An argument makes it kill itself at a step.

``python -m tests.federated.site_process URL PLAN NAME KEY CERTIFICATE STATE SEED [STEP]``
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from sarsteer.federated.client import join
from sarsteer.federated.identity import Identity
from sarsteer.federated.plan import Plan
from sarsteer.federated.site import Site
from sarsteer.federated.wire import Message
from tests.federated.sites import rows_of


class Mortal(Site):
    def handle(self, message: Message) -> Message:
        if message.step == STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().handle(message)


if __name__ == "__main__":
    url, plan, name, key, certificate, state, seed, *step = sys.argv[1:]
    STEP = step[0] if step else ""
    identity = Identity.load(Path(key))
    site = Mortal(name, identity, Plan.load(Path(plan)), rows_of(40, 10, int(seed)))
    result = join(
        url, site, identity, ca=Path(certificate), state=Path(state), report=lambda line: print(line, flush=True)
    )
    print("sites", *result["sites"])
