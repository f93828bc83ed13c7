"""What a gate costs beside always-on steering, interleaved in one run: ``python -m benchmarks.gate_speed``.

Prefill is one new token, decoding many; attaching is paid once and left out. The gate decides by score and distance,
and lets half of the rows through. Adds its rows to ``benchmarks/results.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers as T

import sarsteer
from benchmarks.run import HERE, interleave, large, seconds
from sarsteer.models.base import AudioLanguageModel, Prompt
from sarsteer.steering.calibration import INSTRUCTION
from sarsteer.steering.distance import fit_distance
from sarsteer.steering.gate import Gate
from sarsteer.steering.hooks import attach


def gate_of(model: AudioLanguageModel, prompts: list[Prompt]) -> Gate:
    """At the middle layer, open to half of ``prompts``, with a distance of full rank."""
    layer = len(model.decoder_layers) // 2
    seen = model.last_token_activations(prompts)[:, layer]
    weight = torch.nn.functional.normalize(seen.var(0), dim=0)
    distance = fit_distance(seen, torch.arange(len(seen)) % 2)
    # of full rank, as from many pairs
    basis = torch.linalg.qr(torch.randn(seen.shape[1], 64))[0].T.contiguous()
    full = type(distance)(distance.means, basis, torch.ones(64), distance.residual_precision)
    return Gate(layer, weight, 0.0, float((seen @ weight).median()), distance=full, limit=1e6)


def compare(model: AudioLanguageModel, prompts: list[Prompt], gate: Gate, rounds: int, tokens: int) -> dict[str, Any]:
    """Gated / always on; the same answers' length on both sides."""
    vectors = 1e-3 * torch.randn(len(model.decoder_layers), model.hidden_size)

    def side(chosen: Gate | None) -> float:
        with attach(model.module, model.decoder_layers, vectors, 0.1, gate=chosen):
            return seconds(lambda: model.generate(prompts, tokens, min_new_tokens=tokens, batch_size=len(prompts)))

    return interleave(lambda: side(gate), lambda: side(None), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    T.logging.set_verbosity_error()
    T.logging.disable_progress_bar()
    tiny = sarsteer.load_model("sarsteer-tiny", device="cpu")
    items = sarsteer.load_pairs("sarsteer-tiny").harmful[:8]
    results = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for name, model, decoded in (("sarsteer-tiny", tiny, 32), ("random 100M", large(tiny.processor), 24)):
        heard = model.prepare([sarsteer.user_turn(item.audio, INSTRUCTION) for item in items])
        gate = gate_of(model, heard)
        for what, tokens in (("prefill", 1), ("decode", decoded)):
            for batch in (1, 8):
                found = compare(model, heard[:batch], gate, args.rounds, tokens)
                results[f"{what} gated / always on, {name}, batch {batch}"] = found
                low, high = found["quartiles"]
                print(f"{what}, {name}, batch {batch}: {found['ratio']:.3f} ({low:.3f} to {high:.3f})", flush=True)
    args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
