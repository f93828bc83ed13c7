"""Federated against pooled calibration: ``python benchmarks/federated.py MODEL --pairs PAIRS``.

Ten unequal sites, skewed by topic, against calibration on all clips together, over the rank r and the number of pairs
n: the largest principal angle between the safe subspaces (k = 10), ``‖Δv‖/‖v‖``, and the AUROC of the gate on test
pairs. Then the same over ε, and with a dishonest site. ``--payload`` measures what a site of Qwen2-Audio's shape sends
instead. Results are printed as Markdown.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

import sarsteer
from sarsteer.data.pairs import load_pairs
from sarsteer.errors import SarsteerError
from sarsteer.federated.plan import Plan, noise_activations
from sarsteer.federated.privacy import Privacy
from sarsteer.federated.simulate import keys_for, part, simulate, unequal
from sarsteer.federated.site import Tamper
from sarsteer.models.fingerprint import Fingerprint
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.fit import fit_gate
from sarsteer.steering.gate.gate import Gate
from sarsteer.steering.gate.nested import auroc
from sarsteer.steering.pooled.collect import collect
from sarsteer.steering.pooled.rounds import Query, layout_of
from sarsteer.steering.pooled.setting import Rows, Setting
from sarsteer.steering.pooled.sums import Sums, size
from sarsteer.steering.subspace import ablate, safe_subspace

K = 10


def pooled(rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Refusal vectors, basis and steering vectors of ordinary calibration."""
    harmful, prompted, safe = (torch.as_tensor(np.array(x)) for x in (rows.harmful, rows.prompted, rows.safe))
    refusal = (prompted.double() - harmful.double()).mean(0).float()
    basis, _, _ = safe_subspace(safe)
    return refusal, basis, ablate(refusal, basis, K, 1.0)


def area(gate: Gate | None, test: Rows | None) -> str:
    """AUROC on test pairs, and the shares of harmful and safe ones that open the gate."""
    if gate is None or test is None:
        return "no gate" if gate is None else "not measured"
    harmful, safe = (torch.as_tensor(np.array(x)) for x in (test.harmful, test.safe))
    scores = torch.cat([gate.score(harmful), gate.score(safe)]).numpy()
    opened = [100 * float((gate.strength(x) > 0).float().mean()) for x in (harmful, safe)]
    return f"{auroc(np.repeat([1, 0], [len(harmful), len(safe)]), scores):.3f} ({opened[0]:.0f} / {opened[1]:.0f})"


def compared(steering: Steering, expected: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> tuple[float, float]:
    """The largest principal angle in degrees, and ``‖Δv‖/‖v‖``."""
    refusal, basis, vectors = expected
    k = min(K, steering.max_k)
    worst = 0.0
    for layer in range(len(refusal)):
        if k:
            cosines = torch.linalg.svdvals(steering.safe_basis[layer, :k].double() @ basis[layer, :K].double().T)
            worst = max(worst, math.degrees(math.acos(min(1.0, float(cosines.min())))))
    mine = ablate(steering.refusal, steering.safe_basis, k, 1.0)
    target = vectors if k else refusal
    return worst, float((mine - target).norm() / target.norm())


def flipped(rows: Rows) -> Rows:
    """A site that swaps its labels."""
    return Rows(rows.safe, rows.prompted, rows.harmful, rows.benign, rows.pair_items, rows.benign_items)


def always_safe(setting: Setting) -> Tamper:
    """A site that reports safe clips with the highest scores, so that the gate stays closed."""

    def tamper(query: Query, sums: Sums) -> Sums:
        if query.name != "threshold":
            return sums
        scores = torch.zeros_like(sums["scores"])
        scores[~setting.harmful, -2] = 50.0
        return Sums({**sums, "scores": scores})

    return tamper


def reversed_refusal(query: Query, sums: Sums) -> Sums:
    """A site that sends its differences times −20."""
    return Sums({name: -20 * one if name == "difference" else one for name, one in sums.items()})


def payload() -> None:
    """What one of three sites of 32 layers x 4096 sends and receives, masked, over both rounds without a gate."""
    layers, width = 32, 4096
    fingerprint = Fingerprint("shape", layers, width, 1, "float32", "0" * 64, (1.0,) * layers)
    center, radius = torch.zeros(layers, width, dtype=torch.float64), torch.full((layers,), 1e3, dtype=torch.float64)
    print("| r | computed, statistics round (MB) | sent (MB) | received (MB) | seconds, 3 sites |")
    print("|---|---|---|---|---|")
    for rank in (0, 16, 64):
        setting = Setting(("twin",), (), center, radius, rank)
        computed = 8 * size(layout_of(setting, Query("statistics"))) / 1e6
        if rank == 64:
            print(f"| {rank} | {computed:.1f} | | | |")
            continue
        keys = keys_for(3)
        x = torch.randn(2, layers, width, generator=torch.Generator().manual_seed(0))
        items = [sarsteer.data.manifest.Item(str(i), str(i), "safe", "text", pair=str(i)) for i in range(2)]
        rows = {name: Rows(x, x + 1, -x, x[:0], items, []) for name in keys}
        sites = {name: key.public for name, key in keys.items()}
        plan = Plan({"name": "shape"}, fingerprint, "t", "p", setting, sites, 3, gate=False)
        began = time.perf_counter()
        _, transport = simulate(plan, keys, rows)
        sent, received = (max(counts.values()) / 1e6 for counts in (transport.received, transport.sent))
        print(
            f"| {rank} | {computed:.1f} | {sent:.1f} | {received:.1f} | {time.perf_counter() - began:.0f} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--pairs")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--test", type=int, default=0, help="test pairs for the gate")
    parser.add_argument("--folder", type=Path, help="for activations, which are computed once")
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--payload", action="store_true")
    arguments = parser.parse_args()
    if arguments.payload:
        payload()
        return
    model = sarsteer.load_model(arguments.model, device="cpu", dtype="float32")
    pairs = load_pairs(arguments.pairs, "calibration", limit=arguments.limit)
    rows = collect(model, pairs, [], INSTRUCTION, REFUSAL_PROMPT, arguments.folder / "calibration", batch_size=8)
    test = None
    if arguments.test:
        others = load_pairs(arguments.pairs, "test", limit=arguments.test)
        test = collect(model, others, [], INSTRUCTION, REFUSAL_PROMPT, arguments.folder / "test", batch_size=8)
    center = noise_activations(model, INSTRUCTION)
    groups = tuple(sorted({item.group for item in rows.pair_items}))
    keys = keys_for(arguments.sites)
    public = {name: key.public for name, key in keys.items()}
    distances = (torch.as_tensor(np.array(rows.harmful)) - center).norm(dim=-1)
    farthest = float((distances / center.norm(dim=-1)).max())  # the radius that shortens none of these
    print(f"{arguments.model}: {len(pairs)} pairs, {arguments.sites} sites; radius {farthest:.2f} with noise\n")

    def plan(rank: int, radius: float = 8.0, **options: object) -> Plan:
        setting = Setting(groups, (), center, radius * center.norm(dim=1), rank)
        values = {"min_sites": 2 * arguments.sites // 3 + 1, **options}
        return Plan(
            {"name": arguments.model}, model.fingerprint, INSTRUCTION, REFUSAL_PROMPT, setting, public, **values
        )

    print("| pairs | r | sites, masks | largest angle | ‖Δv‖/‖v‖ | gate: AUROC (opens, harmful / safe %) |")
    print("|---|---|---|---|---|---|")
    for n in sorted({len(pairs) // 2, len(pairs)}):
        chosen = part(rows, range(n), [])
        expected = pooled(chosen)
        harmful, safe = (torch.as_tensor(np.array(x)) for x in (chosen.harmful, chosen.safe))
        try:
            gate = fit_gate(harmful, safe)
        except SarsteerError:
            gate = None
        print(f"| {n} | – | ordinary calibration | – | – | {area(gate, test)} |", flush=True)
        shared = unequal(chosen, list(keys), seed=0)
        for rank in (16, 64, 128, 256):
            steering, _ = simulate(plan(rank), keys, shared)
            angle, change = compared(steering, expected)
            gated = area(steering.gate, test)
            print(f"| {n} | {rank} | {arguments.sites}, masked | {angle:.2g}° | {change:.1e} | {gated} |", flush=True)
        if n == len(pairs):
            steering, _ = simulate(plan(128, masked=False), keys, shared)
            angle, change = compared(steering, expected)
            print(
                f"| {n} | 128 | {arguments.sites}, plain | {angle:.2g}° | {change:.1e} | {area(steering.gate, test)} |"
            )

    print("\n| ε | noise multiplier | ‖Δr‖/‖r‖ | cos(r, r₀) | gate |\n|---|---|---|---|---|")
    for epsilon in (1e5, 1e3, 100.0, 8.0):
        privacy = Privacy.for_epsilon(epsilon, 1e-5, 5)
        try:
            noisy, _ = simulate(plan(0, farthest, privacy=privacy), keys, shared)
        except SarsteerError as error:
            print(f"| {epsilon:g} | {privacy.multiplier:.3g} | {error} | | |", flush=True)
            continue
        cosine = torch.nn.functional.cosine_similarity(noisy.refusal.flatten(), expected[0].flatten(), dim=0)
        print(f"| {epsilon:g} | {privacy.multiplier:.3g} | {compared(noisy, expected)[1]:.2g} | {float(cosine):.3f} | "
              f"{area(noisy.gate, test)} |", flush=True)  # fmt: skip

    print("\n| dishonest site | aggregation | left out | cos(r, r₀) | gate |\n|---|---|---|---|---|")
    largest = max(shared, key=lambda name: len(shared[name].pair_items))
    setting = plan(64).setting
    attacks = {
        "none": ({}, shared),
        "swaps its labels": ({}, {**shared, largest: flipped(shared[largest])}),
        "sends −20 times its differences": ({largest: reversed_refusal}, shared),
        "reports that safe clips score highest": ({largest: always_safe(setting)}, shared),
    }
    for name, (tamper, attacked) in attacks.items():
        for how, options in (
            ("masked sum", {}),
            ("plain, robust", {"masked": False, "robust": True, "min_sites": 3}),
        ):
            try:
                result, _ = simulate(plan(64, **options), keys, attacked, tamper=tamper)
            except SarsteerError as error:
                print(f"| {name} | {how} | {error} | | |", flush=True)
                continue
            left = sum(len(one["left_out"]) for one in result.metadata["federated"]["rounds"])
            cosine = torch.nn.functional.cosine_similarity(result.refusal.flatten(), expected[0].flatten(), dim=0)
            print(f"| {name} | {how} | {left} | {float(cosine):.3f} | {area(result.gate, test)} |", flush=True)


if __name__ == "__main__":
    main()
