"""Which calls of ``generate`` can be steered: a list of decoding modes known to be correct; everything else is refused.

Steering adds to the last position of every forward. That is exact if each forward of a call ends in the newest token
of a row, and if the model runs once per token. Greedy search, sampling and beam search do this. Assisted decoding,
contrastive search, DoLa, classifier-free guidance and custom loops do not: they verify several tokens at once, or run
a second forward that cancels the first.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sarsteer.errors import SteeringError

STEERED_MODES = ("greedy_search", "sample", "beam_search", "beam_sample")
"""transformers' generation modes that are steered exactly."""

_ARGUMENTS = {
    "assistant_model": "the last position of a forward is then not its newest token",
    "custom_generate": "a custom decoding loop is not known to be steered exactly",
    "negative_prompt_ids": "a second forward then cancels the steered one",
    "negative_prompt_attention_mask": "a second forward then cancels the steered one",
}
"""Arguments of generate() that are refused."""

_OPTIONS = {
    "prompt_lookup_num_tokens": "the last position of a forward is then not its newest token",
    "assistant_early_exit": "the last position of a forward is then not its newest token",
    "use_mtp": "the last position of a forward is then not its newest token",
    "speculation_type": "the last position of a forward is then not its newest token",
    "prefill_chunk_size": "the last position of a chunk is then not the last prompt token",
    "dola_layers": "the answer is then computed from unsteered layers",
    "penalty_alpha": "candidates are then compared in forwards of their own",
    "token_healing": "the prompt is then generated in part",
    "constraints": "constrained search is not known to be steered exactly",
    "force_words_ids": "constrained search is not known to be steered exactly",
}
"""Options of the generation configuration that are refused when they are set."""


def check_decoding(owner: Any, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ``SteeringError`` unless ``generate(*args, **kwargs)`` decodes in a mode that is steered exactly.

    What counts is the configuration that transformers will use: positional arguments, the given configuration, the
    model's own one and keyword arguments, merged as transformers merges them.

    Args:
        owner: the model.
        generate: its unguarded method.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    """
    given, options = check_arguments(signature_of(generate), args, kwargs)
    if hasattr(owner, "_prepare_generation_config"):  # transformers' own merge
        check_configuration(owner._prepare_generation_config(given, **options)[0], options)
    else:
        _check(_EffectiveConfig((given, getattr(owner, "generation_config", None)), options))


def check_arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The part of ``check_decoding`` that needs no merge.

    Args:
        signature: of ``generate``, see ``signature_of``.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Returns:
        The generation configuration that the call gives, or None, and its further options.

    """
    arguments, options = _bound(signature, args, kwargs)
    for name, reason in _ARGUMENTS.items():
        if arguments.get(name, options.get(name)) is not None:
            raise _refused(name, reason)
    for processor in arguments.get("logits_processor") or ():
        if "ClassifierFreeGuidance" in type(processor).__name__:
            raise _refused(type(processor).__name__, "a second forward then cancels the steered one")
    return arguments.get("generation_config"), options


def check_configuration(merged: Any, options: Mapping[str, Any]) -> None:
    """The other part: raise ``SteeringError`` unless a merged configuration decodes in a mode that is steered exactly.

    Args:
        merged: what transformers' merge returned.
        options: the keyword arguments that were merged.

    """
    _check(_EffectiveConfig((merged,), options))


def _check(config: _EffectiveConfig) -> None:
    for name, reason in _OPTIONS.items():
        if not _is_off(config(name)):
            raise _refused(name, reason)
    guidance = config("guidance_scale")
    if guidance is not None and guidance != 1:
        raise _refused(f"guidance_scale={guidance}", "a second forward then cancels the steered one")
    if not config("use_cache", True):
        raise _refused("use_cache=False", "earlier answer tokens are then recomputed unsteered")
    if config("cache_implementation") == "paged":
        raise _refused("cache_implementation='paged'", "a forward then has many last positions")
    mode = config.mode()
    if mode is not None and mode not in STEERED_MODES:
        raise _refused(f"the generation mode {mode}", f"only {', '.join(STEERED_MODES)} are steered exactly")


def _refused(what: str, reason: str) -> SteeringError:
    return SteeringError(f"{what} breaks steering: {reason}; generate without it")


def _is_off(value: Any) -> bool:
    """Whether an option is unset, or a number that is zero. Anything else, such as a model or a list, is in use."""
    if value is None:
        return True
    return isinstance(value, (bool, int, float, np.generic)) and not bool(value)


def signature_of(generate: Callable[..., Any]) -> inspect.Signature:
    """The signature of a ``generate`` method.

    A wrapper that takes ``*args, **kwargs`` hands them to transformers' ``generate``, whose names then count.
    """
    signature = inspect.signature(generate)
    if "generation_config" in signature.parameters:
        return signature
    from transformers import GenerationMixin

    return inspect.signature(functools.partial(GenerationMixin.generate, None))


def _bound(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Named arguments and further options of a call, positional ones by their names."""
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise SteeringError(f"generate() cannot be called this way ({error}); check its arguments") from None
    options: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if name in bound and parameter.kind is parameter.VAR_KEYWORD:
            options = dict(bound.pop(name))
        elif name in bound and parameter.kind is parameter.VAR_POSITIONAL and bound.pop(name):
            raise SteeringError("generate() is called with positional arguments whose meaning is unknown; name them")
    return dict(bound), options


class _EffectiveConfig:
    """The generation configuration of a call: ``config(name)`` is the value that decoding will use."""

    def __init__(self, configs: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        self._configs = configs  # the merged one, or those that were given, in the order in which they count
        self._options = options

    def __call__(self, name: str, default: Any = None) -> Any:
        merged = len(self._configs) == 1
        if name in self._options and not (merged and hasattr(self._configs[0], name)):
            return self._options[name]
        for config in self._configs:
            if hasattr(config, name) and (merged or getattr(config, name) is not None):
                return getattr(config, name)
        return default

    def mode(self) -> str | None:
        """Transformers' generation mode; None if the model does not use its configuration class."""
        config = self._configs[0]
        return str(config.get_generation_mode().value) if hasattr(config, "get_generation_mode") else None
