"""Write the trained parts into the package, and read them back to train on: ``python -m training.small.pack``."""

from __future__ import annotations

import argparse

import torch

from sarsteer.small.checkpoint import TRAINED
from sarsteer.small.design import ENCODER
from sarsteer.small.weights import read_weights, write_weights
from training.small.network import save
from training.small.settings import READING


def pack() -> None:
    """From the newest checkpoint of the second stage."""
    state = torch.load(READING)
    TRAINED.parent.mkdir(exist_ok=True)
    parts: dict[str, dict[str, torch.Tensor]] = {"hearing": {}, "lora": {}}
    for name, value in state["average"].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    write_weights(TRAINED, parts["hearing"], parts["lora"], ENCODER)
    print(f"{TRAINED}: {TRAINED.stat().st_size / 1e6:.1f} MB, step {state['step']}")


def unpack() -> None:
    """Start the second stage from the package's weights, where there is no newer checkpoint."""
    if READING.exists() or not TRAINED.exists():
        return
    hearing, lora, _ = read_weights(TRAINED)
    READING.parent.mkdir(parents=True, exist_ok=True)
    save({"hearing": hearing, "lora": lora, "step": 0}, READING)
    print(f"training resumes from {TRAINED}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unpack", action="store_true", help="the other way: from the package into the work folder")
    unpack() if parser.parse_args().unpack else pack()


if __name__ == "__main__":
    main()
