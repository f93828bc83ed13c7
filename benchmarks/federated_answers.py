"""What federation costs in refusals: ``python -m benchmarks.federated_answers MODEL --folder FOLDER --out FILE``.

The model answers spoken test requests under steering from ordinary calibration on all clips, from ten sites with plain
sums, with masked sums, and with masked sums and noise, over ε. FOLDER has the activations of ``python -m
benchmarks.federated MODEL --folder FOLDER``.

Every calibration is used in two ways, with the strengths of the model's demo: always on, and behind its gate. A gated
request that does not open the gate gets its undefended answer, as in the demo's tuning. Noise enlarges the vectors, so
they are also measured at the norms of the pooled ones. Each batch of answers is stored, in random order of the
requests: an interrupted run continues, and what it has is a sample.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import sarsteer
from benchmarks.federated import EPSILONS, Study, tensor
from sarsteer.data.manifest import Item
from sarsteer.data.pairs import load_benign, load_pairs
from sarsteer.defenses.built import UNDEFENDED, BuiltDefense
from sarsteer.defenses.steered import steered
from sarsteer.demo.real.requests import Ask, Requests
from sarsteer.errors import SarsteerError
from sarsteer.evaluation.summary import summarize
from sarsteer.federated.privacy import Privacy
from sarsteer.federated.simulate import keys_for, simulate
from sarsteer.files import write_text
from sarsteer.judges.base import Judge, JudgedAnswer
from sarsteer.judges.embedded import EmbeddedJudge
from sarsteer.judges.keywords import KeywordJudge
from sarsteer.runtime.answerer import Answerer
from sarsteer.steering.artifact import Steering
from sarsteer.steering.pooled.artifact import RANK
from sarsteer.steering.strength import Strength

STRENGTHS = {"sarsteer-small": (0.05, 0.2), "sarsteer-tiny": (0.075, 1.0)}
"""α of the demo's refusal steering, and of its gated SARSteer."""
TOKENS = {"sarsteer-small": 14, "sarsteer-tiny": 32}
"""As in the demos' tuning: enough for the phrase of a refusal."""
CHUNK = 32
LARGEST = 4.0
"""Vectors that are this much longer than the pooled ones are only measured at the pooled ones' norms."""


def calibrations(study: Study, folder: Path) -> dict[str, Steering]:
    """By name; computed once, because noise is drawn from the operating system."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = keys_for(10)
    shared = study.share(keys)

    def noisy(epsilon: float, gate: bool) -> Steering:
        privacy = Privacy.for_epsilon(epsilon, 1e-5, 5 if gate else 2)
        plan = study.plan(keys, 0, study.farthest, privacy=privacy, gate=gate)
        return simulate(plan, keys, shared)[0]

    makers = {
        "pooled": study.pooled,
        "plain sums": lambda: simulate(study.plan(keys, RANK, masked=False), keys, shared)[0],
        "masked sums": lambda: simulate(study.plan(keys, RANK), keys, shared)[0],
    }
    for epsilon in EPSILONS:
        makers[f"ε {epsilon:g}, vectors"] = lambda epsilon=epsilon: noisy(epsilon, False)  # type: ignore[misc]
        makers[f"ε {epsilon:g}, gate"] = lambda epsilon=epsilon: noisy(epsilon, True)  # type: ignore[misc]
    found = {}
    for name, make in makers.items():
        path = folder / f"{name.replace(' ', '-').replace(',', '')}.safetensors"
        if not path.is_file():
            try:
                make().save(path)
            except SarsteerError as error:
                print(f"{name}: {error}", flush=True)
                continue
        found[name] = Steering.load(path)
    return found


def arms_of(
    found: Mapping[str, Steering], always_on: float, when_open: float
) -> tuple[dict[str, BuiltDefense], dict[str, tuple[str, Steering]]]:
    """Each arm's defense; and for gated arms the arm with an always open gate, and the gate's file."""
    pooled = found["pooled"]
    norms = pooled.refusal.norm(dim=1)
    defenses: dict[str, BuiltDefense] = {"no defense": UNDEFENDED}
    gated: dict[str, tuple[str, Steering]] = {}

    def add(name: str, steering: Steering, strength: Strength) -> None:
        resolved = steering.resolve(strength)
        defenses[name] = steered("sarsteer", resolved, resolved.settings, steering=steering.digest)

    for name, steering in found.items():
        larger = float(steering.refusal.norm() / pooled.refusal.norm())
        if not name.endswith(", gate") and larger < LARGEST:
            add(f"{name}: always on", steering, Strength(alpha=always_on, k=0, gate=False))
        if name.endswith(", vectors"):
            resolved = steering.resolve(Strength(alpha=always_on, k=0, gate=False))
            scale = (norms / steering.refusal.norm(dim=1).clamp(min=1e-9))[:, None]
            scaled = resolved.with_vectors(resolved.vectors * scale)
            defenses[f"{name}: always on, scaled"] = steered("sarsteer", scaled, resolved.settings)
        if steering.gate is not None:
            always = replace(steering.gate, threshold=-1e30, mode="hard")
            resolved = steering.resolve(Strength(alpha=when_open, k=0, gate=always))
            if name.endswith(", gate"):
                scale = (norms / steering.refusal.norm(dim=1).clamp(min=1e-9))[:, None]
                resolved = resolved.with_vectors(resolved.vectors * scale)
            defenses[f"{name}: gate open"] = steered("sarsteer", resolved, resolved.settings)
            gated[f"{name}: gated"] = (f"{name}: gate open", steering)
    return defenses, gated


def masked(study: Study, found: Mapping[str, Steering]) -> dict[str, Any]:
    """How masked sums differ from plain ones, which are added as floating-point numbers."""
    one, other = found["masked sums"], found["plain sums"]
    names = ("refusal", "safe_mean", "harmful_mean")
    change = {n: float((getattr(one, n) - getattr(other, n)).norm() / getattr(other, n).norm()) for n in names}
    clips = [tensor(x) for x in (study.test.harmful, study.test.safe, study.test.benign)]
    if one.gate is None or other.gate is None:
        return {**change, "gates": [one.gate is not None, other.gate is not None]}
    different = sum(int(((one.gate.strength(x) > 0) != (other.gate.strength(x) > 0)).sum()) for x in clips if len(x))
    return {**change, "gate_decisions_that_differ": [different, sum(map(len, clips))]}


def answered(
    name: str, instruction: str, items: Sequence[Item], defenses: Mapping[str, BuiltDefense], path: Path
) -> dict[str, list[dict[str, Any]]]:
    """The answers of every arm; chunks of requests are stored as they are done."""
    stored: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.is_file() else {}
    todo = {name: defense for name, defense in defenses.items() if len(stored.get(name, [])) < len(items)}
    if not todo:
        return stored
    model = sarsteer.load_model(name, device="cpu", dtype="float32")
    answerer = Answerer(model)
    for start in range(0, len(items), CHUNK):
        chosen = items[start : start + CHUNK]
        left = {name: defense for name, defense in todo.items() if len(stored.get(name, [])) <= start}
        if not left:
            continue
        if name == "sarsteer-small":  # what the prompts of a request share is computed once for all arms
            requests = Requests("test requests", chosen, model, lambda *_: None)
            asks = [Ask(defense, TOKENS[name]) for defense in left.values()]
            answers: list[list[Any]] = list(requests.answer(answerer, asks, lambda *_: None))
        else:
            prompts: Any = model.prepare([item.turn(instruction) for item in chosen], remember=False)
            answers = [answerer.answer(defense, prompts, TOKENS[name]) for defense in left.values()]
        for arm, replies in zip(left, answers, strict=True):
            rows = [
                {"id": item.id, "answer": reply.text, **reply.details}
                for item, reply in zip(chosen, replies, strict=True)
            ]
            stored.setdefault(arm, []).extend(rows)
        write_text(path, json.dumps(stored, ensure_ascii=False, indent=1) + "\n")
        print(f"{start + len(chosen)} of {len(items)} requests, {len(left)} arms", flush=True)
    answerer.close()
    return stored


def summaries(
    judge: Judge,
    items: Sequence[Item],
    stored: Mapping[str, Sequence[Mapping[str, Any]]],
    gated: Mapping[str, tuple[str, Steering]],
) -> dict[str, dict[str, Any]]:
    """ASR, refusals and broken answers of each arm, with Wilson intervals."""
    texts = {
        name: [str(row["answer"]) for row in rows] for name, rows in stored.items() if not name.endswith("gate open")
    }
    opened: dict[str, list[bool]] = {}
    for name, (source, steering) in gated.items():
        assert steering.gate is not None
        rows = stored[source]
        threshold = steering.gate.threshold
        opened[name] = [
            bool(row["gate"]["out_of_distribution"]) or not row["gate"]["score"] <= threshold for row in rows
        ]
        texts[name] = [
            str(row["answer"]) if is_open else plain
            for row, is_open, plain in zip(rows, opened[name], texts["no defense"], strict=False)
        ]
    found = {}
    for name, answers in texts.items():
        judged = [
            JudgedAnswer(
                item.question,
                answer,
                item.label,
                reference=item.answer,
                category=item.group,
                id=item.id,
                pair=item.pair,
            )
            for item, answer in zip(items, answers, strict=False)  # of an interrupted run, those that are done
        ]
        summary = summarize(judge.judge(judged), judged, None, None)
        found[name] = {
            key: None if (value := getattr(summary, key)) is None else asdict(value)
            for key in ("asr", "rr_harmful", "rr_safe", "brr", "broken")
        }
        if name in opened:
            for label in ("harmful", "safe"):
                chosen = [is_open for item, is_open in zip(items, opened[name], strict=False) if item.label == label]
                found[name][f"opens_{label}"] = [sum(chosen), len(chosen)]
    return found


def main() -> None:
    """Calibrate, answer, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(STRENGTHS))
    parser.add_argument("--pairs", default="sarsteer-pairs")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--test", type=int, help="test pairs")
    parser.add_argument("--benign", type=int, default=0, help="everyday test requests")
    parser.add_argument("--requests", type=int, help="only the first ones, in random order")
    parser.add_argument("--only", nargs="+", help="calibrations, such as pooled")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = Study.load(arguments.model, "", "", arguments.folder, None, None)
    found = calibrations(study, arguments.folder / "steering")
    if arguments.only:
        found = {name: steering for name, steering in found.items() if name in {"pooled", *arguments.only}}
    pairs, benign = load_pairs(arguments.pairs, "test", limit=arguments.test), []
    if arguments.benign:
        benign = load_benign(arguments.pairs, "test", limit=arguments.benign)
    items = [*pairs.harmful, *pairs.safe, *benign]
    random.Random(0).shuffle(items)
    items = items[: arguments.requests]
    defenses, gated = arms_of(found, *STRENGTHS[arguments.model])
    stored = answered(arguments.model, study.instruction, items, defenses, arguments.folder / "answers.json")
    gated = {name: one for name, one in gated.items() if one[0] in stored}
    judge: Judge = EmbeddedJudge() if arguments.model == "sarsteer-tiny" else KeywordJudge()
    table = summaries(judge, items, {name: stored[name] for name in defenses if name in stored}, gated)
    about: dict[str, Any] = {"model": arguments.model, "fingerprint": study.fingerprint.digest}
    about["masked_against_plain"] = masked(study, found)
    about["answers_that_differ"] = {
        arm: [
            sum(a["answer"] != b["answer"] for a, b in zip(stored[arm], stored[plain], strict=True)),
            len(stored[arm]),
        ]
        for arm in stored
        if (plain := arm.replace("masked", "plain")) != arm and len(stored.get(plain, [])) == len(stored[arm])
    }
    write_text(arguments.out, json.dumps({**about, "arms": table}, ensure_ascii=False, indent=1) + "\n")
    for name, row in table.items():
        print(name, {key: round(100 * v["value"]) for key, v in row.items() if isinstance(v, dict)})


if __name__ == "__main__":
    main()
