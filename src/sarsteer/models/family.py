"""Model families: what differs between them and cannot be read from the model.

A family that the generic path handles needs no entry. The modules of ``sarsteer.models.families`` define the built-in
ones, installed packages add theirs through the entry-point group ``sarsteer.families``, and scripts call ``register``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sarsteer.errors import ModelError
from sarsteer.models.layers import unwrap

GROUP = "sarsteer.families"
"""The entry-point group of third-party families; each entry point is a ``Family``."""

_PACKAGE = "sarsteer.models.families"

EncodeAudio = Callable[[Any, dict[str, torch.Tensor]], list[torch.Tensor]]
Load = Callable[..., tuple[Any, Any, dict[str, Any]]]


@dataclass(frozen=True)
class Family:
    """What sarsteer knows about a model family.

    Attributes:
        name: the family's usual name.
        architectures: transformers class names, as in ``config.architectures``.
        checkpoints: published checkpoints that the entry was written for.
        window_seconds: the longest clip that the encoder takes whole; longer ones are refused, never cut silently.
        cuts_at_window: whether the processor silently cuts clips at its feature extractor's window; the window is then
            the limit.
        min_clips, max_clips: bounds on the clips of one conversation.
        encode_audio: from the model and the processor's tensors to one ``[tokens, D]`` embedding per clip, as the
            language model takes them; clips are then encoded once and cached. None: the model's forward encodes.
        audio_options: from the processor and the samples of the longest clip to processor options that skip what
            ``encode_audio`` does not use.
        encode_once: whether clips are encoded one by one by the model's own encoder, and cached, as with
            ``encode_audio`` but without code of the family; see ``clip_encoding``. For conversations of audio and text.
        audio_token_id: from the model to the id of the placeholders that the clips' embeddings replace; by default the
            id in its configuration.
        padding_leaks: whether the padding of a shorter clip changes its encoding. Rows are then batched only with rows
            whose media have the same shapes, so that an answer does not depend on the batch.
        prefix_reuse: whether the decoder's key-value cache can be cropped and continued; see ``continuation``. Models
            whose configuration has a recurrent state are refused by themselves, see ``prefix_cache``.
        layers: dotted path to the decoder layers, if the generic search fails.
        model_class: the subclass of ``AudioLanguageModel`` for families with their own prompts, forward or decoding.
        load: loads checkpoints that need more than transformers; has the arguments and the result of
            ``loading.load_with_transformers``.
        tested: what this repository's tests ran it on.
        engines: where its checkpoints run: ``"transformers"``, ``"vllm"``, ``"api"``.
        limits: what a user should know before choosing it; printed in the table of the docs.

    """

    name: str
    architectures: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    window_seconds: float | None = None
    cuts_at_window: bool = True
    min_clips: int = 0
    max_clips: int | None = None
    encode_audio: EncodeAudio | None = None
    encode_once: bool = False
    audio_options: Callable[[Any, int], dict[str, Any]] | None = None
    audio_token_id: Callable[[Any], int] | None = None
    padding_leaks: bool = True
    prefix_reuse: bool = False
    layers: str | None = None
    model_class: type[Any] | None = None
    load: Load | None = None
    tested: str = "real classes and processor, tiny random weights"
    engines: tuple[str, ...] = ("transformers",)
    limits: str = ""


GENERIC = Family("generic")
"""Any model without an entry."""

_registered: dict[str, Family] = {}
"""Families that ``register`` added, by architecture."""
_discovered: dict[str, Family] | None = None
"""Built-in and installed families, by architecture; None before the first lookup."""


def register(family: Family) -> None:
    """Add a family, or replace the one that has its architectures."""
    if not family.architectures:
        raise ModelError(f"family {family.name!r} has no architectures; name its transformers classes")
    for architecture in family.architectures:
        _registered[architecture] = family


def family_of(module: nn.Module) -> Family:
    """The family of a model, by its class; ``GENERIC`` if there is no entry."""
    return family_named(type(unwrap(module)).__name__) or GENERIC


def family_named(architecture: str) -> Family | None:
    """The family of a transformers class name."""
    return _families().get(architecture)


def families() -> list[Family]:
    """All families, sorted by name."""
    return sorted(dict.fromkeys(_families().values()), key=lambda family: family.name.lower())


def _families() -> dict[str, Family]:
    global _discovered
    if _discovered is None:
        _discovered = {name: family for family in _discover() for name in family.architectures}
    return {**_discovered, **_registered}


def _discover() -> Iterator[Family]:
    package = importlib.import_module(_PACKAGE)
    for module in pkgutil.iter_modules(package.__path__, f"{_PACKAGE}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Family):
                yield value
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            value = entry.load()
        except Exception as error:
            raise ModelError(
                f"family {entry.name!r} ({entry.value}) cannot be imported ({type(error).__name__}: {error}); "
                "fix or uninstall its package"
            ) from error
        if not isinstance(value, Family):
            raise ModelError(f"family {entry.name!r} ({entry.value}) is not a sarsteer.models.family.Family")
        yield value
