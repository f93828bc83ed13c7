"""One library in its own process: ``python worker.py ADAPTER FOLDER``, where FOLDER is a model of ``task.py``.

Reads one JSON command per line and answers with one JSON line. Each measurement answers plain and steered in turn on
one copy of the model, and reports process time and wall-clock time of both sides.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPLIES = os.fdopen(os.dup(1), "w")  # libraries print to standard output
os.dup2(2, 1)
sys.path[0] = str(HERE)


def peak_memory() -> int:
    """Peak resident bytes of this process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


class Worker:
    """A model, plain and steered."""

    def __init__(self, name: str, folder: Path) -> None:
        began, used = time.perf_counter(), time.process_time()
        import torch
        import transformers as T

        base_clock, base_used = time.perf_counter() - began, time.process_time() - used
        began, used = time.perf_counter(), time.process_time()
        adapters = importlib.import_module(f"adapters.{name}")
        base = importlib.import_module("adapters.base")
        self.start = {
            "torch_and_transformers": [base_used, base_clock],
            "library": [time.process_time() - used, time.perf_counter() - began],
        }
        self.torch, self.plain = torch, base.plain
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        T.logging.set_verbosity_error()
        if hasattr(T.logging, "disable_progress_bar"):
            T.logging.disable_progress_bar()
        from safetensors.torch import load_file

        self.model = T.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        written = json.loads((folder / "job.json").read_text())
        tokenizer = T.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            pad_token=written["pad_token"],
            eos_token=written["pad_token"],
            padding_side="left",
            chat_template=written["chat_template"],
        )
        tensors = load_file(folder / "job.safetensors")
        self.alpha: float = written["alpha"]
        self.vectors, self.ids = tensors["vectors"], tensors["ids"].long()
        self.job = base.Job(written["calibration"])
        self.peer: Any = adapters.Peer(self.model, tokenizer)

    def hello(self) -> dict[str, Any]:
        """What runs here."""
        import transformers

        return {
            "positions": self.peer.positions,
            "note": self.peer.note,
            "versions": {"torch": self.torch.__version__, "transformers": transformers.__version__},
            "start": self.start,
        }

    def outputs(self, out: str, batch: int, tokens: int) -> dict[str, Any]:
        """Write tokens and logits, plain and steered, to the file ``out``."""
        from safetensors.torch import save_file

        ids = self.ids[:batch]
        plain = self.plain(self.model, ids, tokens, True)
        used, began = time.process_time(), time.perf_counter()
        self.peer.attach(self.vectors, self.alpha)
        attached = [time.process_time() - used, time.perf_counter() - began]
        try:
            steered = self.peer.generate(ids, tokens, True)
        finally:
            self.peer.detach()
        after = self.plain(self.model, ids, tokens, True)
        everywhere = None
        if hasattr(self.peer, "attach_everywhere"):
            self.peer.attach_everywhere(self.vectors, self.alpha)
            everywhere = self.peer.generate(ids, tokens, True)
            self.peer.detach()
        names = ("plain", "steered", "after")
        found = {f"{n}_tokens": x[0] for n, x in zip(names, (plain, steered, after), strict=True)}
        found |= {f"{n}_logits": x[1].float() for n, x in zip(names, (plain, steered, after), strict=True)}
        if everywhere is not None:
            found |= {"everywhere_tokens": everywhere[0], "everywhere_logits": everywhere[1].float()}
        save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, out)
        return {"attach": attached}

    def time(self, batch: int, length: int, tokens: int, repeats: int, steered_first: bool) -> dict[str, Any]:
        """Process time and wall-clock time of ``repeats`` answers, plain and steered, in turn."""
        ids = self.ids[:batch, -length:]
        found = {"plain": [0.0, 0.0], "steered": [0.0, 0.0]}
        for index in range(repeats):
            for steered in (True, False) if steered_first != bool(index % 2) else (False, True):
                if steered:
                    self.peer.attach(self.vectors, self.alpha)
                try:
                    run = self.peer.generate if steered else lambda i, n: self.plain(self.model, i, n)
                    run(ids[:, -2:], 2)  # hooks were just added
                    used, began = time.process_time(), time.perf_counter()
                    run(ids, tokens)
                    times = found["steered" if steered else "plain"]
                    times[0] += time.process_time() - used
                    times[1] += time.perf_counter() - began
                finally:
                    if steered:
                        self.peer.detach()
        return found

    def calibrate(self, out: str = "") -> dict[str, Any]:
        """Process time and wall-clock time of a calibration; its result goes to the file ``out``."""
        from safetensors.torch import save_file

        used, began = time.process_time(), time.perf_counter()
        found = self.peer.calibrate(self.job)
        times = [time.process_time() - used, time.perf_counter() - began]
        if out:
            save_file({name: tensor.float().contiguous().clone() for name, tensor in found.items()}, out)
        return {"calibrate": times}

    def memory(self, batch: int, tokens: int) -> dict[str, Any]:
        """Peak memory after plain answers, and after steered ones."""
        ids = self.ids[:batch]
        self.plain(self.model, ids, tokens)
        plain = peak_memory()
        self.peer.attach(self.vectors, self.alpha)
        self.peer.generate(ids, tokens)
        return {"plain": plain, "steered": peak_memory()}


def main() -> None:
    worker = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if worker is None:
                worker = Worker(sys.argv[1], Path(sys.argv[2]))
            answer = getattr(worker, command.pop("do"))(**command)
        except NotImplementedError:
            answer = {"absent": True}
        except Exception as error:  # a library that fails is reported with its error
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"[:300]}
        REPLIES.write(json.dumps(answer) + "\n")
        REPLIES.flush()


if __name__ == "__main__":
    main()
