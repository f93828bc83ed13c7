"""All sites in one process: the protocol without a network, for estimates and tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sarsteer.data.manifest import Item
from sarsteer.federated.coordinator import Coordinator
from sarsteer.federated.identity import Identity
from sarsteer.federated.plan import Plan
from sarsteer.federated.site import Site, Tamper
from sarsteer.federated.wire import Message
from sarsteer.steering.artifact import Steering
from sarsteer.steering.pooled.setting import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Loopback:
    """A ``Transport`` to sites in this process. Messages are encoded and decoded, and their bytes counted.

    Attributes:
        sites: by name.
        lost: names of sites that do not answer, by step: what a killed process looks like.
        sent, received: bytes to and from each site.

    """

    sites: Mapping[str, Site]
    lost: Callable[[str, str], bool] = lambda _name, _step: False
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)

    def exchange(self, messages: Mapping[str, Message]) -> Mapping[str, Message]:
        """See ``Transport``."""
        replies = {}
        for name, message in messages.items():
            if self.lost(name, message.step):
                continue
            data = message.to_bytes()
            reply = self.sites[name].handle(Message.from_bytes(data)).to_bytes()
            self.sent[name] = self.sent.get(name, 0) + len(data)
            self.received[name] = self.received.get(name, 0) + len(reply)
            replies[name] = Message.from_bytes(reply)
        return replies


def simulate(
    plan: Plan,
    identities: Mapping[str, Identity],
    rows: Mapping[str, Rows],
    *,
    tamper: Mapping[str, Tamper] | None = None,
    lost: Callable[[str, str], bool] | None = None,
    report: Callable[[str], None] | None = None,
) -> tuple[Steering, Loopback]:
    """Run ``plan`` with all sites in this process; returns the steering, and the transport with its counts.

    Args:
        plan: the plan.
        identities: the key of each site.
        rows: the clips of each site.
        tamper: what dishonest sites do to their sums.
        lost: whether a site fails to answer a step.
        report: called with a line about what happens.

    """
    sites = {name: Site(name, identities[name], plan, rows[name], (tamper or {}).get(name)) for name in sorted(rows)}
    transport = Loopback(sites, lost or (lambda _name, _step: False))
    return Coordinator(plan, transport, list(sites), report=report).run(), transport


def keys_for(count: int) -> dict[str, Identity]:
    """Names and fresh keys for ``count`` sites."""
    return {f"site-{index:0{len(str(count))}d}": Identity.new() for index in range(1, count + 1)}


def unequal(rows: Rows, names: Sequence[str], seed: int = 0, only_safe: Collection[str] = ()) -> dict[str, Rows]:
    """Share clips among sites: sizes from a Dirichlet distribution, skewed by topic and voice, every clip at one site.

    Args:
        rows: all clips.
        names: of the sites.
        seed: of the draw.
        only_safe: sites that get no pairs.

    """
    generator = np.random.default_rng(seed)
    with_pairs = [name for name in names if name not in only_safe]
    size = generator.dirichlet(np.full(len(with_pairs), 2.0))
    pairs = _shared(rows.pair_items, with_pairs, size, generator)
    others = _shared(rows.benign_items, names, generator.dirichlet(np.full(len(names), 2.0)), generator)
    return {name: part(rows, pairs.get(name, []), others[name]) for name in names}


def _shared(
    items: Sequence[Item], names: Sequence[str], size: NDArray[np.float64], generator: np.random.Generator
) -> dict[str, list[int]]:
    """Indices of the items of each site: most clips of a topic, and of a voice, are at few sites."""
    found: dict[str, list[int]] = {name: [] for name in names}

    def tastes(values: set[str]) -> dict[str, NDArray[np.float64]]:
        return {value: generator.dirichlet(np.full(len(names), 0.5)) + 0.02 for value in sorted(values)}

    topics, voices = tastes({item.category or "" for item in items}), tastes({_voice(item) for item in items})
    for index, item in enumerate(items):
        share = size * topics[item.category or ""] * voices[_voice(item)]
        found[names[int(generator.choice(len(names), p=share / share.sum()))]].append(index)
    return found


def _voice(item: Item) -> str:
    return str(item.extra.get("voice", ""))


def part(rows: Rows, pairs: Sequence[int], benign: Sequence[int]) -> Rows:
    """The chosen pairs and other clips of ``rows``."""
    mine, others = list(pairs), list(benign)
    return Rows(
        rows.harmful[mine],
        rows.prompted[mine],
        rows.safe[mine],
        rows.benign[others],
        [rows.pair_items[index] for index in mine],
        [rows.benign_items[index] for index in others],
    )
