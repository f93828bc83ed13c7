"""sarsteer-small gives the same answers in vLLM as in transformers: undefended, always steered, and gated.

    sarsteer export sarsteer-small small
    python -m benchmarks.small_vllm small --steering steering.safetensors --benchmark manifest:spoken/manifest.jsonl

Run it in an environment with vLLM. Both engines compute in float32 and decode greedily. The printed table has, for each
way of steering, how many answers are equal token for token and how many differ from the undefended answer; and for the
gate, how many decisions are equal and the largest difference of a score. The gate's threshold is moved into the widest
gap in the middle of these clips' scores, so that it opens for about half of them. Exits with 1 if an answer or a
decision differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
)
import sarsteer
from sarsteer.audio import load_clip
from sarsteer.data.benchmarks import load_benchmark
from sarsteer.prompts import INSTRUCTION

ALWAYS, GATED, UNDEFENDED = "always on", "gated", "undefended"
RATE = 16_000  # of the speech encoder
Tokens = dict[str, list[list[int]]]


def cut(tokens: list[int], end: int) -> list[int]:
    """An answer up to and including its end."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def middle_of(scores: list[float]) -> float:
    """The middle of the widest gap between two neighbors among the middle third of ``scores``."""
    ranked = sorted(scores)
    at = max(range(len(ranked) // 3, max(2 * len(ranked) // 3, 1)), key=lambda i: ranked[i + 1] - ranked[i])
    return (ranked[at] + ranked[at + 1]) / 2


def with_transformers(
    model: sarsteer.AudioLanguageModel, ways: dict[str, sarsteer.Steering], prepared: list[Any], tokens: int
) -> Tokens:
    """Each request's answer in each way, and undefended."""

    def answers() -> list[list[int]]:
        options = model.generation_options({"max_new_tokens": tokens})
        return [cut(model.generate_tokens(model.collate([one]), **options).tolist()[0], end) for one in prepared]

    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    result = {UNDEFENDED: answers()}
    for way, steering in ways.items():
        with steering.on(model):
            result[way] = answers()
    return result


def with_vllm(
    folder: Path, ways: dict[str, sarsteer.Steering], prompts: list[Any], tokens: int
) -> tuple[Tokens, list[tuple[float, float]]]:
    """The same in one batch of one engine, and the gate's opening and score of each request."""
    names = {way: way.replace(" ", "_") for way in ways}
    with tempfile.TemporaryDirectory() as temporary:
        files = {way: steering.save(Path(temporary) / f"{names[way]}.safetensors") for way, steering in ways.items()}
        os.environ["SARSTEER_STEERING"] = ",".join(f"{names[way]}={file}" for way, file in files.items())
        os.environ["SARSTEER_ALLOW_OVERRIDE"] = "0:2"
        import sarsteer.vllm

        sarsteer.vllm.register()
        from vllm import LLM, SamplingParams

        llm = LLM(
            model=str(folder), dtype="float32", max_model_len=1024, enforce_eager=True, limit_mm_per_prompt={"audio": 1}
        )
        extras: dict[str, dict[str, Any]] = {UNDEFENDED: {"sarsteer_alpha": 0.0}}
        extras |= {way: {"sarsteer_set": name} for way, name in names.items()}
        order = [(way, prompt) for way in extras for prompt in prompts]
        outputs = llm.generate(
            [prompt for _, prompt in order],
            [SamplingParams(temperature=0, max_tokens=tokens, extra_args=extras[way]) for way, _ in order],
            use_tqdm=False,
        )
        (decided,) = llm.collective_rpc("sarsteer_decisions")
    result: Tokens = {way: [] for way in extras}
    decisions = []
    for number, ((way, _), output) in enumerate(zip(order, outputs, strict=True)):
        result[way].append(list(output.outputs[0].token_ids))
        if way == GATED:
            opening, score = next(found[:2] for name, found in decided.items() if name.split("-")[0] == str(number))
            decisions.append((opening, score))
    return result, decisions


def main() -> int:
    """Compare, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder that sarsteer export wrote")
    parser.add_argument("--steering", required=True, help="a steering file of sarsteer-small")
    parser.add_argument("--benchmark", default="sarsteer-pairs/all@test", help="where the clips are from")
    parser.add_argument("--clips", type=int, default=10, help="how many, spread over the benchmark")
    parser.add_argument("--tokens", type=int, default=20, help="length of an answer")
    parser.add_argument("--alpha", type=float, help="steering strength; the file's by default")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()

    steering = sarsteer.Steering.load(arguments.steering)
    if steering.gate is None:
        parser.error(f"{arguments.steering} has no gate; calibrate on more pairs")
    items = load_benchmark(arguments.benchmark).items
    items = items[:: max(1, len(items) // arguments.clips)][: arguments.clips]
    model = sarsteer.load_model(str(arguments.folder), dtype="float32", device="cpu")
    turns = [item.turn(INSTRUCTION) for item in items]
    prepared = model.prepare(turns)
    prompts = []
    for item, turn in zip(items, turns, strict=True):
        clip = load_clip(item.audio).resampled(RATE)  # otherwise vLLM resamples, by another method
        text = model.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        prompts.append({"prompt": text, "multi_modal_data": {"audio": (clip.samples, clip.rate)}})
    activations = model.last_token_activations(prepared)
    gate = steering.gate.with_limit(None)  # far requests would be steered at any score
    scores = gate.score(activations).tolist()
    gate = gate.with_threshold(middle_of(scores))
    ways = {
        ALWAYS: steering.with_gate(None).with_defaults(alpha=arguments.alpha),
        GATED: steering.with_gate(gate).with_defaults(alpha=arguments.alpha, gate=True),
    }
    expected = with_transformers(model, ways, prepared, arguments.tokens)
    answers, decisions = with_vllm(arguments.folder, ways, prompts, arguments.tokens)

    figures: dict[str, Any] = {"clips": len(items), "tokens": arguments.tokens, "steering": steering.digest, "ways": {}}
    for way, wanted in expected.items():
        equal = sum(a == b for a, b in zip(answers[way], wanted, strict=True))
        changed = sum(a != b for a, b in zip(wanted, expected[UNDEFENDED], strict=True))
        figures["ways"][way] = {"equal": equal, "changed": changed}
        print(f"{way:12} {equal} of {len(items)} answers equal; {changed} differ from the undefended answer")
        for one, other in zip(answers[way], wanted, strict=True):
            if one != other:
                print("  vLLM:        ", model.tokenizer.decode(one))
                print("  transformers:", model.tokenizer.decode(other))
    opened = gate.strength(activations).tolist()
    same = sum(one == two for (one, _), two in zip(decisions, opened, strict=True))
    apart = max(abs(one - two) for (_, one), two in zip(decisions, scores, strict=True))
    figures["gate"] = {"opened": sum(opened), "same": same, "score_difference": apart}
    print(f"gate         {same} of {len(items)} decisions equal ({sum(opened):.0f} open); scores within {apart:.1e}")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
    counts = [same, *(one["equal"] for one in figures["ways"].values())]
    return 0 if all(count == len(items) for count in counts) else 1


if __name__ == "__main__":
    sys.exit(main())
