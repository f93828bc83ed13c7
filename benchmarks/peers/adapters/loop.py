"""A plain loop, as research code often does it: the vector stays on the CPU and is moved at each layer and token."""

from __future__ import annotations

from typing import Any

import torch
from adapters.base import Adapter, Job, difference


class Peer(Adapter):
    """A hook per layer; calibration by four single forwards per pair that return all hidden states."""

    note = "written by us, after the description of the method"

    def attach(self, vectors: torch.Tensor, alpha: float, positions: slice = slice(-1, None)) -> None:
        def hook_for(vector: torch.Tensor) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                moved = vector.to(device=hidden.device, dtype=hidden.dtype)
                hidden[:, positions] = hidden[:, positions] + alpha * moved
                return output

            return hook

        layers = self.model.model.layers
        self.hooks = [layer.register_forward_hook(hook_for(v)) for layer, v in zip(layers, vectors.cpu(), strict=True)]

    def attach_everywhere(self, vectors: torch.Tensor, alpha: float) -> None:
        """Steer all positions: what libraries that do so are compared with."""
        self.attach(vectors, alpha, slice(None))

    def detach(self) -> None:
        for hook in self.hooks:
            hook.remove()

    @torch.no_grad()
    def calibrate(self, job: Job) -> dict[str, torch.Tensor]:
        def last(text: str) -> torch.Tensor:
            inputs = self.tokenizer(text, return_tensors="pt", add_special_tokens=False)
            seen: dict[int, torch.Tensor] = {}
            # the last entry of hidden_states is after the final norm, so hooks read the layers' outputs
            hooks = [
                layer.register_forward_hook(lambda _m, _a, out, i=i: seen.update({i: _hidden(out)[0, -1].clone()}))
                for i, layer in enumerate(self.model.model.layers)
            ]
            self.model(**inputs, output_hidden_states=True)
            for hook in hooks:
                hook.remove()
            return torch.stack([seen[i] for i in range(len(seen))])

        rows = [(last(a), last(b), last(c), last(c)) for a, b, c in zip(job.plain, job.prompted, job.safe, strict=True)]
        plain_rows, prompted, safe, _ = (torch.stack(column) for column in zip(*rows, strict=True))
        return difference(plain_rows, prompted, safe)


def _hidden(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
