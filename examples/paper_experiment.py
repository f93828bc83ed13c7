"""The paper's experiment on a published checkpoint: no defense, its refusal prompt, SARSteer.

    python examples/paper_experiment.py qwen2-audio --calibration train.jsonl --test test.jsonl --out results/
    python examples/paper_experiment.py qwen2-audio --calibration train.jsonl --test test.jsonl --dry-run

Manifests hold harmful clips with their safe twins (README). A run that is killed goes on where it was: calibration
from its checkpoint, answers from the files in the output folder. ``--dry-run`` does all that can be done without
weights: it checks the data, builds the architecture at its full size without memory, finds its decoder layers, and says
what is missing.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers

import sarsteer
from sarsteer.data.overlap import check_disjoint
from sarsteer.errors import SarsteerError
from sarsteer.judges.keywords import is_refusal
from sarsteer.models.families.registry import family_named
from sarsteer.models.layers import hidden_size
from sarsteer.prompts import INSTRUCTION, REFUSAL_PROMPT
from sarsteer.stats.rates import balanced_refusal_rate, rate
from sarsteer.steering.diagnostics import findings

# checkpoint; class; configuration, and where its defaults in transformers are not the published shape
MODELS = {
    "qwen2-audio": (
        "Qwen/Qwen2-Audio-7B-Instruct",
        "Qwen2AudioForConditionalGeneration",
        "Qwen2AudioConfig",
        {"text_config": {"model_type": "qwen2", "intermediate_size": 11008, "vocab_size": 156032}},
    ),
    "qwen2.5-omni": (
        "Qwen/Qwen2.5-Omni-7B",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        "Qwen2_5OmniThinkerConfig",
        {"vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}},
    ),
    "voxtral": ("mistralai/Voxtral-Mini-3B-2507", "VoxtralForConditionalGeneration", "VoxtralConfig", {}),
    "embedded": ("sarsteer-tiny", "", "", {}),  # to try this script itself
}


def main():
    """Data, calibration, three arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--calibration", required=True, help="manifest of calibration pairs (100 in the paper)")
    parser.add_argument("--test", required=True, help="manifest of other pairs")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dry-run", action="store_true", help="stop where weights are needed")
    args = parser.parse_args()
    calibration = sarsteer.load_pairs(args.calibration, "calibration")
    test = sarsteer.load_pairs(args.test, "test")
    check_disjoint([*calibration.harmful, *calibration.safe], [*test.harmful, *test.safe])
    print(f"data: {len(calibration)} calibration pairs, {len(test)} test pairs, nothing shared")
    name, *shape = MODELS[args.model]
    if args.dry_run:
        dry_run(name, *shape)
        return

    args.out.mkdir(parents=True, exist_ok=True)
    model = sarsteer.load_model(name, dtype=None if name == "sarsteer-tiny" else "bfloat16")
    steering = calibrated(model, calibration, args.out / "steering.safetensors", args.batch_size)
    for note in findings(steering.report(args.alpha, args.k)):
        print("note:", note)
    arms = {
        "no defense": (INSTRUCTION, None),
        "refusal prompt": (INSTRUCTION + REFUSAL_PROMPT, None),
        "SARSteer": (INSTRUCTION, steering),
    }
    print("refusals are told by keywords, which is crude; judge the answers in the folder for figures to publish")
    for arm, (text, vectors) in arms.items():
        file = args.out / f"{arm.replace(' ', '-')}.jsonl"
        settings = {"text": text, "alpha": args.alpha if vectors else None, "k": args.k if vectors else None}
        said = answers(model, [p.harmful for p in test] + [p.safe for p in test], settings, vectors, file, args)
        refused = [is_refusal(answer) for answer in said]
        harmful, safe = refused[: len(test)], refused[len(test) :]
        print(f"{arm}: RR harmful {rate(harmful)}, RR safe {rate(safe)}, BRR {balanced_refusal_rate(harmful, safe)}")


def calibrated(model, pairs, file, batch_size):
    """The steering in ``file``, or a new one."""
    if file.exists():
        return sarsteer.Steering.load(file)

    def progress(done, total):
        print(f"\rcalibrating {done}/{total}", end="", flush=True)

    checkpoint = file.with_suffix(".partial")
    steering = sarsteer.calibrate(model, pairs, batch_size=batch_size, checkpoint=checkpoint, progress=progress)
    print()
    steering.save(file)
    return steering


def answers(model, items, settings, steering, file, args):
    """Answers in the order of ``items``; those that the file holds under the same settings are not made again."""
    key = json.dumps({**settings, "model": model.fingerprint.digest, "tokens": args.max_new_tokens}, sort_keys=True)
    held = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        if row["key"] == key:
            held[row["id"], row["content"]] = row["answer"]
    missing = [item for item in items if (item.id, item.content_digest.hex()) not in held]
    handle = steering.attach(model, args.alpha, args.k) if steering is not None and missing else None
    try:
        with open(file, "a", encoding="utf-8") as out:
            for start in range(0, len(missing), args.batch_size):
                batch = missing[start : start + args.batch_size]
                said = model.generate([item.turn(settings["text"]) for item in batch], args.max_new_tokens)
                for item, answer in zip(batch, said, strict=True):
                    held[item.id, item.content_digest.hex()] = answer
                    row = {"key": key, "id": item.id, "content": item.content_digest.hex(), "answer": answer}
                    out.write("\n" + json.dumps(row, ensure_ascii=False))
                out.flush()
                print(f"\r{file.stem} {start + len(batch)}/{len(missing)}", end="", flush=True)
    finally:
        if handle is not None:
            handle.remove()
    print()
    return [held[item.id, item.content_digest.hex()] for item in items]


def dry_run(name, architecture, config, changes):
    """Everything up to the weights."""
    family = family_named(architecture)
    if family is None:
        raise SystemExit(f"error: {name} needs no dry run: it is in the package")
    with torch.device("meta"):  # shapes without memory
        model = getattr(transformers, architecture)(getattr(transformers, config)(**changes))
    layers = sarsteer.find_decoder_layers(model)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"architecture: {architecture} ({family.name}), {len(layers)} decoder layers of {hidden_size(model)}")
    print(f"memory: {2 * size / 1e9:.0f} GB of weights in bfloat16; GPUs here: {torch.cuda.device_count()}")
    try:
        sarsteer.load_model(name, device="meta")
        print("weights: there; run again without --dry-run")
    except SarsteerError as error:
        print(f"weights: needed from here on ({error})")


if __name__ == "__main__":
    try:
        main()
    except SarsteerError as error:
        raise SystemExit(f"error: {error}") from None
