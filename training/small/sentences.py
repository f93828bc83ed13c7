"""Let the language model write the requests that the model learns to hear: ``python -m training.small.sentences``.

It completes an opened user turn; what is kept is one sentence of letters. Each batch has its own seed and is
appended whole, so a stopped run continues where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from sarsteer.small.design import SYSTEM
from training.small.openers import openers
from training.small.settings import LANGUAGE_MODEL, WORK, fast_dtype, load_language_model

BATCH, NEW_TOKENS, CANDIDATES = 256, 18, 150
SHORTEST, LONGEST = 4, 16  # words
OVERLAP = 7  # a sentence that shares so many consecutive words with an excluded text is left out
_SENTENCE = re.compile(r"^(.{12,}?[.?!])(\s|$)")
_ENDS = re.compile(r"[.?!\n<]")
_OTHER = re.compile(r"[^A-Za-z ,.?!'\-]")


def words_of(text: str) -> list[str]:
    """Lower-case words; apostrophes stay inside words, all other punctuation separates."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def clean(text: str) -> str | None:
    """The first sentence of ``text`` if it is one that can be spoken as written, else None."""
    line = text.strip().split("\n")[0].replace("’", "'").replace('"', "")
    found = _SENTENCE.match(line)
    if found is None:
        return None
    sentence = re.sub(r"\s+", " ", found.group(1)).strip()
    words = words_of(sentence)
    if _OTHER.search(sentence) or not SHORTEST <= len(words) <= LONGEST:
        return None
    if re.search(r"[A-Z]{2}|-\s|\s-|\w{16}", sentence) or max(map(words.count, words)) > 3:
        return None
    return sentence[0].upper() + sentence[1:]


def grams(text: str, length: int = OVERLAP) -> set[tuple[str, ...]]:
    """Runs of ``length`` words; a shorter text is one run."""
    words = words_of(text)
    return {tuple(words[i : i + length]) for i in range(max(1, len(words) - length + 1))}


def excluded(files: Iterable[Path]) -> set[tuple[str, ...]]:
    """The word runs of all texts in ``files``: CSV files (every cell) or one text a line."""
    result: set[tuple[str, ...]] = set()
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            cells = (cell for row in csv.reader(lines) for cell in row) if file.suffix == ".csv" else iter(lines)
            for cell in cells:
                if len(words_of(cell)) >= SHORTEST:
                    result |= grams(cell)
    return result


def write(model: Any, tok: Any, seed: int) -> Iterator[str]:
    """One batch of sentences. Rows leave the batch when their sentence ends; the system prompt is computed once."""
    torch.manual_seed(seed)
    starts = openers(tok, BATCH, seed)
    prefix = tok(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n", return_tensors="pt").input_ids
    # a row without an opener starts after the prefix's last token, as the others do
    rows = [tok(start.rstrip()).input_ids for start in starts]
    width = max(map(len, rows)) + 1
    last, prefix = prefix[0, -1].item(), prefix[:, :-1]
    ids = torch.full((len(rows), width), tok.pad_token_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) - 1 :] = torch.tensor([last, *row])
        mask[i, width - len(row) - 1 :] = 1
    with torch.inference_mode():
        cache = model(prefix, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(rows))
        mask = torch.cat([torch.ones(len(rows), prefix.shape[1], dtype=torch.long), mask], 1)
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, prefix.shape[1] :]
        texts = [start.rstrip() for start in starts]
        alive = list(range(len(rows)))
        for _ in range(NEW_TOKENS):
            logits = model(
                ids, attention_mask=mask, position_ids=position, past_key_values=cache, logits_to_keep=1
            ).logits[:, -1]
            best = logits.float().topk(CANDIDATES)
            ids = best.indices.gather(1, torch.multinomial(best.values.softmax(-1), 1))
            keep = []
            for row, (number, piece) in enumerate(zip(alive, tok.batch_decode(ids), strict=True)):
                texts[number] += piece
                if not _ENDS.search(piece):
                    keep.append(row)
            if not keep:
                break
            if len(keep) < len(alive):
                chosen = torch.tensor(keep)
                cache.batch_select_indices(chosen)
                ids, mask, position, alive = ids[chosen], mask[chosen], position[chosen], [alive[i] for i in keep]
            mask = torch.cat([mask, torch.ones(len(alive), 1, dtype=torch.long)], 1)
            position = position[:, -1:] + 1
    for text in texts:
        sentence = clean(text)
        if sentence is not None:
            yield sentence


def read(file: Path) -> list[str]:
    """The distinct sentences of a file, in the order in which they were written."""
    return list(dict.fromkeys(json.loads(line)["text"] for line in file.open(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=24_000)
    parser.add_argument("--out", type=Path, default=WORK / "sentences.jsonl")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="test and benchmark texts to keep out")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    keep_out = excluded([*args.exclude, *Path(__file__).parent.glob("requests_*.txt")])
    seen: set[str] = set()
    seed = 0
    if args.out.exists():
        for line in args.out.open(encoding="utf-8"):
            row = json.loads(line)
            seen.add(row["text"].lower())
            seed = row["batch"] + 1
    model, tok = load_language_model(LANGUAGE_MODEL, fast_dtype())
    with args.out.open("a", encoding="utf-8") as out:
        while len(seen) < args.count:
            fresh = []
            for sentence in write(model, tok, seed):
                if sentence.lower() not in seen and not grams(sentence) & keep_out:
                    seen.add(sentence.lower())
                    fresh.append(json.dumps({"text": sentence, "batch": seed}) + "\n")
            out.write("".join(fresh))
            out.flush()
            print(f"batch {seed}: {len(fresh)} sentences, {len(seen)} in all", flush=True)
            seed += 1


if __name__ == "__main__":
    main()
