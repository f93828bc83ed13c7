"""Made-up sites: activations from a seed, without a model, so that hundreds of protocols run in seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sarsteer.data.manifest import Item
from sarsteer.federated.identity import Identity
from sarsteer.federated.plan import Plan
from sarsteer.models.fingerprint import Fingerprint, Part
from sarsteer.steering.pooled.setting import Rows, Setting

LAYERS, WIDTH = 4, 24
PAIR_GROUPS, BENIGN_GROUPS = ("twin", "borderline"), ("everyday",)


def fingerprint(dtype: str = "float32") -> Fingerprint:
    part = Part.of("decoder layers", [getattr(torch, dtype)], [torch.arange(8.0)])
    return Fingerprint("Toy", LAYERS, WIDTH, 10, dtype, "0" * 64, (1.0,) * LAYERS, (part,))


def rows_of(pairs: int, benign: int = 0, seed: int = 0, gap: float = 2.0) -> Rows:
    """Activations far from zero, as in real models, with a common structure and a gap between the labels."""
    shared = torch.Generator().manual_seed(123)
    mean = 5 * torch.randn(LAYERS, WIDTH, generator=shared)
    mixing = torch.randn(WIDTH, WIDTH, generator=shared) / WIDTH**0.5
    direction = torch.nn.functional.normalize(torch.randn(LAYERS, WIDTH, generator=shared), dim=-1)
    refusal = torch.randn(LAYERS, WIDTH, generator=shared)
    own = torch.Generator().manual_seed(seed)

    def noise(n: int) -> torch.Tensor:
        return torch.randn(n, LAYERS, WIDTH, generator=own) @ mixing

    harmful = mean + gap * direction + noise(pairs)
    prompted = harmful + refusal + 0.1 * noise(pairs)
    safe, others = mean + noise(pairs), mean - 0.3 * gap * direction + noise(benign)
    pair_items = [
        Item(f"{seed}-{i}", f"request {seed} {i}", "safe", "text", pair=str(i), extra={"group": PAIR_GROUPS[i % 2]})
        for i in range(pairs)
    ]
    benign_items = [
        Item(f"{seed}-b{i}", f"other {seed} {i}", "safe", "text", extra={"group": BENIGN_GROUPS[0]})
        for i in range(benign)
    ]
    return Rows(harmful, prompted, safe, others, pair_items, benign_items)


def setting_of(rank: int = WIDTH, center: torch.Tensor | None = None, **options: Any) -> Setting:
    center = rows_of(1, seed=99).safe[0].double() if center is None else center
    radius = torch.full((LAYERS,), 100.0, dtype=torch.float64)
    return Setting(PAIR_GROUPS, BENIGN_GROUPS, center, radius, rank, **options)


def plan_of(keys: Mapping[str, Identity], setting: Setting | None = None, **options: Any) -> Plan:
    values: dict[str, Any] = {"min_sites": 2 * len(keys) // 3 + 1, **options}
    return Plan(
        {"name": "toy", "revision": None, "family": "toy"},
        fingerprint(),
        "Answer.",
        " No.",
        setting_of() if setting is None else setting,
        {name: identity.public for name, identity in keys.items()},
        **values,
    )


def joined(*rows: Rows) -> Rows:
    return Rows(
        *(torch.cat([getattr(one, name) for one in rows]) for name in ("harmful", "prompted", "safe", "benign")),
        [item for one in rows for item in one.pair_items],
        [item for one in rows for item in one.benign_items],
    )


def store(rows: Rows, folder: Path) -> None:
    """Write ``rows`` as ``collect`` does, for sites that read them with ``collected``."""
    folder.mkdir(parents=True)
    for name in ("harmful", "prompted", "safe", "benign"):
        np.save(folder / f"{name}.npy", getattr(rows, name).numpy())
    items = {"pairs": [vars(item) for item in rows.pair_items], "benign": [vars(item) for item in rows.benign_items]}
    (folder / "items.json").write_text(json.dumps(items))
    status = {"settings": {}, "pairs": len(rows.pair_items), "benign": len(rows.benign_items)}
    (folder / "status.json").write_text(json.dumps(status))
