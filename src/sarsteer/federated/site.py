"""A site's part of the protocol: it answers each step from its own clips, and gives nothing away that it must not."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from sarsteer.errors import SarsteerError
from sarsteer.federated import fixed_point, masking, privacy
from sarsteer.federated.errors import FederationError
from sarsteer.federated.identity import Identity, verify
from sarsteer.federated.plan import Plan
from sarsteer.federated.wire import Message, text_of
from sarsteer.steering.pooled.rounds import Query, answer, layout_of
from sarsteer.steering.pooled.setting import Rows
from sarsteer.steering.pooled.sums import Sums

Tamper = Callable[[Query, Sums], Sums]


class Site:
    """One site in one calibration.

    Args:
        name: as in the plan.
        identity: its private key.
        plan: the site's own copy, from a source that it trusts.
        rows: its clips' activations.
        tamper: changes what the site sends; for measuring attacks.

    Raises:
        FederationError: the plan does not have this site with this key, or the site has too many records.

    """

    def __init__(self, name: str, identity: Identity, plan: Plan, rows: Rows, tamper: Tamper | None = None) -> None:
        if name not in plan.sites:
            raise FederationError(f"the plan has no site {name!r}; it has {', '.join(plan.sites)}")
        if plan.sites[name] != identity.public:
            raise FederationError(f"the plan has another key for site {name!r}; use its key file, or plan again")
        if rows.records > plan.records:
            raise FederationError(
                f"{rows.records} records are above the plan's {plan.records}; give fewer, or plan again"
            )
        rows.check(plan.setting)
        self.name, self.plan = name, plan
        self._identity, self._rows, self._tamper = identity, rows, tamper
        self._attempt: _Attempt | None = None
        self._released: dict[int, list[str]] = {}  # the survivors of each round that were unmasked
        self._seeds: dict[tuple[int, str], int] = {}  # of the noise, by round and question
        self._last: tuple[tuple[int, str], np.ndarray[Any, Any]] | None = None
        self.rounds = 0

    def sign(self, *parts: bytes) -> str:
        """A signature of the parts by this site's key."""
        return self._identity.sign(*parts)

    # ---- between two processes -----------------------------------------------------------------------------------

    def state(self) -> Message:
        """What the site must remember between two steps. It holds secrets: it must not leave the site."""
        released = {str(number): survivors for number, survivors in self._released.items()}
        seeds = [[number, question, f"{seed:032x}"] for (number, question), seed in self._seeds.items()]
        values = {"plan": self.plan.digest, "rounds": self.rounds, "released": released, "seeds": seeds}
        if self._attempt is None:
            return Message("state", values)
        about, arrays = self._attempt.to_values()
        return Message("state", {**values, "attempt": about}, arrays)

    def restore(self, state: Message) -> None:
        """Continue from what ``state`` returned in another process.

        Raises:
            FederationError: the state is of another plan, or damaged.

        """
        try:
            values = state.values
            if values["plan"] != self.plan.digest:
                raise FederationError("the site's state is of another plan; choose another folder")
            self.rounds = int(values["rounds"])
            self._released = {int(number): list(names) for number, names in values["released"].items()}
            self._seeds = {(int(number), str(question)): int(seed, 16) for number, question, seed in values["seeds"]}
            attempt = values.get("attempt")
            self._attempt = None if attempt is None else _Attempt.from_values(attempt, state.arrays)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FederationError("the site's state is damaged; delete it, and join again") from None

    def handle(self, message: Message) -> Message:
        """The reply to one step; an error is a reply, too."""
        steps: Mapping[str, Callable[[Message], Message]] = {
            "plain": self._plain,
            "keys": self._keys,
            "shares": self._shares,
            "input": self._input,
            "survivors": self._survivors,
            "unmask": self._unmask,
        }
        try:
            if message.step not in steps:
                raise FederationError(f"the server sent an unknown step {message.step!r}")
            return steps[message.step](message)
        except (SarsteerError, KeyError, ValueError, TypeError) as error:
            return Message("error", {"message": text_of(error)})

    # ---- the sums ------------------------------------------------------------------------------------------------

    def _query(self, message: Message) -> tuple[int, Query]:
        number = int(message.values["round"])
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in message.arrays.items()}
        if not all(bool(torch.isfinite(tensor.double()).all()) for tensor in tensors.values()):
            raise FederationError("the server sent NaN or infinite values")
        if number >= self.plan.rounds:
            raise FederationError(f"the server asked for more rounds than the plan's {self.plan.rounds}")
        return number, Query(str(message.values["query"]), tensors)

    def _words(self, number: int, query: Query) -> np.ndarray[Any, Any]:
        """The site's sums as integers. The same query always gets the same noise: averaging cannot remove it."""
        whole = Message(query.name, {}, {n: t.numpy() for n, t in query.tensors.items()}).to_bytes()
        key = (number, hashlib.sha256(whole).hexdigest())
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        if key not in self._seeds:
            if number < max((other for other, _ in self._seeds), default=0):
                raise FederationError(f"the server asked for round {number}, which is over")
            if self.plan.privacy is not None and any(number == other for other, _ in self._seeds):
                raise FederationError(f"the server asked another question in round {number}, which privacy forbids")
            kept = {known: seed for known, seed in self._seeds.items() if known[0] == number}
            self._seeds = {**kept, key: secrets.randbits(128)}
        layout = layout_of(self.plan.setting, query)
        sums = answer(self.plan.setting, query, self._rows)
        if self._tamper is not None:
            sums = self._tamper(query, sums)
        values = sums.packed(layout)
        slack = 0.0
        if self.plan.privacy is not None:
            multiplier = self.plan.privacy.multiplier
            values = values + privacy.noise(layout, multiplier, self.plan.min_sites, self._seeds[key])
            slack = 16 * float(privacy.deviations(layout, multiplier).max())
        words = fixed_point.encode(values, self.plan.scale, max(self.plan.records, round(slack)))
        self._last = key, words
        return words

    def _plain(self, message: Message) -> Message:
        if self.plan.masked:
            raise FederationError("the server asked for sums without masks, and the plan has masks")
        number, query = self._query(message)
        self.rounds = number + 1
        return Message("sums", {}, {"words": self._words(number, query)})

    # ---- masks ---------------------------------------------------------------------------------------------------

    def _keys(self, message: Message) -> Message:
        number, query = self._query(message)
        attempt = _Attempt(number, query, bytes.fromhex(message.values["attempt"]))
        self._attempt = attempt
        publics = [key.public_key().public_bytes_raw() for key in (attempt.channel, attempt.masks)]
        signature = self._identity.sign(b"keys", self._about(attempt), *publics)
        return Message("keys", {"keys": [public.hex() for public in publics], "signature": signature})

    def _shares(self, message: Message) -> Message:
        attempt = self._current()
        attempt.publics = {}
        members = message.values["keys"]
        cohort = next((c for c in self.plan.cohorts_of(list(self.plan.sites)) if self.name in c), [])
        for name, (keys, signature) in members.items():
            if name not in cohort:
                raise FederationError(f"the server named {name!r}, which is not in this site's cohort")
            publics = [bytes.fromhex(key) for key in keys]
            if not verify(self.plan.sites[name], signature, b"keys", self._about(attempt), *publics):
                raise FederationError(f"the keys of site {name!r} are not signed by it: the server may be dishonest")
            attempt.publics[name] = (publics[0], publics[1])
        threshold = self.plan.threshold(sorted(attempt.publics))
        if len(attempt.publics) < max(3, threshold) or self.name not in attempt.publics:
            raise FederationError(f"{len(attempt.publics)} sites are too few for masked sums; at least 3 are needed")
        if len(set(attempt.publics.values())) != len(attempt.publics):
            raise FederationError("two sites have the same keys")
        places = {name: self._place_of(name) for name in attempt.publics}
        parts = {
            "seed": masking.split(attempt.seed, threshold, list(places.values())),
            "key": masking.split(attempt.masks.private_bytes_raw(), threshold, list(places.values())),
        }
        sealed = {}
        for name, place in places.items():
            text = parts["seed"][place] + parts["key"][place]
            if name == self.name:
                attempt.shares[name] = text
                continue
            key = masking.agree(attempt.channel, attempt.publics[name][0], b"shares")
            sealed[name] = masking.seal(key, text, self._between(attempt, self.name, name)).hex()
        return Message("shares", {"shares": sealed})

    def _input(self, message: Message) -> Message:
        attempt = self._current()
        for name, sealed in message.values["shares"].items():
            if name not in attempt.publics or name == self.name:
                raise FederationError(f"the server sent shares of {name!r}, which has no keys in this round")
            key = masking.agree(attempt.channel, attempt.publics[name][0], b"shares")
            attempt.shares[name] = masking.unseal(key, bytes.fromhex(sealed), self._between(attempt, name, self.name))
        if len(attempt.shares) < self.plan.threshold(sorted(attempt.publics)):
            raise FederationError(f"{len(attempt.shares)} sites are too few to recover from a dropout")
        words = self._words(attempt.number, attempt.query).copy()
        words += masking.mask(attempt.seed, len(words))
        for name in attempt.shares:
            if name != self.name:
                pad = masking.mask(masking.agree(attempt.masks, attempt.publics[name][1], b"masks"), len(words))
                words = words + pad if self.name < name else words - pad
        return Message("sums", {}, {"words": words})

    def _survivors(self, message: Message) -> Message:
        attempt = self._current()
        survivors = sorted(message.values["survivors"])
        enough = self.plan.threshold(sorted(attempt.publics))
        if len(set(survivors)) != len(survivors) or not set(survivors) <= set(attempt.shares):
            raise FederationError("the server named sites as survivors that sent nothing")
        if len(survivors) < enough or self.name not in survivors:
            raise FederationError(f"{len(survivors)} of {len(attempt.publics)} sites are left; {enough} are needed")
        known = self._released.get(attempt.number, survivors)
        if known != survivors:  # the difference of two sums would be one site's
            raise FederationError(
                f"round {attempt.number} was summed over other sites before; their difference would reveal single sites"
            )
        if attempt.survivors not in (None, survivors):
            raise FederationError("the server named two sets of survivors")
        attempt.survivors = survivors
        return Message(
            "survivors", {"signature": self._identity.sign(b"survivors", self._about(attempt), _list(survivors))}
        )

    def _unmask(self, message: Message) -> Message:
        attempt = self._current()
        survivors = attempt.survivors
        if survivors is None or attempt.unmasked:
            raise FederationError("the server asked to unmask a sum before its survivors were agreed on, or twice")
        signed = {
            name
            for name, signature in message.values["signatures"].items()
            if name in survivors
            and verify(self.plan.sites[name], signature, b"survivors", self._about(attempt), _list(survivors))
        }
        if len(signed) < self.plan.threshold(sorted(attempt.publics)):
            raise FederationError("too few sites agreed on the survivors: the server may be dishonest")
        attempt.unmasked = True
        self._released[attempt.number] = survivors
        self.rounds = attempt.number + 1
        seeds, keys = {}, {}
        for name, text in attempt.shares.items():
            half = len(text) // 2
            if name in survivors:
                seeds[name] = text[:half].hex()
            else:
                keys[name] = text[half:].hex()
        return Message("unmask", {"seeds": seeds, "keys": keys})

    def _current(self) -> _Attempt:
        if self._attempt is None:
            raise FederationError("this site was started again in the middle of a round, and waits for the next one")
        return self._attempt

    def _about(self, attempt: _Attempt) -> bytes:
        return json.dumps([self.plan.digest, attempt.number, attempt.id.hex()]).encode()

    def _between(self, attempt: _Attempt, sender: str, receiver: str) -> bytes:
        return self._about(attempt) + _list([sender, receiver])

    def _place_of(self, name: str) -> int:
        return 1 + sorted(self.plan.sites).index(name)


class _Attempt:
    """The secrets of one round. A round that is repeated has new ones."""

    def __init__(self, number: int, query: Query, id_: bytes) -> None:
        self.number, self.query, self.id = number, query, id_
        self.channel, self.masks = masking.new_key(), masking.new_key()
        self.seed = secrets.token_bytes(32)
        self.publics: dict[str, tuple[bytes, bytes]] = {}
        self.shares: dict[str, bytes] = {}
        self.survivors: list[str] | None = None
        self.unmasked = False

    def to_values(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """As JSON values and arrays."""
        values = {
            "number": self.number,
            "query": self.query.name,
            "id": self.id.hex(),
            "channel": self.channel.private_bytes_raw().hex(),
            "masks": self.masks.private_bytes_raw().hex(),
            "seed": self.seed.hex(),
            "publics": {name: [key.hex() for key in keys] for name, keys in self.publics.items()},
            "shares": {name: share.hex() for name, share in self.shares.items()},
            "survivors": self.survivors,
            "unmasked": self.unmasked,
        }
        return values, {name: tensor.contiguous().numpy() for name, tensor in self.query.tensors.items()}

    @classmethod
    def from_values(cls, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]) -> _Attempt:
        """The inverse of ``to_values``."""
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        attempt = cls(int(values["number"]), Query(str(values["query"]), tensors), bytes.fromhex(values["id"]))
        attempt.channel, attempt.masks = (masking.key_of(bytes.fromhex(values[name])) for name in ("channel", "masks"))
        attempt.seed = bytes.fromhex(values["seed"])
        attempt.publics = {name: (bytes.fromhex(a), bytes.fromhex(b)) for name, (a, b) in values["publics"].items()}
        attempt.shares = {name: bytes.fromhex(share) for name, share in values["shares"].items()}
        attempt.survivors = None if values["survivors"] is None else list(values["survivors"])
        attempt.unmasked = bool(values["unmasked"])
        return attempt


def _list(names: list[str]) -> bytes:
    return json.dumps(names).encode()
