"""Encode a clip once, with any model: run the model's own forward up to its decoder, and keep what it passes there.

A model's forward replaces each audio placeholder by an embedding of the clip, and then calls its decoder. A hook on the
decoder ends the forward at that call. What the decoder would have got at the placeholders *is* the clip's encoding, bit
by bit, whatever the family's encoder, projector and masks are.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn

from sarsteer.errors import ModelError
from sarsteer.models.layers import innermost_decoder, language_root

_PLACEHOLDERS = ("audio_token_id", "audio_token_index")


def placeholder_id(module: nn.Module) -> int:
    """The id of the audio placeholder, from the model's configuration.

    Raises:
        ModelError: the configuration has none.

    """
    root = language_root(module)
    for name in _PLACEHOLDERS:
        value = getattr(root.config, name, None)
        if isinstance(value, int):
            return value
    raise ModelError(f"{type(root).__name__}: its configuration has no {' or '.join(_PLACEHOLDERS)}")


@torch.no_grad()
def decoder_inputs(module: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The arguments that the model's forward would call its decoder with; the decoder does not run.

    Args:
        module: a transformers model, wrapped or not.
        inputs: of its forward.

    Raises:
        ModelError: its forward does not call its decoder with ``inputs_embeds``.

    """
    root = language_root(module)
    decoder = innermost_decoder(root)
    thread = threading.get_ident()  # other threads may be answering

    def stop(_module: nn.Module, _args: Any, arguments: dict[str, Any]) -> None:
        if threading.get_ident() == thread:
            raise _ReachedError(arguments)

    hook = decoder.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    try:
        root.base_model.forward(**inputs, use_cache=False)  # not a call: it might be compiled
    except _ReachedError as reached:
        if torch.is_tensor(reached.arguments.get("inputs_embeds")):
            return reached.arguments
    finally:
        hook.remove()
    raise ModelError(
        f"{type(root).__name__} does not pass inputs_embeds to its decoder, so its clips cannot be encoded once; "
        "set encode_once=False in its family"
    )


class _ReachedError(Exception):
    """Ends a forward at the call of its decoder."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__("reached the decoder")
        self.arguments = arguments
