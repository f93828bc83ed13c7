"""Make a defence from a short text, as the command line gives it; all that it needs is asked for here, before any use.

``none``; ``prompt:NAME`` or ``prompt:FILE``; ``sarsteer``, ``refusal-steering`` (k = 0), ``mean-ablation``, ``random``,
``reversed``, ``h2s``, ``c2r``, each with its own strengths after a colon where wanted (``sarsteer:alpha=0.2,k=5``),
those that come from a steering file also with its gate (``sarsteer:gate=hard``; ``logistic``, ``on``, ``off``);
``guard:llama-guard:MODEL``, ``guard:rubric:MODEL``, ``guard:embedded`` for the toy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarsteer.defenses.interface import UNDEFENDED, Defense
from sarsteer.defenses.prompt import PROMPT_DEFENSES, load_prompt_defense
from sarsteer.errors import EvaluationError
from sarsteer.prompts import GUARD_REFUSAL

if TYPE_CHECKING:
    import torch

    from sarsteer.data.pairs import Pairs
    from sarsteer.judges import Judge
    from sarsteer.models.interface import LanguageModel
    from sarsteer.steering.artifact import Steering
    from sarsteer.steering.gate.gate import Gate

FROM_FILE = ("sarsteer", "refusal-steering", "mean-ablation", "random", "reversed")
FROM_PAIRS = ("h2s", "c2r")
PROMPTS = {"refusal": "refusal-prompt", "ada": "shield"}
"""Short names of prompts."""
GATES = ("off", "on", "hard", "logistic")
"""Whether requests are gated: ``on`` as the file's gate is set, or in a mode of its own."""
_OPTIONS = {"alpha": float, "k": int, "lambda": float, "seed": int, "gate": str}


@dataclass(frozen=True)
class Strength:
    """α, k, λ and gate; the steering file's own where None. ``seed`` draws the random directions."""

    alpha: float | None = None
    k: int | None = None
    lambda_: float | None = None
    seed: int = 0
    gate: str | None = None


@dataclass(frozen=True)
class Supplies:
    """What defences are made of, where they need it.

    Attributes:
        steering: for those of ``FROM_FILE``.
        pairs: calibration pairs, for those of ``FROM_PAIRS``.
        judge: tells c2r which requests the model refuses.
        cache: a folder for vectors that take long to make.
        strength: for all that are steered, unless their spec has its own.
        allow_other_model: steer a model that is not the calibrated one, as a quantised copy.
        batch_size: conversations a forward.

    """

    steering: Steering | None = None
    pairs: Pairs | None = None
    judge: Judge | None = None
    cache: Path | None = None
    strength: Strength = Strength()
    allow_other_model: bool = False
    batch_size: int = 16


def check_specs(specs: Sequence[str], *, steering: bool, pairs: bool) -> None:
    """Refuse, before anything is loaded, what could not be made.

    Args:
        specs: of the defences of one run.
        steering: whether there is a steering file.
        pairs: whether there are calibration pairs.

    Raises:
        EvaluationError: a spec names no defence, comes twice, or needs what is not there.

    """
    for number, spec in enumerate(specs):
        if spec in specs[:number]:
            raise EvaluationError(f"defense {spec!r} is given twice; give each once, or another strength")
        kind, argument = _parse(spec)
        if kind in FROM_FILE and not steering:
            raise EvaluationError(f"defense {spec!r} needs a steering file; give --steering FILE (sarsteer calibrate)")
        if kind in FROM_PAIRS and not pairs:
            raise EvaluationError(f"defense {spec!r} needs calibration pairs; give --calibration PAIRS")
        if kind in (*FROM_FILE, *FROM_PAIRS) and _strength(spec, argument, Strength()).gate and kind in FROM_PAIRS:
            raise EvaluationError(f"defense {spec!r}: {kind} has no gate; only defenses from a steering file do")


def is_steered(spec: str) -> bool:
    """Whether the defence adds vectors, so that it has a strength."""
    return _parse(spec)[0] in (*FROM_FILE, *FROM_PAIRS)


def at_alpha(spec: str, alpha: float) -> str:
    """The same defence at another strength."""
    kind, argument = _parse(spec)
    kept = [part for part in argument.split(",") if part and not part.strip().startswith("alpha=")]
    return f"{kind}:{','.join([f'alpha={alpha:g}', *kept])}"


def make_defense(spec: str, model: LanguageModel, supplies: Supplies) -> Defense:
    """The defence that ``spec`` names, for this model.

    Raises:
        EvaluationError: the spec names none, or lacks what it needs.
        ModelError: it needs activations, and the model shows none.
        ArtifactError: the steering file is another model's.

    """
    check_specs([spec], steering=supplies.steering is not None, pairs=supplies.pairs is not None)
    kind, argument = _parse(spec)
    if kind == "none":
        return UNDEFENDED
    if kind == "prompt":
        return _prompt(spec, argument)
    if kind == "guard":
        from sarsteer.defenses.guard import RequestGuard

        guard = RequestGuard(argument)
        settings = {"kind": kind, "guard": guard.signature, "transcribe": guard.transcribe, "refusal": GUARD_REFUSAL}
        return Defense(spec, settings, guard=guard)
    model.check_steerable()
    strength = _strength(spec, argument, supplies.strength)
    return _from_pairs(spec, kind, strength, model, supplies) if kind in FROM_PAIRS else _from_file(
        spec, kind, strength, model, supplies
    )  # fmt: skip


def _parse(spec: str) -> tuple[str, str]:
    kind, _, argument = spec.partition(":")
    if kind not in ("none", "prompt", "guard", *FROM_FILE, *FROM_PAIRS):
        known = ", ".join(
            ("none", "prompt:NAME", "prompt:FILE", *FROM_FILE, *FROM_PAIRS, "guard:llama-guard:MODEL", "guard:embedded")
        )
        raise EvaluationError(f"unknown defense {spec!r}; use one of {known}")
    if kind == "none" and argument:
        raise EvaluationError(f"defense {spec!r}: none takes nothing after it; write none")
    if kind in ("prompt", "guard") and not argument:
        raise EvaluationError(f"defense {spec!r} names no {kind}; write {kind}:NAME")
    return kind, argument


def _strength(spec: str, argument: str, given: Strength) -> Strength:
    own: dict[str, Any] = {}
    for part in argument.split(",") if argument else ():
        name, _, text = part.partition("=")
        name = name.strip()
        try:
            value = _OPTIONS[name](text)
        except KeyError:
            raise EvaluationError(f"defense {spec!r}: unknown option {name!r}; use {', '.join(_OPTIONS)}") from None
        except ValueError:
            raise EvaluationError(f"defense {spec!r}: {name} must be a number, not {text!r}") from None
        if name == "gate" and value not in GATES:
            raise EvaluationError(f"defense {spec!r}: gate must be one of {', '.join(GATES)}, not {text!r}")
        if name != "gate" and not math.isfinite(value):
            raise EvaluationError(f"defense {spec!r}: {name} must be a finite number, not {text!r}")
        own["lambda_" if name == "lambda" else name] = value
    return replace(given, **own)


def _prompt(spec: str, argument: str) -> Defense:
    name = PROMPTS.get(argument, argument)
    prompt = PROMPT_DEFENSES.get(name)
    if prompt is None:
        if not Path(argument).is_file():
            known = ", ".join(sorted({*PROMPTS, *PROMPT_DEFENSES} - {"none", *PROMPTS.values()}))
            raise EvaluationError(f"defense {spec!r}: neither a prompt of ours nor a file; use one of {known}")
        prompt = load_prompt_defense(argument)
    return Defense(spec, {"kind": "prompt", **asdict(prompt)}, prompt=prompt)


def _from_file(spec: str, kind: str, strength: Strength, model: Any, supplies: Supplies) -> Defense:
    from sarsteer.steering.baselines import mean_ablation, random_like, reversed_vectors
    from sarsteer.steering.subspace import weighted

    steering = supplies.steering
    assert steering is not None
    steering.check_model(model.fingerprint, allow_other_model=supplies.allow_other_model)
    own_alpha, own_k, own_lambda = steering.defaults
    alpha = own_alpha if strength.alpha is None else strength.alpha
    k = 0 if kind == "refusal-steering" else own_k if strength.k is None else strength.k
    lambda_ = own_lambda if strength.lambda_ is None else strength.lambda_
    vectors = steering.vectors(k, lambda_)
    weights = steering.default_layer_weights
    settings: dict[str, Any] = {"kind": kind, "alpha": alpha, "k": k, "lambda": lambda_}
    if any(weight != 1 for weight in weights):
        settings["layer_weights"] = list(weights)
    if kind == "mean-ablation":
        vectors = weighted(mean_ablation(steering.refusal, steering.safe_mean, lambda_), weights)
        del settings["k"]
    elif kind == "random":
        vectors = random_like(vectors, strength.seed)
        settings["seed"] = strength.seed
    elif kind == "reversed":
        vectors = reversed_vectors(vectors)
    gate = steering.choose_gate(None if strength.gate is None else strength.gate != "off")
    if gate is not None and strength.gate in ("hard", "logistic"):
        gate = gate.with_mode(strength.gate)
    return _steered(spec, settings, vectors, alpha, steering.digest, gate)


def _from_pairs(spec: str, kind: str, strength: Strength, model: Any, supplies: Supplies) -> Defense:
    from sarsteer.defenses.mean_difference import difference_vectors
    from sarsteer.judges import make_judge

    assert supplies.pairs is not None
    judge = supplies.judge or make_judge("keywords")
    vectors = difference_vectors(kind, model, supplies.pairs, judge, supplies.cache, supplies.batch_size)
    alpha = strength.alpha
    if alpha is None:
        alpha = supplies.steering.defaults[0] if supplies.steering is not None else 0.1
    settings = {"kind": kind, "alpha": alpha, "pairs_digest": supplies.pairs.digest}
    if kind == "c2r":
        settings["judge"] = judge.signature
    return _steered(spec, settings, vectors, alpha, None)


def _steered(
    spec: str,
    settings: dict[str, Any],
    vectors: torch.Tensor,
    alpha: float,
    steering: str | None,
    gate: Gate | None = None,
) -> Defense:
    digest = hashlib.sha256(vectors.float().contiguous().numpy().tobytes()).hexdigest()
    settings = {**settings, "steering": steering, "vectors": digest}
    if gate is not None:
        names = ("layer", "mode", "threshold", "temperature", "limit")
        settings["gate"] = {**{name: getattr(gate, name) for name in names}, "digest": gate.digest}
    return Defense(spec, settings, vectors=vectors, alpha=alpha, gate=gate, steering=steering)
