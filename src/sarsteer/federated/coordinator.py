"""The server's part of the protocol: rounds of sums over all sites, masked or not, with dropouts."""

from __future__ import annotations

import itertools
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sarsteer.errors import CalibrationError
from sarsteer.federated import fixed_point, masking, privacy
from sarsteer.federated.errors import FederationError
from sarsteer.federated.identity import verify
from sarsteer.federated.plan import Plan
from sarsteer.federated.robust import outliers, problem_of
from sarsteer.federated.tally import Tally, contradiction, tally_of
from sarsteer.federated.wire import Message
from sarsteer.steering.artifact import Steering
from sarsteer.steering.pooled.artifact import steering_of
from sarsteer.steering.pooled.calibration import Pooled, advance
from sarsteer.steering.pooled.rounds import Query, layout_of
from sarsteer.steering.pooled.sums import Layout, Sums, size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]


_TRIES = 500
"""Sets of shares that are tried for one secret."""


class Transport(Protocol):
    """How messages reach the sites."""

    def exchange(self, messages: Mapping[str, Message]) -> Mapping[str, Message]:
        """Send each site its message, and return the replies that arrive in time."""
        ...


@dataclass(frozen=True, eq=False)
class Round:
    """A finished round.

    Attributes:
        query: its name.
        sums: over ``sites``.
        sites: whose sums these are.
        left_out: why other sites' sums are not in it.
        tallies: how many clips each of the sums counts that were added.

    """

    query: str
    sums: Sums = field(repr=False)
    sites: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    tallies: tuple[Tally, ...] = field(default=(), repr=False)


class Coordinator:
    """Runs a plan's rounds.

    Args:
        plan: the plan.
        transport: reaches the sites.
        sites: those that have joined.
        past: rounds that are finished already.
        on_round: called with each finished round, before the next one starts.
        report: called with a line about what happens.

    """

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        sites: Sequence[str],
        past: Sequence[Round] = (),
        on_round: Callable[[Round], None] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._plan, self._transport = plan, transport
        self._past = list(past)
        left = {name for one in past for name in one.left_out}
        self._active = sorted(set(sites) - left)
        self._on_round = on_round or (lambda _: None)
        self._report = report or (lambda _: None)
        self._reasons: dict[str, str] = {}

    @property
    def noise(self) -> float:
        """The standard deviation of errors of the sums, in units: rounding, or noise for privacy."""
        rounding = fixed_point.rounding(len(self._plan.sites), self._plan.scale)
        if self._plan.privacy is None:
            return rounding
        layout = layout_of(self._plan.setting, Query("statistics"))
        return max(rounding, float(privacy.deviations(layout, self._plan.privacy.multiplier).max()))

    def run(self) -> Steering:
        """All rounds, and the steering that they give.

        Raises:
            FederationError: too few sites are left.
            CalibrationError: the sums allow no calibration.

        """
        while True:
            step = advance(self._plan.setting, [one.sums for one in self._past], self.noise, gate=self._plan.gate)
            if isinstance(step, Pooled):
                return self._steering(step)
            self._check_sites()
            finished = self._round(len(self._past), step)
            self._past.append(finished)
            self._on_round(finished)
            self._report(f"round {len(self._past)} of {self._plan.rounds}, {step.name}: {len(finished.sites)} sites")

    def _check_sites(self) -> None:
        if len(self._active) < self._plan.min_sites:
            names: dict[str, list[str]] = {}  # all sites of one masked sum have the same reason
            for name, reason in self._reasons.items():
                names.setdefault(reason, []).append(name)
            reasons = "; ".join(f"{', '.join(some)}: {reason}" for reason, some in names.items())
            raise FederationError(
                f"{len(self._active)} of {len(self._plan.sites)} sites are left, and the plan needs "
                f"{self._plan.min_sites}{f' ({reasons})' if reasons else ''}; start the sites again with a new plan"
            )

    def _round(self, number: int, query: Query) -> Round:
        layout = layout_of(self._plan.setting, query)
        self._reasons = {}
        sums: dict[tuple[str, ...], Sums] = {}
        for cohort in self._plan.cohorts_of(self._active):
            found = self._masked(number, query, layout, cohort) if self._plan.masked else None
            if not self._plan.masked:
                continue
            if found is not None:
                survivors, words = found
                sums[tuple(survivors)] = Sums.unpacked(fixed_point.decode(words, self._plan.scale), layout)
        if not self._plan.masked:
            for name, words in self._plain(number, query, layout).items():
                sums[(name,)] = Sums.unpacked(fixed_point.decode(words, self._plan.scale), layout)
        sums = self._sound(query, layout, sums)
        sites = tuple(sorted(name for members in sums for name in members))
        for name in set(self._active) - set(sites):
            self._reasons.setdefault(name, "did not answer in time")
            self._report(f"{name} left: {self._reasons[name]}")
        self._active = list(sites)
        self._check_sites()
        total = None
        for one in sums.values():
            total = one if total is None else total + one
        assert total is not None  # min_sites is at least 1
        tallies = tuple(self._tally(members, layout, one) for members, one in sums.items())
        return Round(query.name, total, sites, dict(self._reasons), tallies)

    def _sound(self, query: Query, layout: Layout, sums: dict[tuple[str, ...], Sums]) -> dict[tuple[str, ...], Sums]:
        """Without sums that no clips can have, and without outliers if the plan is robust."""
        kept = {}
        for members, one in sums.items():
            slack = 8 * self.noise if self._plan.privacy is not None else 1e-6
            problem = problem_of(query, layout, one, len(members) * self._plan.records, slack)
            problem = problem or self._contradiction(query, layout, members, one)
            if problem is None:
                kept[members] = one
            else:
                self._reasons |= dict.fromkeys(members, problem)
        if self._plan.robust:
            for members in outliers(self._plan.setting, query, kept):
                self._reasons |= dict.fromkeys(members, "its sums are far from those of the others")
                del kept[members]
        return kept

    def _tally(self, members: tuple[str, ...], layout: Layout, sums: Sums) -> Tally:
        return tally_of(members, layout, sums, 0.0 if self._plan.privacy is None else self._plan.privacy.multiplier)

    def _contradiction(self, query: Query, layout: Layout, members: tuple[str, ...], sums: Sums) -> str | None:
        """Why these are not the clips that the same sites counted in the earlier rounds; None if they can be."""
        past = [next(one for one in done.tallies if set(one.sites) >= set(members)) for done in self._past]
        return contradiction(self._plan.setting, query, self._tally(members, layout, sums), past)

    # ---- one sum -------------------------------------------------------------------------------------------------

    def _ask(self, step: str, messages: Mapping[str, Message], answer: str | None = None) -> dict[str, Message]:
        replies = {}
        for name, reply in self._transport.exchange(messages).items():
            if reply.step == (answer or step):
                replies[name] = reply
            else:
                self._reasons[name] = str(reply.values.get("message", f"answered {step} with {reply.step}"))
        return replies

    def _start(self, step: str, number: int, query: Query, attempt: bytes) -> Message:
        arrays = {name: tensor.contiguous().numpy() for name, tensor in query.tensors.items()}
        return Message(step, {"round": number, "query": query.name, "attempt": attempt.hex()}, arrays)

    def _words(self, name: str, reply: Message, layout: Layout) -> Words | None:
        words = reply.arrays.get("words")
        if words is None or words.dtype != np.uint64 or words.shape != (size(layout),):
            shape = "nothing" if words is None else f"{words.dtype} {words.shape}"
            self._reasons[name] = f"sent {shape} instead of {size(layout)} integers"
            return None
        return words

    def _plain(self, number: int, query: Query, layout: Layout) -> dict[str, Words]:
        message = self._start("plain", number, query, b"")
        replies = self._ask("plain", dict.fromkeys(self._active, message), "sums")
        checked = {name: self._words(name, reply, layout) for name, reply in replies.items()}
        return {name: words for name, words in checked.items() if words is not None}

    def _masked(self, number: int, query: Query, layout: Layout, cohort: list[str]) -> tuple[list[str], Words] | None:
        """The sum over a cohort's survivors (Bonawitz and others, 2017, figure 4); None if too few are left."""
        attempt = secrets.token_bytes(16)
        about = json.dumps([self._plan.digest, number, attempt.hex()]).encode()  # what sites sign

        def signed(name: str, reply: Message, *parts: bytes) -> bool:
            return verify(self._plan.sites[name], str(reply.values["signature"]), parts[0], about, *parts[1:])

        advertised = self._ask("keys", dict.fromkeys(cohort, self._start("keys", number, query, attempt)))
        keys: dict[str, tuple[list[str], str]] = {}
        for name, reply in self._valid(
            "keys", advertised, lambda name, reply: signed(name, reply, b"keys", *_pair(reply))
        ):
            keys[name] = ([key.hex() for key in _pair(reply)], str(reply.values["signature"]))
        for name in _with_the_same(keys):  # other sites would refuse to go on with these
            self._reasons[name] = "sent the same keys as another site"
            del keys[name]
        everyone = sorted(keys)
        if len(everyone) < 3:
            return self._too_few(everyone)
        threshold = self._plan.threshold(everyone)
        shared = self._ask("shares", dict.fromkeys(everyone, Message("shares", {"keys": keys})))
        shared = dict(self._valid("shares", shared, lambda name, reply: _shares_for(reply, set(everyone) - {name})))
        if len(shared) < threshold:
            return self._too_few(shared)
        inboxes = {
            name: {sender: reply.values["shares"][name] for sender, reply in shared.items() if sender != name}
            for name in shared
        }
        sent = self._ask("input", {name: Message("input", {"shares": box}) for name, box in inboxes.items()}, "sums")
        masked = {
            name: words for name, reply in sent.items() if (words := self._words(name, reply, layout)) is not None
        }
        survivors = sorted(masked)
        if len(survivors) < threshold:
            return self._too_few(survivors)
        agreed = self._ask("survivors", dict.fromkeys(survivors, Message("survivors", {"survivors": survivors})))
        listed = json.dumps(survivors).encode()
        agreed = dict(self._valid("survivors", agreed, lambda name, reply: signed(name, reply, b"survivors", listed)))
        if len(agreed) < threshold:
            return self._too_few(agreed)
        signatures = {name: reply.values["signature"] for name, reply in agreed.items()}
        revealed = self._ask("unmask", dict.fromkeys(agreed, Message("unmask", {"signatures": signatures})))
        lost = set(shared) - set(survivors)
        revealed = dict(self._valid("unmask", revealed, lambda _, reply: _secrets_of(reply, set(survivors), lost)))
        if len(revealed) < threshold:
            return self._too_few(revealed)
        return survivors, self._unmasked(masked, sorted(shared), keys, revealed, threshold, size(layout))

    def _valid(
        self, step: str, replies: Mapping[str, Message], check: Callable[[str, Message], bool]
    ) -> Iterator[tuple[str, Message]]:
        """Replies in the form that others rely on: one dishonest site must not end the round for all."""
        for name, reply in replies.items():
            try:
                good = check(name, reply)
            except (KeyError, TypeError, ValueError, AttributeError):
                good = False
            if good:
                yield name, reply
            else:
                self._reasons[name] = f"sent a reply to {step!r} that is malformed or not signed by it"

    def _unmasked(
        self,
        masked: Mapping[str, Words],
        shared: list[str],
        keys: Mapping[str, tuple[list[str], str]],
        revealed: Mapping[str, Message],
        threshold: int,
        length: int,
    ) -> Words:
        places = {name: 1 + index for index, name in enumerate(sorted(self._plan.sites))}

        def secret(kind: str, name: str) -> bytes:
            shares = {
                places[holder]: bytes.fromhex(reply.values[kind][name])
                for holder, reply in revealed.items()
                if name in reply.values[kind]
            }
            if len(shares) < threshold:
                raise FederationError(f"too few shares of {name!r} to remove its mask")
            problem: FederationError | None = None
            for chosen in itertools.islice(itertools.combinations(shares.items(), threshold), _TRIES):
                try:
                    return masking.join(dict(chosen))
                except FederationError as error:  # a site revealed a wrong share: others may suffice
                    problem = error
            assert problem is not None
            raise problem

        total = np.zeros(length, np.uint64)
        for name, words in masked.items():
            total += words
            total -= masking.mask(secret("seeds", name), length)
        for name in shared:
            if name in masked:
                continue
            key = masking.key_of(secret("keys", name))  # a site that dropped out: its masks did not cancel
            for other in masked:
                pad = masking.mask(masking.agree(key, bytes.fromhex(keys[other][0][1]), b"masks"), length)
                total = total - pad if other < name else total + pad
        return total

    def _too_few(self, left: Sized) -> tuple[list[str], Words] | None:
        self._report(f"a sum failed: {len(left)} sites are too few")
        return None

    # ---- the result ----------------------------------------------------------------------------------------------

    def _steering(self, pooled: Pooled) -> Steering:
        plan = self._plan
        if not all(bool(np.isfinite(tensor.numpy()).all()) for tensor in pooled.tensors.values()):
            raise CalibrationError("the result contains NaN or infinite values")
        federated = {
            "plan": plan.digest,
            "sites": list(self._past[0].sites),
            "rounds": [
                {"round": one.query, "sites": list(one.sites), "left_out": dict(one.left_out)} for one in self._past
            ],
            "rank": plan.setting.columns if plan.setting.rank else 0,
            "seed": plan.setting.seed,
            "masked": plan.masked,
            "cohorts": plan.cohorts,
            "robust": plan.robust,
            "privacy": None
            if plan.privacy is None
            else {
                "epsilon": plan.privacy.epsilon(len(self._past)),
                "delta": plan.privacy.delta,
                "noise_multiplier": plan.privacy.multiplier,
                "record": "a pair, or a safe request without a twin",
            },
        }
        return steering_of(
            pooled, plan.model, plan.fingerprint, plan.instruction, plan.refusal_prompt, {"federated": federated}
        )


def _pair(reply: Message) -> tuple[bytes, bytes]:
    """The two public keys of a site."""
    channel, masks = (bytes.fromhex(key) for key in reply.values["keys"])
    if len(channel) != 32 or len(masks) != 32:
        raise ValueError("a public key has 32 bytes")
    return channel, masks


def _with_the_same(keys: Mapping[str, tuple[list[str], str]]) -> list[str]:
    counts = Counter(tuple(publics) for publics, _ in keys.values())
    return [name for name, (publics, _) in keys.items() if counts[tuple(publics)] > 1]


def _shares_for(reply: Message, others: set[str]) -> bool:
    shares = reply.values["shares"]
    return set(shares) == others and all(bytes.fromhex(sealed) for sealed in shares.values())


def _secrets_of(reply: Message, survivors: set[str], lost: set[str]) -> bool:
    seeds, keys = reply.values["seeds"], reply.values["keys"]
    return (
        set(seeds) == survivors
        and set(keys) == lost
        and all(len(bytes.fromhex(share)) == masking.SHARE for share in (*seeds.values(), *keys.values()))
    )
