"""A site whose process ends between two steps continues from its state: what Flower and a restart need."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from sarsteer.federated.coordinator import Coordinator
from sarsteer.federated.errors import FederationError
from sarsteer.federated.plan import Plan
from sarsteer.federated.privacy import Privacy
from sarsteer.federated.simulate import keys_for, simulate
from sarsteer.federated.site import Site
from sarsteer.federated.wire import Message
from tests.federated.sites import plan_of, rows_of

KEYS = keys_for(4)
NAMES = list(KEYS)
ROWS = {name: rows_of(40, 10, number) for number, name in enumerate(KEYS)}


class Restarting:
    """A ``Transport`` to sites that live for one message."""

    def __init__(self, plan: Plan, gone: str = "") -> None:
        self.plan, self.gone = plan, gone
        self.states: dict[str, bytes] = {}

    def exchange(self, messages: Mapping[str, Message]) -> Mapping[str, Message]:
        replies = {}
        for name, message in messages.items():
            if name == self.gone:
                continue
            site = Site(name, KEYS[name], self.plan, ROWS[name])
            if name in self.states:
                site.restore(Message.from_bytes(self.states[name]))
            replies[name] = site.handle(message)
            self.states[name] = site.state().to_bytes()
        return replies


def test_sites_that_restart_before_each_step_give_the_same_file() -> None:
    plan = plan_of(KEYS, min_sites=3)
    transport = Restarting(plan)
    found = Coordinator(plan, transport, NAMES).run()
    assert found.digest == simulate(plan, KEYS, ROWS)[0].digest
    # what was released is remembered: a sum over other sites would reveal the difference
    again = Restarting(plan, gone=NAMES[0])
    again.states = transport.states
    with pytest.raises(FederationError, match="are left"):
        Coordinator(plan, again, NAMES[1:]).run()


def test_a_repeated_question_gets_the_same_noise_after_a_restart() -> None:
    plan = plan_of(KEYS, masked=False, privacy=Privacy(1.0, 1e-5, 5))
    start = Message("plain", {"round": 0, "query": "statistics", "attempt": ""})

    def words(site: Site) -> np.ndarray:
        return site.handle(start).arrays["words"]

    first = Site(NAMES[0], KEYS[NAMES[0]], plan, ROWS[NAMES[0]])
    sent = words(first)
    second = Site(NAMES[0], KEYS[NAMES[0]], plan, ROWS[NAMES[0]])
    second.restore(Message.from_bytes(first.state().to_bytes()))
    assert np.array_equal(words(second), sent)
    assert not np.array_equal(words(Site(NAMES[0], KEYS[NAMES[0]], plan, ROWS[NAMES[0]])), sent)
    other = Message("plain", {"round": 0, "query": "statistics"}, {"x": np.zeros(1)})
    assert "privacy forbids" in second.handle(other).values["message"]


def test_a_state_of_another_plan_is_refused() -> None:
    plan, other = plan_of(KEYS), plan_of(KEYS, gate=False)
    state = Site(NAMES[0], KEYS[NAMES[0]], other, ROWS[NAMES[0]]).state()
    site = Site(NAMES[0], KEYS[NAMES[0]], plan, ROWS[NAMES[0]])
    with pytest.raises(FederationError, match="another plan"):
        site.restore(state)
    with pytest.raises(FederationError, match="damaged"):
        site.restore(Message("state", {"plan": plan.digest}))
