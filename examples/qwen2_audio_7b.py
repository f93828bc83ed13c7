"""Calibrate and run Qwen2-Audio-7B-Instruct on your own pairs.

    python examples/qwen2_audio_7b.py my-pairs.jsonl clip.wav

Needs the checkpoint (16 GB in bfloat16) and a GPU with enough memory. Run it again to resume a stopped calibration.
"""

import argparse
from pathlib import Path

import sarsteer
from sarsteer.audio import load_clip
from sarsteer.steering.diagnostics import findings

MODEL = "Qwen/Qwen2-Audio-7B-Instruct"


def main() -> None:
    """Calibrate if there is no steering file, and answer one request with and without it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="manifest of harmful clips and safe twins (JSON Lines)")
    parser.add_argument("clip", type=Path, help="a clip to answer")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--steering", type=Path, default=Path("qwen2-audio-7b.safetensors"))
    parser.add_argument("--alpha", type=float, default=0.1)
    args = parser.parse_args()

    clip = load_clip(args.clip)  # before the large model, so that a wrong path is reported at once
    pairs = None if args.steering.exists() else sarsteer.load_pairs(args.pairs)
    model = sarsteer.load_model(args.model, dtype=None if args.model == "sarsteer-tiny" else "bfloat16")
    if pairs is None:
        steering = sarsteer.Steering.load(args.steering)
    else:
        steering = sarsteer.calibrate(
            model,
            pairs,
            checkpoint=args.steering.with_suffix(".partial"),
            progress=lambda done, total: print(f"\rcalibrating {done}/{total}", end="", flush=True),
        )
        print()
        steering.save(args.steering)
    for note in findings(steering.report(args.alpha)):
        print("note:", note)

    request = sarsteer.user_turn(clip, steering.metadata["instruction"])
    print("undefended:", model.generate([request])[0])
    with steering.on(model, alpha=args.alpha):
        print("defended:  ", model.generate([request])[0])


if __name__ == "__main__":
    try:
        main()
    except sarsteer.SarsteerError as error:  # the model is not there, a clip cannot be read, ...
        raise SystemExit(f"error: {error}") from None
