"""Make a judge from a short text, as the command line gives it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from sarsteer.errors import JudgeError
from sarsteer.judges.air_bench import AirBenchJudge
from sarsteer.judges.embedded import EmbeddedJudge
from sarsteer.judges.guard import LlamaGuardJudge, WildGuardJudge
from sarsteer.judges.interface import Judge
from sarsteer.judges.keywords import KeywordJudge
from sarsteer.judges.rubric import RubricJudge
from sarsteer.judges.sorry_bench import SorryBenchJudge

ALONE: dict[str, Callable[[], Judge]] = {"keywords": KeywordJudge, "embedded": EmbeddedJudge}
WITH_MODEL: dict[str, Callable[..., Judge]] = {
    "sorry-bench": SorryBenchJudge,
    "llama-guard": LlamaGuardJudge,
    "wildguard": WildGuardJudge,
    "rubric": RubricJudge,
    "air-bench": AirBenchJudge,
}

_NUMBERS: dict[str, Callable[[str], Any]] = {"batch_size": int, "max_retries": int, "timeout": float}


def make_judge(spec: str, **options: Any) -> Judge:
    """The judge that ``spec`` names: ``keywords``, ``embedded``, or ``KIND:MODEL``, with ``,OPTION=VALUE`` after it.

    The model is ``openai/NAME`` for an OpenAI-compatible endpoint, else a folder or a name on the Hub.

    Args:
        spec: such as ``"rubric:openai/gpt-x"`` or ``"sorry-bench:./judge,prompts=judge_prompts.jsonl"``.
        options: of the judge and of its model, before those of the spec: ``prompts``, ``prompt_name``; ``base_url``,
            ``api_key`` (here only), ``timeout``, ``max_retries``, ``token_limit_key`` at an endpoint; ``device``,
            ``dtype``, ``revision``, ``progress`` here; ``batch_size`` at both.

    Raises:
        JudgeError: the spec names no judge, lacks its model, or an option is not one of its.

    """
    kind, target, own = split_spec(spec)
    options = {**own, **options}
    if kind in ALONE:
        if target or options:
            raise JudgeError(f"judge {kind!r} takes no model and no options; write {kind}")
        return ALONE[kind]()
    if kind not in WITH_MODEL:
        known = ", ".join((*ALONE, *(f"{name}:MODEL" for name in WITH_MODEL)))
        raise JudgeError(f"unknown judge {spec!r}; use one of {known}")
    try:
        return WITH_MODEL[kind](target, **options)
    except TypeError as error:
        unknown = sorted(set(options) - _known(kind, target))
        if not unknown:
            raise
        raise JudgeError(f"judge {spec!r} takes no option {', '.join(unknown)}") from error


def split_spec(spec: str) -> tuple[str, str, dict[str, Any]]:
    """The kind of a judge, its model, and the options of a spec.

    Raises:
        JudgeError: an option is no number where it should be one, or is a secret.

    """
    kind, _, rest = spec.partition(":")
    target, *parts = re.split(r",(?=[a-z_]+=)", rest)
    return kind, target, dict(_option(spec, part) for part in parts)


def _option(spec: str, text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name == "api_key":
        raise JudgeError(f"judge {spec.partition(',')[0]!r}: logs would hold the key; set OPENAI_API_KEY instead")
    try:
        return name, _NUMBERS[name](value) if name in _NUMBERS else value
    except ValueError:
        raise JudgeError(f"judge {spec!r}: {name} must be a number, not {value!r}") from None


def _known(kind: str, target: str) -> set[str]:
    from sarsteer.judges.backend import API_PREFIX, ApiBackend
    from sarsteer.judges.local import LocalBackend
    from sarsteer.models.api.model import ApiModel

    places: list[Callable[..., Any]] = [ApiBackend, ApiModel] if target.startswith(API_PREFIX) else [LocalBackend]
    return {name for where in (WITH_MODEL[kind], *places) for name in inspect.signature(where).parameters}
