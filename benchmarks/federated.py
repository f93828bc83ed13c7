"""Federated against pooled calibration: ``python -m benchmarks.federated MODEL --pairs PAIRS --folder FOLDER``.

Ten unequal sites, skewed by topic and voice, two of them with only safe clips, against ordinary calibration on all
clips together: the largest principal angle between the safe subspaces (k = 10), ``‖Δv‖/‖v‖``, and the gate on test
requests, over the rank r, the number n of clips and the number of sites; then over ε; then with dishonest sites.
Activations are computed once, in FOLDER, and each finished row is stored in ``--out``: an interrupted run continues.

``--payload`` measures instead what a site of Qwen2-Audio's shape sends.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sarsteer
from sarsteer.data.manifest import Item
from sarsteer.data.pairs import load_benign, load_pairs
from sarsteer.errors import CalibrationError, SarsteerError
from sarsteer.federated import fixed_point, privacy
from sarsteer.federated.identity import Identity
from sarsteer.federated.plan import Plan, make_plan
from sarsteer.federated.privacy import Privacy
from sarsteer.federated.simulate import keys_for, part, simulate, unequal
from sarsteer.federated.site import Tamper
from sarsteer.federated.wire import Message
from sarsteer.files import write_text
from sarsteer.models.fingerprint import Fingerprint
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.stats.rates import rate
from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.fit import fit_gate
from sarsteer.steering.gate.nested import auroc
from sarsteer.steering.pooled.artifact import steering_of
from sarsteer.steering.pooled.calibration import Pooled
from sarsteer.steering.pooled.collect import collect, collected
from sarsteer.steering.pooled.rounds import Query, answer, layout_of
from sarsteer.steering.pooled.setting import Rows, Setting
from sarsteer.steering.pooled.sketch import centered, reconstruct
from sarsteer.steering.pooled.sums import Sums, size
from sarsteer.steering.subspace import ablate, safe_subspace

K, RANK, ONLY_SAFE = 10, 320, 2
"""RANK is above the rank of the twins' activations in both models."""
RANKS = (16, 64, 128, RANK)
SITES = (3, 10, 30)
EPSILONS = (1e4, 1e3, 100.0, 8.0)
DRAWS = 5
"""Of the noise, for each ε."""
SPOKEN = "Please answer the question in the audio."
"""The instruction of sarsteer-small's demo; other models get the paper's."""

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Study:
    """Activations, and what every plan has in common."""

    name: str
    fingerprint: Fingerprint
    instruction: str
    rows: Rows
    test: Rows
    center: torch.Tensor
    folder: Path

    @classmethod
    def load(cls, model: str, pairs: str, benign: str, folder: Path, limit: int | None, test: int | None) -> Study:
        """Compute the activations, or read those that are there."""
        record = folder / "plan.safetensors"
        if not record.is_file():
            source = sarsteer.load_model(model, device="cpu", dtype="float32")
            instruction = SPOKEN if model == "sarsteer-small" else INSTRUCTION
            for split, count in (("calibration", limit), ("test", test)):
                chosen = load_pairs(pairs, split, limit=count)
                others: Sequence[Item] = [] if benign == "none" else load_benign(benign, split, limit=count)
                collect(source, chosen, others, instruction, REFUSAL_PROMPT, folder / split, batch_size=16)
            keys = {name: key.public for name, key in keys_for(3).items()}
            make_plan(source, keys, instruction, REFUSAL_PROMPT).save(record)
        plan = Plan.load(record)
        rows, tested = (collected(folder / split) for split in ("calibration", "test"))
        return cls(model, plan.fingerprint, plan.instruction, rows, tested, plan.setting.center, folder)

    @property
    def farthest(self) -> float:
        """The smallest radius that shortens no clip, as a multiple of the center's norm."""
        norms = self.center.norm(dim=-1)
        clips = [(tensor(x) - self.center).norm(dim=-1) / norms for x in (self.rows.harmful, self.rows.safe)]
        changes = (tensor(self.rows.prompted) - tensor(self.rows.harmful)).norm(dim=-1) / norms
        return max(float(x.max()) for x in (*clips, changes))

    def setting(self, rank: int, radius: float = 8.0) -> Setting:
        """What sums have in common."""
        groups = [tuple(sorted({x.group for x in items})) for items in (self.rows.pair_items, self.rows.benign_items)]
        return Setting(groups[0], groups[1], self.center, radius * self.center.norm(dim=1), rank)

    def plan(self, keys: Mapping[str, Identity], rank: int, radius: float = 8.0, **options: Any) -> Plan:
        """A plan of the sites that own ``keys``."""
        values = {"min_sites": 2 * len(keys) // 3 + 1, **options}
        public = {name: key.public for name, key in keys.items()}
        return Plan(
            {"name": self.name}, self.fingerprint, self.instruction, REFUSAL_PROMPT, self.setting(rank, radius), public,
            **values,
        )  # fmt: skip

    def pooled(self, rows: Rows | None = None) -> Steering:
        """Ordinary calibration on all clips together, gate included; stored in the folder."""
        rows = self.rows if rows is None else rows
        path = self.folder / f"pooled-{len(rows.pair_items)}-{len(rows.benign_items)}.safetensors"
        if path.is_file():
            return Steering.load(path)
        harmful, prompted, safe, benign = map(tensor, (rows.harmful, rows.prompted, rows.safe, rows.benign))
        basis, values, mean = safe_subspace(safe)
        tensors = {
            "refusal": (prompted.double() - harmful.double()).mean(0).float(),
            "safe_basis": basis,
            "singular_values": values,
            "safe_mean": mean,
            "harmful_mean": harmful.double().mean(0).float(),
            "activation_norms": harmful.norm(dim=-1).median(dim=0).values,
        }
        gate, reason = None, None
        try:
            gate = fit_gate(
                harmful, safe, benign=benign, pair_groups=[item.group for item in rows.pair_items],
                benign_groups=[item.group for item in rows.benign_items],
            )  # fmt: skip
        except CalibrationError as error:
            reason = str(error)
        counts = {"pairs": len(harmful), "benign": len(benign)}
        found = Pooled(tensors, counts, gate, reason)
        steering = steering_of(found, {"name": self.name}, self.fingerprint, self.instruction, REFUSAL_PROMPT, {})
        steering.save(path)
        return steering

    def share(self, keys: Mapping[str, Identity], rows: Rows | None = None) -> dict[str, Rows]:
        """The clips of each site; with ten or more, the first two have only safe ones."""
        names = list(keys)
        return unequal(self.rows if rows is None else rows, names, 0, names[:ONLY_SAFE] if len(names) >= 10 else ())


def tensor(rows: Any) -> torch.Tensor:
    """In memory: a mapped file is read-only."""
    return rows if torch.is_tensor(rows) else torch.as_tensor(np.array(rows))


def compared(steering: Steering, expected: Steering) -> Row:
    """The largest principal angle in degrees, ``‖Δv‖/‖v‖``, and the cosine between the refusal vectors."""
    k = min(K, steering.max_k, expected.max_k)
    worst = 0.0
    for layer in range(len(expected.refusal)):
        if k:
            one, other = (x.safe_basis[layer, :k].double() for x in (steering, expected))
            worst = max(worst, math.degrees(math.acos(min(1.0, float(torch.linalg.svdvals(one @ other.T).min())))))
    mine, target = (ablate(x.refusal, x.safe_basis, k, 1.0).double() for x in (steering, expected))
    cosine = torch.nn.functional.cosine_similarity(steering.refusal.double(), expected.refusal.double(), dim=1)
    return {
        "k": k,
        "angle": worst,
        "change": float((mine - target).norm() / target.norm()),
        "cosine": float(cosine.mean()),
    }


def judged(steering: Steering, test: Rows) -> Row:
    """AUROC on the test requests, with a bootstrap interval, and the shares that open the gate."""
    gate = steering.gate
    if gate is None:
        return {"no_gate": steering.metadata["no_gate"]}
    harmful, safe = tensor(test.harmful), torch.cat([tensor(test.safe), tensor(test.benign)])
    scores = [gate.score(x).double().numpy() for x in (harmful, safe)]
    generator = np.random.default_rng(0)

    def area(harmful: Any, safe: Any) -> float:
        return auroc(np.repeat([1, 0], [len(harmful), len(safe)]), np.concatenate([harmful, safe]))

    draws = []
    for _ in range(1000):  # a pair's two clips are drawn together
        pairs = generator.integers(0, len(scores[0]), len(scores[0]))
        others = generator.integers(len(scores[0]), len(scores[1]), len(scores[1]) - len(scores[0]))
        draws.append(area(scores[0][pairs], scores[1][np.concatenate([pairs, others])]))
    opened = {}
    for name, clips in (("harmful", harmful), ("safe", safe)):
        found = rate((gate.strength(clips) > 0).tolist())
        opened[name] = [found.value, found.low, found.high, found.n]
    return {"auroc": [area(*scores), *(float(np.quantile(draws, q)) for q in (0.025, 0.975))], "opens": opened}


class Table:
    """Rows that are stored as soon as they are known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = json.loads(path.read_text()) if path.is_file() else {}

    def row(self, key: str, compute: Callable[[], Row]) -> Row:
        """The stored row, or a new one."""
        if key not in self.rows:
            self.rows[key] = compute()
            write_text(self.path, json.dumps(self.rows, indent=1, ensure_ascii=False) + "\n")
            print(key, json.dumps(self.rows[key], ensure_ascii=False), flush=True)
        return self.rows[key]


# ---- honest sites ------------------------------------------------------------------------------------------------


def exactness(study: Study, table: Table) -> None:
    """Over r, n and sites."""
    count = len(study.rows.pair_items)
    for n in sorted({count // 2, count}):
        rows = part(study.rows, range(n), range(len(study.rows.benign_items) * n // count))
        expected = study.pooled(rows)
        table.row(f"exact/pooled/{n}", lambda rows=rows, expected=expected: judged(expected, study.test))  # type: ignore[misc]
        for sites, rank in [(10, rank) for rank in RANKS if n == count or rank == RANK] + (
            [(sites, 64) for sites in SITES if sites != 10] if n == count else []
        ):

            def compute(rows: Rows = rows, expected: Steering = expected, rank: int = rank, sites: int = sites) -> Row:
                keys = keys_for(sites)
                plan = study.plan(keys, rank, masked=False)  # masks change nothing: see federated_answers
                steering, _ = simulate(plan, keys, study.share(keys, rows))
                return {**compared(steering, expected), **judged(steering, study.test)}

            table.row(f"exact/{n}/{sites}/{rank}", compute)


def private(study: Study, table: Table) -> None:
    """Over ε: vectors alone (2 rounds, no second moments) and with a gate (5 rounds)."""
    expected, radius = study.pooled(), study.farthest
    keys = keys_for(10)
    shared = study.share(keys)
    for epsilon in EPSILONS:
        for gate in (False, True):

            def compute(epsilon: float = epsilon, gate: bool = gate) -> Row:
                noise = Privacy.for_epsilon(epsilon, 1e-5, 5 if gate else 2)
                found: Row = {"multiplier": noise.multiplier, "draws": []}
                for _ in range(DRAWS):
                    try:
                        noisy, _ = simulate(
                            study.plan(keys, 0, radius, privacy=noise, gate=gate, masked=False), keys, shared
                        )
                    except SarsteerError as error:
                        found["draws"].append({"error": str(error)})
                        continue
                    found["draws"].append({**compared(noisy, expected), **(judged(noisy, study.test) if gate else {})})
                return found

            table.row(f"private/{epsilon:g}/{'gate' if gate else 'vectors'}", compute)


# ---- dishonest sites ---------------------------------------------------------------------------------------------


def flipped(rows: Rows) -> Rows:
    """A site that swaps its labels."""
    return Rows(rows.safe, rows.prompted, rows.harmful, rows.benign, rows.pair_items, rows.benign_items)


def calls_everything_harmful(rows: Rows) -> Rows:
    """A site that submits its other safe requests as harmful ones, so that the gate opens for speech like them."""
    n = min(len(rows.pair_items), len(rows.benign_items))
    harmful = tensor(rows.harmful).clone()
    harmful[:n] = tensor(rows.benign)[:n]
    return Rows(harmful, rows.prompted, rows.safe, rows.benign, rows.pair_items, rows.benign_items)


def false_scores(setting: Setting, *, highest: bool, more: float = 0.0, claimed: bool = False) -> Tamper:
    """A site whose safe clips have the highest, or lowest, score when the threshold is set, and ``more`` of them.

    With ``claimed`` it counts ``more`` safe requests in the first round, too.
    """

    def tamper(query: Query, sums: Sums) -> Sums:
        if query.name == "statistics" and claimed:
            return Sums({**sums, "benign": sums["benign"] + more})
        if query.name != "threshold":
            return sums
        changed = {}
        for name, one in sums.items():  # with the distance limit, and without
            counts, scores = one.sum(-1), torch.zeros_like(one)
            scores[~setting.harmful, -2 if highest else 1] = counts[~setting.harmful]
            scores[-1, -2 if highest else 1] += more  # the last class has requests without a twin
            scores[setting.harmful, -2] = counts[setting.harmful]
            changed[name] = scores
        return Sums(changed)

    return tamper


def scaled(factor: float) -> Tamper:
    """A site that sends its differences times ``factor``."""

    def tamper(query: Query, sums: Sums) -> Sums:
        return Sums({name: factor * one if name == "difference" else one for name, one in sums.items()})

    return tamper


AGGREGATIONS: Mapping[str, Mapping[str, Any]] = {
    "masked": {},
    "3 cohorts, robust": {"cohorts": 3, "robust": True, "min_sites": 5},
    "unmasked, robust": {"masked": False, "robust": True, "min_sites": 3},
}
ATTACKED_RANK = 0
"""No second moments: each of many runs takes a second, and the gate has the difference of means."""


def attacked(study: Study, table: Table) -> None:
    """Each attack under each way to add up; the attacker is the site with most pairs."""
    keys = keys_for(10)
    shared = study.share(keys)
    largest = max(shared, key=lambda name: len(shared[name].pair_items))
    mine, setting, expected = shared[largest], study.setting(ATTACKED_RANK), study.pooled()
    attacks: dict[str, tuple[dict[str, Tamper], dict[str, Rows]]] = {
        "none": ({}, shared),
        "swaps its labels": ({}, {**shared, largest: flipped(mine)}),
        "calls its everyday requests harmful": ({}, {**shared, largest: calls_everything_harmful(mine)}),
        "open never: false scores for its clips": ({largest: false_scores(setting, highest=True)}, shared),
        "open always: false scores for its clips": ({largest: false_scores(setting, highest=False)}, shared),
        "open always: 1,000 scores more": ({largest: false_scores(setting, highest=False, more=1000)}, shared),
        "open always: 1,000 clips more in all rounds": (
            {largest: false_scores(setting, highest=False, more=1000, claimed=True)},
            shared,
        ),
        "differences × −20": ({largest: scaled(-20.0)}, shared),
        "differences × −1,000": ({largest: scaled(-1000.0)}, shared),
    }
    for name, (tamper, rows) in attacks.items():
        for how, options in AGGREGATIONS.items():

            def compute(
                tamper: dict[str, Tamper] = tamper, rows: dict[str, Rows] = rows, options: Mapping[str, Any] = options
            ) -> Row:
                try:
                    result, _ = simulate(study.plan(keys, ATTACKED_RANK, **options), keys, rows, tamper=tamper)
                except SarsteerError as error:
                    return {"error": str(error)}
                left = sorted({site for one in result.metadata["federated"]["rounds"] for site in one["left_out"]})
                return {
                    "attacker": largest,
                    "attacker_left_out": largest in left,
                    "honest_left_out": len(set(left) - {largest}),
                    **compared(result, expected),
                    **judged(result, study.test),
                }

            table.row(f"attack/{name}/{how}", compute)


# ---- what a sum reveals ------------------------------------------------------------------------------------------


def members(study: Study, table: Table) -> None:
    """Whether a clip is recognized in a sum: AUROC of clips in the sum against clips like them.

    The attacker has the sums of the twins, candidates, and as reference the twins of the test split. ``mean`` compares
    a candidate with the mean; ``span`` measures how far it is from the span of the second moments.
    """
    safe = tensor(study.rows.safe)
    reference = tensor(study.test.safe).double().mean(0)
    half = len(safe) // 2
    for n in (5, 50, half):
        for rank, epsilon in ((0, None), (RANK, None), (0, 1e3), (0, 8.0)):

            def compute(n: int = n, rank: int = rank, epsilon: float | None = epsilon) -> Row:
                setting = study.setting(rank, study.farthest)
                query = Query("statistics")
                layout, sums = layout_of(setting, query), answer(setting, query, part(study.rows, range(n), []))
                if epsilon is not None:
                    multiplier = Privacy.for_epsilon(epsilon, 1e-5, 5).multiplier
                    sums = Sums.unpacked(sums.packed(layout) + privacy.noise(layout, multiplier, 1), layout)
                mean = setting.center + sums["safe"] / n
                x = safe.double()
                found = {"mean": ((x - reference) * (mean - reference)).sum((1, 2)).numpy()}
                if rank:
                    near = torch.zeros(len(x), dtype=torch.float64)
                    for layer in range(setting.layers):
                        sketch = centered(sums["safe_sketch"][layer], sums["safe"][layer], n, setting.omega)
                        basis, _ = reconstruct(sketch, setting.omega)
                        rest = x[:, layer] - mean[layer]
                        rest = rest - rest @ basis.T @ basis
                        near -= rest.norm(dim=1) / (x[:, layer] - mean[layer]).norm(dim=1)
                    found["span"] = near.numpy()
                labels = np.repeat([1, 0], [n, half])
                return {
                    name: auroc(labels, np.concatenate([scores[:n], scores[half : 2 * half]]))
                    for name, scores in found.items()
                }

            table.row(f"members/{n}/{rank}/{'none' if epsilon is None else f'{epsilon:g}'}", compute)


# ---- payload -----------------------------------------------------------------------------------------------------


def payload(table: Table) -> None:
    """What a site of 32 layers x 4096 sends in the statistics round: serialized, and through the masked protocol."""
    layers, width = 32, 4096
    fingerprint = Fingerprint("shape", layers, width, 1, "float32", "0" * 64, (1.0,) * layers)
    center, radius = torch.zeros(layers, width, dtype=torch.float64), torch.full((layers,), 1e3, dtype=torch.float64)

    def count(rank: int) -> int:
        layout = layout_of(Setting(("twin", "borderline"), (), center, radius, min(rank, 16)), Query("statistics"))
        more = sum(one.shape[0] * one.shape[1] for name, one in layout.items() if name.endswith("_sketch"))
        return size(layout) + more * max(rank - 16, 0)

    for rank in (0, 16, 64, 256, width):

        def serialized(rank: int = rank) -> Row:
            numbers = count(rank)
            row: Row = {"numbers": numbers, "computed_bytes": 8 * numbers}
            if rank <= 64:  # more would not fit beside other work
                words = fixed_point.encode(np.random.default_rng(0).standard_normal(numbers), 2.0**42, 65536)
                began = time.process_time()
                row["message_bytes"] = len(Message("sums", {}, {"words": words}).to_bytes())
                row["cpu_seconds"] = time.process_time() - began
            return row

        table.row(f"payload/{rank}", serialized)

    def protocol(rank: int) -> Row:
        setting = Setting(("twin",), (), center, radius, rank)
        keys = keys_for(3)
        x = torch.randn(2, layers, width, generator=torch.Generator().manual_seed(0))
        items = [Item(str(i), str(i), "safe", "text", pair=str(i)) for i in range(2)]
        rows = {name: Rows(x, x + 1, -x, x[:0], items, []) for name in keys}
        public = {name: key.public for name, key in keys.items()}
        plan = Plan({"name": "shape"}, fingerprint, "t", "p", setting, public, 3, gate=False)
        began = time.process_time()
        _, transport = simulate(plan, keys, rows)
        sent, received = (max(counts.values()) for counts in (transport.received, transport.sent))
        return {"site_sends": sent, "site_receives": received, "cpu_seconds": time.process_time() - began}

    for rank in (0, 16):
        table.row(f"payload/protocol/{rank}", lambda rank=rank: protocol(rank))  # type: ignore[misc]


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="sarsteer-tiny")
    parser.add_argument("--pairs", default="sarsteer-tiny")
    parser.add_argument("--benign", default="none")
    parser.add_argument("--limit", type=int, help="pairs, and benign requests, of calibration")
    parser.add_argument("--test", type=int, help="pairs, and benign requests, to test on")
    parser.add_argument("--folder", type=Path, help="for activations, which are computed once")
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON")
    parser.add_argument("--parts", nargs="+", default=["exactness", "members", "private", "attacked"])
    parser.add_argument("--payload", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(arguments.out)
    if arguments.payload:
        payload(table)
        return
    study = Study.load(
        arguments.model, arguments.pairs, arguments.benign, arguments.folder, arguments.limit, arguments.test
    )
    table.row(
        "about",
        lambda: {
            "model": arguments.model,
            "fingerprint": study.fingerprint.digest,
            "pairs": len(study.rows.pair_items),
            "benign": len(study.rows.benign_items),
            "test_pairs": len(study.test.pair_items),
            "test_benign": len(study.test.benign_items),
            "farthest": study.farthest,
        },
    )
    for name in arguments.parts:
        {"exactness": exactness, "private": private, "attacked": attacked, "members": members}[name](study, table)


if __name__ == "__main__":
    main()
