"""Build ``sarsteer-tiny`` and its clips: ``make tiny``, or ``python -m training.tiny.build``.

Stages (speak, encoder, answer, ship) save their results in ``--work``; finished stages are skipped, so that a stopped
build resumes.
"""

from __future__ import annotations

import argparse
import pickle
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from training.tiny import clips as clip_tools
from training.tiny import model as parts
from training.tiny.clips import SEED
from training.tiny.pretrain import pretrain
from training.tiny.train import train

PACKAGE = Path(__file__).parents[2] / "src" / "sarsteer" / "tiny"
TRAIN_SECONDS = clip_tools.SECONDS


def ship(short: torch.nn.Module, target: Path) -> None:
    """Save the weights with the standard 30 s window, in float16 (half the size; loaded as float32)."""
    tok = parts.tokenizer()
    full = parts.build(tok, 30)
    keep = {k: v for k, v in short.state_dict().items() if "embed_positions" not in k}
    missing, unexpected = full.load_state_dict(keep, strict=False)
    assert not unexpected, unexpected
    assert all("embed_positions" in key or "lm_head" in key for key in missing), missing
    full.tie_weights()
    full.generation_config.eos_token_id = tok.eos_token_id
    full.generation_config.pad_token_id = tok.pad_token_id
    full.generation_config.do_sample = False
    shutil.rmtree(target, ignore_errors=True)
    full.half().save_pretrained(target)
    parts.processor(tok).save_pretrained(target)
    # The file is float16 but the model runs in float32; transformers and vLLM read this field.
    config = target / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/embedded"), help="intermediate results")
    parser.add_argument("--out", type=Path, default=PACKAGE, help="folder for model/ and clips/")
    parser.add_argument("--clips", type=int, default=clip_tools.TRAIN_CLIPS, help="number of training clips")
    parser.add_argument("--encoder-steps", type=int, default=1600)
    parser.add_argument("--answer-steps", type=int, default=520)
    parser.add_argument("--polish-steps", type=int, default=340)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    random.seed(SEED)
    np.random.seed(SEED % 2**32)
    torch.manual_seed(SEED)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    spoken_file = args.work / f"clips-{args.clips}.pkl"  # a scratch file that only this script reads
    if spoken_file.exists():
        spoken = pickle.loads(spoken_file.read_bytes())
    else:
        spoken = clip_tools.training_clips(args.clips)
        spoken_file.write_bytes(pickle.dumps(spoken))
    print(f"{time.time() - started:.0f} s: {len(spoken)} clips")

    tok = parts.tokenizer()
    model = parts.build(tok, TRAIN_SECONDS).to(device)
    encoder_file = args.work / "encoder.pt"
    if not encoder_file.exists():
        pretrain(model, tok, spoken, args.encoder_steps)
        torch.save(model.model.audio_tower.state_dict(), encoder_file)
    model.model.audio_tower.load_state_dict(torch.load(encoder_file, map_location=device))
    print(f"{time.time() - started:.0f} s: the encoder is trained")

    # a warm restart: the same curriculum again, at a lower learning rate
    for number, (steps, peak) in enumerate(((args.answer_steps, 1.5e-3), (args.polish_steps, 1e-3))):
        whole = args.work / f"model-{number}.pt"
        if not whole.exists():
            train(model, tok, spoken, steps, peak=peak, seed=SEED + 3 + 10 * number)
            torch.save(model.state_dict(), whole)
        model.load_state_dict(torch.load(whole, map_location=device))
        print(f"{time.time() - started:.0f} s: the model is trained, cycle {number + 1} of 2")

    ship(model.cpu(), args.out / "model")
    clip_tools.write_shipped(args.out / "clips")
    print(f"{time.time() - started:.0f} s: shipped to {args.out}")


if __name__ == "__main__":
    main()
