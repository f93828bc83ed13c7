"""Time to identify a model of Qwen2-Audio's 7B shape: ``python -m benchmarks.fingerprint``.

Writes ``benchmarks/fingerprint.json``. The weights are views of one element, so no memory is needed: sampling reads
a few elements of each parameter, whatever its size. The floor is to list all parameters once by name, which every check
of a whole model must do; the decoder alone is what earlier versions sampled.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from sarsteer.models.fingerprint import fingerprint_of, fingerprint_of_weights
from sarsteer.models.layers import find_decoder_layers

RUNS = 15


def seconds(work: Callable[[], object]) -> float:
    """Median processor time of several runs, after one that is not measured."""
    work()
    times = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


def shaped_like_7b() -> torch.nn.Module:
    """Qwen2-Audio with its default configuration (32 layers of width 4096), in bfloat16."""
    with torch.device("meta"):
        module = transformers.Qwen2AudioForConditionalGeneration(transformers.Qwen2AudioConfig())
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            value = torch.ones(1, dtype=torch.bfloat16).expand(parameter.shape)
            setattr(part, name, torch.nn.Parameter(value, requires_grad=False))
    return module


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    module = shaped_like_7b()
    layers = find_decoder_layers(module)
    found = {
        "parameters": sum(1 for _ in module.parameters()),
        "floor_s": seconds(lambda: list(module.named_parameters())),
        "decoder_s": seconds(
            lambda: fingerprint_of_weights(
                (dict(layer.named_parameters()) for layer in layers), architecture="", hidden_size=4096, vocabulary=0
            )
        ),
        "whole_s": seconds(lambda: fingerprint_of(module, layers)),
        "json_bytes": len(fingerprint_of(module, layers).to_json()),
    }
    found["whole_to_decoder"] = found["whole_s"] / found["decoder_s"]
    found["whole_to_floor"] = found["whole_s"] / found["floor_s"]
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
