"""The protocol in one process: masked sums are exact, dropouts are survived, and neither side can cheat the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer.errors import SarsteerError
from sarsteer.federated import fixed_point, masking
from sarsteer.federated.coordinator import Coordinator, Round
from sarsteer.federated.errors import FederationError
from sarsteer.federated.identity import Identity, verify
from sarsteer.federated.plan import Plan
from sarsteer.federated.server import Federation
from sarsteer.federated.simulate import Loopback, keys_for, simulate, unequal
from sarsteer.federated.site import Site
from sarsteer.federated.state import ServerState
from sarsteer.federated.wire import Message
from sarsteer.steering.artifact import Steering
from sarsteer.steering.pooled.artifact import pool
from sarsteer.steering.pooled.setting import Rows
from tests.federated.sites import WIDTH, fingerprint, joined, plan_of, rows_of, setting_of

KEYS = keys_for(5)
NAMES = list(KEYS)
ROWS = {name: rows_of(30 + 7 * index, 10 * index, index) for index, name in enumerate(NAMES)}
ROWS[NAMES[4]] = rows_of(0, 30, 4)  # a site with only safe clips


def assert_same(a: Steering, b: Any, relative: float = 1e-6) -> None:
    """Equal up to fixed-point rounding (2⁻⁴⁴ of the radius, which is 100 times the activations) in float32."""
    tensors = b.tensors if hasattr(b, "tensors") else {name: getattr(b, name) for name in ("refusal", "safe_mean")}
    for name in ("refusal", "safe_mean"):
        torch.testing.assert_close(getattr(a, name), tensors[name], rtol=relative, atol=relative)


# ---- numbers and masks -------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-1000, 1000), min_size=3, max_size=3), min_size=1, max_size=8))
def test_fixed_point_sums_are_exact_to_their_scale(values: list[list[float]]) -> None:
    scale = fixed_point.scale_of(8, 1000)
    words = [fixed_point.encode(np.array(one), scale, 1000) for one in values]
    for order in (words, words[::-1]):
        total = np.sum(np.stack(order), axis=0, dtype=np.uint64)
        np.testing.assert_allclose(fixed_point.decode(total, scale), np.sum(values, axis=0), atol=len(values) / scale)


def test_the_largest_sum_does_not_overflow_and_a_larger_one_is_refused() -> None:
    for sites, records in ((3, 1), (10, 65536), (1000, 2**20)):
        scale = fixed_point.scale_of(sites, records)
        words = fixed_point.encode(np.array([records, -records], float), scale, records)
        total = sum((words for _ in range(sites)), np.zeros(2, np.uint64))
        assert fixed_point.decode(total, scale).tolist() == [sites * records, -sites * records]
        with pytest.raises(FederationError, match="could overflow"):
            fixed_point.encode(np.array([records * 1.01]), scale, records)
    with pytest.raises(FederationError, match="NaN or infinite"):
        fixed_point.encode(np.array([np.nan]), 1.0, 1)
    with pytest.raises(FederationError, match="64 bits"):
        fixed_point.scale_of(2**20, 2**20)


@given(st.binary(min_size=32, max_size=32), st.integers(2, 6), st.randoms())
@settings(max_examples=25)
def test_enough_shares_give_the_secret_back(secret: bytes, threshold: int, random: Any) -> None:
    shares = masking.split(secret, threshold, list(range(1, 8)))
    chosen = random.sample(sorted(shares), threshold)
    assert masking.join({place: shares[place] for place in chosen}) == secret


def test_too_few_or_wrong_shares_give_nothing() -> None:
    shares = masking.split(bytes(range(32)), 3, [1, 2, 3, 4])
    for wrong in ({1: shares[1], 2: shares[2]}, {1: shares[1], 2: shares[2], 4: shares[3]}):
        with pytest.raises(FederationError, match="different secrets"):  # a random number: above 2²⁵⁶ but for 2⁻²⁶⁵
            masking.join(wrong)


def test_what_is_sealed_for_one_site_cannot_be_read_or_moved() -> None:
    a, b, c = (masking.new_key() for _ in range(3))
    key = masking.agree(a, b.public_key().public_bytes_raw(), b"shares")
    assert key == masking.agree(b, a.public_key().public_bytes_raw(), b"shares")
    sealed = masking.seal(key, b"share", b"a to b")
    assert masking.unseal(key, sealed, b"a to b") == b"share"
    for other, data, about in (
        (masking.agree(c, a.public_key().public_bytes_raw(), b"shares"), sealed, b"a to b"),
        (key, sealed, b"b to a"),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"a to b"),
    ):
        with pytest.raises(FederationError, match="changed on its way"):
            masking.unseal(other, data, about)


# ---- whole calibrations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"masked": False, "min_sites": 1}, {"gate": False}], ids=["masked", "plain", "no gate"]
)
def test_sites_together_give_the_pooled_calibration(options: dict[str, Any]) -> None:
    plan = plan_of(KEYS, **options)
    steering, transport = simulate(plan, KEYS, ROWS)
    pooled = pool(plan.setting, [joined(*ROWS.values())], gate=plan.gate)
    assert_same(steering, pooled)
    assert (steering.gate is None) == (pooled.gate is None) == (not plan.gate)
    if steering.gate is not None and pooled.gate is not None:
        assert steering.gate.layers == pooled.gate.layers
        assert steering.gate.threshold == pooled.gate.threshold
    record = steering.metadata["federated"]
    assert record["sites"] == NAMES
    assert [one["round"] for one in record["rounds"]][: plan.rounds] == (
        ["statistics", "spread", "choose", "combine", "threshold"] if plan.gate else ["statistics", "spread"]
    )
    assert (record["rank"], record["privacy"], record["plan"]) == (WIDTH, None, plan.digest)
    assert min(transport.received.values()) > 0


@pytest.mark.parametrize("step", ["keys", "shares", "input", "survivors", "unmask"])
def test_a_site_that_drops_out_leaves_the_sum_of_the_others(step: str) -> None:
    """At whichever step: before its sums arrived they are not in the result, and afterwards they are."""
    plan = plan_of(KEYS, min_sites=4)
    gone = NAMES[1]
    dead: set[str] = set()

    def lost(name: str, now: str) -> bool:
        if name == gone and now == step:
            dead.add(name)
        return name in dead

    steering, _ = simulate(plan, KEYS, ROWS, lost=lost)
    counted = step in ("survivors", "unmask")
    rest = [rows for name, rows in ROWS.items() if counted or name != gone]
    assert_same(steering, pool(plan.setting, [joined(*rest)]))
    assert steering.metadata["federated"]["sites"] == [name for name in NAMES if counted or name != gone]
    assert gone not in steering.metadata["federated"]["rounds"][1]["sites"]


def test_cohorts_and_unequal_shares_change_nothing() -> None:
    keys = keys_for(9)
    rows = unequal(joined(*ROWS.values()), list(keys), seed=1, only_safe=list(keys)[:2])
    assert sum(one.records for one in rows.values()) == sum(one.records for one in ROWS.values())
    assert not rows["site-1"].pair_items
    plan = plan_of(keys, cohorts=3, gate=False)
    assert sorted(map(len, plan.cohorts_of(list(keys)))) == [3, 3, 3]
    assert_same(simulate(plan, keys, rows)[0], pool(plan.setting, list(rows.values()), gate=False))


def test_a_server_that_was_killed_between_rounds_continues(tmp_path: Path) -> None:
    plan = plan_of(KEYS)
    sites = {name: Site(name, KEYS[name], plan, rows) for name, rows in ROWS.items()}
    state = ServerState(tmp_path, plan)

    class Killed(BaseException):
        pass

    def store(finished: Round) -> None:
        state.add(finished)
        if len(state.rounds) == 2:
            raise Killed

    with pytest.raises(Killed):
        Coordinator(plan, Loopback(sites), NAMES, on_round=store).run()
    again = ServerState(tmp_path, plan)
    assert [one.query for one in again.rounds] == ["statistics", "spread"]
    steering = Coordinator(plan, Loopback(sites), NAMES, again.rounds, again.add).run()
    assert torch.equal(steering.refusal, simulate(plan, KEYS, ROWS)[0].refusal)  # integers: equal in every bit
    with pytest.raises(FederationError, match="another plan"):
        ServerState(tmp_path, plan_of(KEYS, gate=False))
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(FederationError, match="damaged"):
        ServerState(tmp_path, plan)


class Listening(Loopback):
    """Keeps what the first site sends."""

    def exchange(self, messages: Mapping[str, Message]) -> Mapping[str, Message]:
        replies = super().exchange(messages)
        self.__dict__.setdefault("kept", []).append(replies[NAMES[0]])
        return replies

    @property
    def seen(self) -> list[Message]:
        return list(self.__dict__["kept"])


def test_the_server_learns_only_the_sum() -> None:
    """What one site sends is uniform noise to the server; without masks, it is the site's sums."""
    for masked in (True, False):
        plan = plan_of(KEYS, masked=masked, gate=False)
        sites = {name: Site(name, KEYS[name], plan, rows) for name, rows in ROWS.items()}
        transport = Listening(sites)
        Coordinator(plan, transport, NAMES).run()
        words = next(reply.arrays["words"] for reply in transport.seen if "words" in reply.arrays)
        first = fixed_point.decode(words[:1], plan.scale)[0]
        assert (first == len(ROWS[NAMES[0]].pair_items)) != masked  # the number of pairs comes first
        high = np.unpackbits(words.astype(">u8").view(np.uint8)[::8]).mean()  # 8 bits each of thousands of words
        assert (abs(high - 0.5) < 0.02) == masked


# ---- bad input ---------------------------------------------------------------------------------------------------


def test_sites_that_do_not_fit_the_plan_are_refused(tmp_path: Path) -> None:
    plan = plan_of(KEYS)
    name = NAMES[0]
    with pytest.raises(FederationError, match="no site 'x'"):
        Site("x", KEYS[name], plan, ROWS[name])
    with pytest.raises(FederationError, match="another key"):
        Site(name, KEYS[NAMES[1]], plan, ROWS[name])
    with pytest.raises(FederationError, match="above the plan's 3"):
        Site(name, KEYS[name], plan_of(KEYS, records=3), ROWS[name])
    with pytest.raises(FederationError, match="float16, the plan in float32"):
        plan.check_model(fingerprint("float16"))
    other = fingerprint().__class__(**{**vars(fingerprint()), "hidden_size": 9})
    with pytest.raises(FederationError, match="hidden size 9 instead of 24"):
        plan.check_model(other)
    # an instruction, Ω or groups that differ make another plan, which the server refuses
    federation = Federation(plan, tmp_path)
    changed = (
        plan_of(KEYS, setting_of(WIDTH, seed=1)),
        plan_of(KEYS, setting_of(5)),
        Plan(**{**vars(plan), "instruction": "Other."}),
        Plan(**{**vars(plan), "fingerprint": fingerprint("bfloat16")}),
    )
    from sarsteer import __version__

    good = {"plan": plan.digest, "sarsteer": __version__, "token": "1"}
    for one in changed:
        with pytest.raises(FederationError, match="another plan"):
            federation.join(name, Message("join", {**good, "plan": one.digest}))
    with pytest.raises(FederationError, match=r"sarsteer 0\.0\.1"):
        federation.join(name, Message("join", {**good, "sarsteer": "0.0.1"}))
    federation.join(name, Message("join", good))
    federation.join(name, Message("join", good))  # the same process, after a lost connection
    with pytest.raises(FederationError, match="joined already"):
        federation.join(name, Message("join", {**good, "token": "2"}))


def test_bad_plans_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"min_sites": 9}, "from 3 to 5, not 9"),
        ({"min_sites": 2}, "from 3 to 5, not 2"),
        ({"cohorts": 2}, "too few for 2 cohort"),
        ({"robust": True}, "at least 3 sums"),
        ({"records": 2**60}, "64 bits"),
    ):
        with pytest.raises(FederationError, match=message):
            plan_of(KEYS, **options)
    with pytest.raises(FederationError, match="too few"):
        plan_of(keys_for(2))
    with pytest.raises(FederationError, match="same key"):
        plan_of({"a": KEYS[NAMES[0]], "b": KEYS[NAMES[0]], "c": KEYS[NAMES[1]]})
    with pytest.raises(FederationError, match="64 hexadecimal digits"):
        Plan(**{**vars(plan_of(KEYS)), "sites": {**plan_of(KEYS).sites, NAMES[0]: "xyz"}})
    plan = plan_of(KEYS)
    plan.save(tmp_path / "plan")
    assert Plan.load(tmp_path / "plan").digest == plan.digest
    (tmp_path / "bad").write_bytes(b"no")
    for path in (tmp_path / "bad", tmp_path / "missing"):
        with pytest.raises(FederationError, match="is not a plan"):
            Plan.load(path)


def test_a_server_cannot_ask_for_more_than_the_sum() -> None:
    """Each message is what a curious or hostile server might send; the site refuses it and gives nothing away."""
    plan = plan_of(KEYS, gate=False)
    sites = {name: Site(name, KEYS[name], plan, ROWS[name]) for name in NAMES}
    query = {"round": 0, "query": "statistics", "attempt": "00" * 16}

    def ask(step: str, values: dict[str, Any], of: str = NAMES[0]) -> Message:
        return sites[of].handle(Message(step, values))

    def refused(step: str, values: dict[str, Any], because: str) -> None:
        reply = ask(step, values)
        assert reply.step == "error"
        assert because in reply.values["message"]
        assert not reply.arrays

    refused("plain", query, "the plan has masks")
    refused("steal", query, "unknown step")
    refused("keys", {**query, "round": 7}, "more rounds")
    refused("unmask", {"signatures": {}}, "middle of a round")
    keys = {}
    for name in NAMES:
        reply = ask("keys", query, name)
        keys[name] = (reply.values["keys"], reply.values["signature"])
    forged = {**keys, NAMES[1]: (keys[NAMES[2]][0], keys[NAMES[2]][1])}
    refused("shares", {"keys": forged}, "not signed by it")
    own = Identity.new()  # keys of a site that the server made up
    refused("shares", {"keys": {**keys, "ghost": (keys[NAMES[1]][0], own.sign(b"x"))}}, "not in this site's cohort")
    refused("shares", {"keys": dict(list(keys.items())[:2])}, "too few for masked sums")
    boxes: dict[str, dict[str, str]] = {name: {} for name in NAMES}
    for name in NAMES:
        for to, sealed in ask("shares", {"keys": keys}, name).values["shares"].items():
            boxes[to][name] = sealed
    refused("input", {"shares": {NAMES[1]: boxes[NAMES[0]][NAMES[2]]}}, "changed on its way")
    for name in NAMES:
        assert ask("input", {"shares": boxes[name]}, name).step == "sums"
    refused("survivors", {"survivors": NAMES[:2]}, "4 are needed")
    signed = {name: ask("survivors", {"survivors": NAMES}, name).values["signature"] for name in NAMES}
    refused("survivors", {"survivors": NAMES[:4]}, "two sets of survivors")
    refused("unmask", {"signatures": dict(list(signed.items())[:2])}, "too few sites agreed")
    reply = ask("unmask", {"signatures": signed})
    assert set(reply.values["seeds"]) == set(NAMES)
    assert not reply.values["keys"]  # of no site both secrets
    refused("unmask", {"signatures": signed}, "twice")


def test_the_same_round_is_never_released_over_other_sites() -> None:
    """The difference of two such sums would be one site's."""
    plan = plan_of(KEYS, gate=False)
    sites = {name: Site(name, KEYS[name], plan, ROWS[name]) for name in NAMES}
    Coordinator(plan, Loopback(sites), NAMES).run()
    with pytest.raises(FederationError, match="are left"):
        Coordinator(plan, Loopback(sites, lambda name, _: name == NAMES[0]), NAMES[1:]).run()


class Lying(Site):
    """A site that sends something else in the step that carries its sums."""

    words: Any = None

    def handle(self, message: Message) -> Message:
        reply = super().handle(message)
        return Message("sums", {}, {"words": self.words}) if reply.step == "sums" else reply


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (np.zeros(3, np.uint64), "instead of"),
        (np.zeros(3, np.float64), "instead of"),
        ("huge", "longer than"),
        ("negative", "negative number of clips"),
    ],
)
def test_sums_that_no_clips_can_have_are_left_out(words: Any, reason: str) -> None:
    plan = plan_of(KEYS, masked=False, min_sites=3)
    sites = {name: Site(name, KEYS[name], plan, ROWS[name]) for name in NAMES}
    liar = Lying(NAMES[2], KEYS[NAMES[2]], plan, ROWS[NAMES[2]])
    from sarsteer.steering.pooled.rounds import Query, layout_of
    from sarsteer.steering.pooled.sums import size

    count = size(layout_of(plan.setting, Query("statistics")))
    if isinstance(words, str):
        values = np.zeros(count)
        values[:2] = 5.0 if words == "huge" else -5.0
        values[2:90] = 4.9  # of the differences
        words = fixed_point.encode(values, plan.scale, plan.records)
    liar.words = words
    steering = Coordinator(plan, Loopback({**sites, NAMES[2]: liar}), NAMES).run()
    first = steering.metadata["federated"]["rounds"][0]
    assert reason in first["left_out"][NAMES[2]]
    assert_same(steering, pool(plan.setting, [rows for name, rows in ROWS.items() if name != NAMES[2]]))


class Disrupting(Site):
    """A site that spoils its reply to one step."""

    spoil: Any = None

    def handle(self, message: Message) -> Message:
        reply = super().handle(message)
        return self.spoil(reply) if reply.step == message.step and reply.step == self.at else reply

    at = ""


@pytest.mark.parametrize(
    ("step", "change"),
    [
        ("keys", {"keys": None}),
        ("keys", {"keys": ["zz", "00"]}),
        ("keys", {"signature": "00" * 64}),
        ("shares", {"shares": {}}),
        ("shares", {"shares": 3}),
        ("survivors", {"signature": "no"}),
        ("unmask", {"seeds": {}}),
        ("unmask", "wrong shares"),
    ],
)
def test_a_site_that_sends_nonsense_is_left_out_and_stops_nobody(step: str, change: Any) -> None:
    plan = plan_of(KEYS, gate=False, min_sites=4)
    sites = {name: Site(name, KEYS[name], plan, rows) for name, rows in ROWS.items()}
    bad = Disrupting(NAMES[2], KEYS[NAMES[2]], plan, ROWS[NAMES[2]])

    def spoil(reply: Message) -> Message:
        if change == "wrong shares":
            return Message(step, {kind: dict.fromkeys(of, "01" * 66) for kind, of in reply.values.items()})
        return Message(step, {**reply.values, **change})

    bad.at, bad.spoil = step, spoil
    reports: list[str] = []
    steering = Coordinator(plan, Loopback({**sites, NAMES[2]: bad}), NAMES, report=reports.append).run()
    counted = step in ("survivors", "unmask")  # its sums arrived before
    rest = [rows for name, rows in ROWS.items() if counted or name != NAMES[2]]
    assert_same(steering, pool(plan.setting, [joined(*rest)], gate=False))
    assert change == "wrong shares" or any("malformed or not signed" in line for line in reports) or counted


def test_nan_huge_norms_and_too_few_sites() -> None:
    plan = plan_of(KEYS, min_sites=4)
    broken = ROWS[NAMES[0]].harmful.clone()
    broken[0, 0, 0] = float("nan")
    rows = ROWS[NAMES[0]]
    bad = Rows(broken, rows.prompted, rows.safe, rows.benign, rows.pair_items, rows.benign_items)
    steering, _ = simulate(plan, KEYS, {**ROWS, NAMES[0]: bad})
    assert "NaN" in steering.metadata["federated"]["rounds"][0]["left_out"][NAMES[0]]
    # a huge activation is moved to the radius: it counts, but no more than any other
    huge = Rows(1e9 * rows.harmful, rows.prompted, rows.safe, rows.benign, rows.pair_items, rows.benign_items)
    clipped, _ = simulate(plan_of(KEYS, gate=False), KEYS, {**ROWS, NAMES[0]: huge})
    assert float(clipped.harmful_mean.abs().max()) < 200
    with pytest.raises(FederationError, match="0 of 5 sites are left, and the plan needs 4"):
        simulate(plan, KEYS, ROWS, lost=lambda *_: True)
    with pytest.raises(FederationError, match="sites are left, and the plan needs 4"):
        simulate(plan, KEYS, ROWS, lost=lambda name, step: name in NAMES[:2] and step == "input")
    with pytest.raises(SarsteerError, match="too few pairs"):
        simulate(plan, KEYS, dict.fromkeys(NAMES, rows_of(0, 5)))


def test_messages_and_signatures() -> None:
    message = Message("x", {"a": [1, "b"]}, {"words": np.arange(4, dtype=np.uint64), "empty": np.zeros((0, 3))})
    again = Message.from_bytes(message.to_bytes())
    assert (again.step, again.values["a"]) == ("x", [1, "b"])
    assert again.arrays["words"].tolist() == [0, 1, 2, 3]
    with pytest.raises(FederationError, match="not a message"):
        Message.from_bytes(b"hello")
    old = message.to_bytes().replace(b'\\"version\\": 1', b'\\"version\\": 9')
    with pytest.raises(FederationError, match="version 9"):
        Message.from_bytes(old)
    identity = Identity.new()
    signature = identity.sign(b"ab", b"c")
    assert verify(identity.public, signature, b"ab", b"c")
    assert not verify(identity.public, signature, b"a", b"bc")
    assert not verify(identity.public, "zz", b"ab", b"c")
    assert json.dumps(message.values)
