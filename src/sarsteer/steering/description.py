"""What a steering file contains, as names and texts: ``sarsteer show`` prints them, the studio shows them."""

from __future__ import annotations

from typing import Any

from sarsteer.steering.artifact import Steering
from sarsteer.steering.gate.report import summary
from sarsteer.steering.provenance import described
from sarsteer.steering.strength import ResolvedStrength, describe_layers


def facts(steering: Steering, strength: ResolvedStrength) -> list[tuple[str, str]]:
    """Where the steering is from, and what it does at ``strength``."""
    meta, gate, suggestion = steering.metadata, steering.gate, steering.suggest()
    count = meta.get("benign", 0)
    benign = f"; {count} benign requests{_digest(meta, 'benign_digest')}" if count else ""
    return [
        ("model", f"{meta['model']['name']} ({meta['fingerprint']['architecture']})"),
        ("revision", meta["model"].get("revision") or "not recorded"),
        *([("origin", ", ".join(map(str, origin.values())))] if (origin := meta["model"].get("origin")) else []),
        ("calibrated on", f"{meta['pairs']} pairs{_digest(meta, 'pairs_digest')}{benign}"),
        *described(meta.get("made_from", {})).items(),
        *_federated(meta.get("federated")),
        ("harmful requests", _counted(meta.get("modalities", {}).get("harmful"))),
        ("instruction", meta["instruction"]),
        ("refusal prompt", meta["refusal_prompt"]),
        ("shape", f"{meta['layers']} layers of {meta['hidden_size']}, up to k = {steering.max_k}"),
        ("shown at", f"alpha {strength.alpha:g}, k {strength.k}, lambda {strength.lambda_:g}"),
        ("gate", f"none: {meta.get('no_gate', 'calibrated without one')}" if gate is None else summary(gate)),
        ("layers steered", describe_layers(steering.default_layer_weights)),
        (
            "suggested",
            f"alpha {suggestion.alpha:g}, k {suggestion.k}, lambda {suggestion.lambda_:g}: a starting point for tune",
        ),
        ("tuned", _tuned(meta.get("tuning"))),
        ("digest", steering.digest[:16]),
    ]


def _tuned(tuning: dict[str, Any] | None) -> str:
    if tuning is None:
        return "no; run sarsteer tune"
    before, after = tuning["undefended"]["asr"]["value"], tuning["chosen"]["asr"]["value"]
    n = tuning["pairs"]["tuning"]
    return f"on {n} pairs: ASR {100 * before:.0f} % undefended, {100 * after:.0f} % tuned; judge {tuning['judge']}"


def _counted(modalities: dict[str, int] | None) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in (modalities or {}).items()) or "not recorded"


def _digest(meta: dict[str, Any], key: str) -> str:
    """Nothing for a federated calibration: no one has all clips."""
    return f", {meta[key][:12]}" if key in meta else ""


def _federated(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    if record is None:
        return []
    rank = f"rank {record['rank']}" if record["rank"] else "no second moments"
    masks = "masked" if record["masked"] else "not masked"
    cohorts = f" in {record['cohorts']} cohorts" if record["cohorts"] > 1 else ""
    left = sum(len(one["left_out"]) for one in record["rounds"])
    lines = [
        (
            "federated",
            f"{len(record['sites'])} sites, {len(record['rounds'])} rounds, {rank}, {masks}{cohorts}"
            f"{f'; {left} left out' if left else ''}",
        )
    ]
    if (spent := record["privacy"]) is not None:
        lines.append(("privacy spent", f"epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}, per record"))
    return lines
