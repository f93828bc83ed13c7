"""What the benchmark asks of a library. Needs only torch and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Adapter:
    """A library on one model.

    Attributes:
        positions: which tokens it steers: ``last`` (the last prompt token, then each decoded one) or ``all``.
        note: what it does differently, for the table.

    """

    positions = "last"
    note = ""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def attach(self, vectors: torch.Tensor, alpha: float) -> None:
        """Add ``alpha * vectors[l]`` to the output of decoder layer l; ``vectors`` is ``[L, D]``, float32."""
        raise NotImplementedError

    def detach(self) -> None:
        """Restore the model."""
        raise NotImplementedError

    def generate(self, ids: torch.Tensor, tokens: int, logits: bool = False) -> Any:
        """Answer steered; see ``plain``."""
        return plain(self.model, ids, tokens, logits)

    def calibrate(self, job: Job) -> dict[str, torch.Tensor]:
        """The refusal vectors ``[L, D]``, and the mean activations ``[L, D]`` of the safe requests.

        Raises:
            NotImplementedError: the library has no function that returns them.

        """
        raise NotImplementedError


class Job:
    """What calibration gets: prompts as strings, with the chat template applied.

    Attributes:
        plain: harmful requests with the instruction.
        prompted: the same with the refusal prompt appended.
        safe: the safe twins with the instruction.
        pairs: the same requests for libraries that write the prompts themselves.

    """

    def __init__(self, written: dict[str, Any]) -> None:
        self.plain: list[str] = written["plain"]
        self.prompted: list[str] = written["prompted"]
        self.safe: list[str] = written["safe"]
        self.pairs: list[dict[str, str]] = written["pairs"]


def plain(model: Any, ids: torch.Tensor, tokens: int, logits: bool = False) -> Any:
    """Greedy tokens ``[B, T + tokens]`` of ``ids`` ``[B, T]``; with ``logits``, also the logits ``[B, tokens, V]``."""
    out = model.generate(**options(ids, tokens, logits))
    return result(out, logits)


def options(ids: torch.Tensor, tokens: int, logits: bool) -> dict[str, Any]:
    """Arguments of transformers' ``generate``."""
    return dict(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        **(dict(return_dict_in_generate=True, output_logits=True) if logits else {}),
    )


def result(out: Any, logits: bool) -> Any:
    """What ``generate`` of an adapter returns."""
    return (out.sequences, torch.stack(out.logits, dim=1)) if logits else out


def difference(plain_rows: torch.Tensor, prompted_rows: torch.Tensor, safe: torch.Tensor) -> dict[str, torch.Tensor]:
    """The result of ``calibrate`` from activations ``[n, L, D]``."""
    return {"refusal": (prompted_rows.float() - plain_rows.float()).mean(0), "safe_mean": safe.float().mean(0)}


def stacked(by_layer: Sequence[torch.Tensor]) -> torch.Tensor:
    """``[n, L, D]`` from one ``[n, D]`` per layer."""
    return torch.stack([torch.as_tensor(rows) for rows in by_layer], dim=1)
