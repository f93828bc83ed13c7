"""Run all libraries side by side: ``make bench-peers``, or ``python -m benchmarks.peers --only NAME``.

Each library runs in a process and an environment of its own, on the same model, prompts, vectors and positions. Tokens
and logits are compared before anything is timed; a library with other results is reported and not timed. Then the
processes take turns, one at a time, in another order each round, plain and steered in each. Figures are medians of
process time, which other jobs on the machine disturb least, with 95 % intervals (bootstrap over rounds); the JSON file
has wall-clock time too. Finished cells are kept in ``build/peers``: an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.peers import environments, table, task
from benchmarks.spread import median_interval

HERE = Path(__file__).parent
BATCHES = (1, 8, 32)
WORK = {"prefill": 32, "decode": 4}  # tokens in the prompt
CELLS = (*(f"{what}, batch {batch}" for what in WORK for batch in BATCHES), "calibrate")
DECODED = {"toy": 16, "100M": 8}  # tokens after the first
TOLERANCE = 1e-4
"""Largest difference of logits, as a share of their standard deviation. Versions of transformers order float32 sums in
other ways, which changes logits by about 1e-6 of it; the vectors change them by more than 1e-2 of it."""
ROUNDS = {"toy": 13, "100M": 5}
REPEATS = {"toy": {1: 3}, "100M": {}}
"""Answers of each side in a round, by batch; 1 where none is given. Short answers vary most."""


class Process:
    """A running worker."""

    def __init__(self, library: environments.Library, python: Path, folder: Path, log: Path) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # start-up would be the time of compiling
        if not library.own:
            env.pop("PYTHONPATH", None)
        self.library = library
        self._process = subprocess.Popen(
            [str(python), str(HERE / "worker.py"), library.adapter, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("a"), text=True, env=env,
        )  # fmt: skip

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; ``{"error": ...}`` if it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        found: dict[str, Any] = json.loads(line) if line else {"error": "its process ended; see the log"}
        return found

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Bench:
    """The stages, and their results so far."""

    def __init__(self, folder: Path, only: str | None, rounds: int | None, wanted: list[str]) -> None:
        self.folder, self.only, self.rounds, self.wanted = folder, only, rounds, wanted
        self.partial = folder / "results.json"
        self.results: dict[str, Any] = json.loads(self.partial.read_text()) if self.partial.is_file() else {}
        self.pythons: dict[str, Path] = {}

    def save(self) -> None:
        """Write the results so far."""
        self.partial.write_text(json.dumps(self.results, indent=1) + "\n")

    def install(self) -> None:
        """Create the environments, and record why one is missing."""
        failed = self.results.setdefault("failed", {})
        for library in environments.LIBRARIES:
            try:
                self.pythons[library.name] = environments.python_of(library, self.folder / "env")
                failed.pop(library.name, None)
            except environments.InstallError as error:
                failed[library.name] = str(error)
            except OSError as error:
                failed[library.name] = f"did not install: {error}"
        self.save()

    def chosen(self, cell: dict[str, Any]) -> list[environments.Library]:
        """The libraries that a cell lacks, and those that they are compared with in the same rounds."""
        present = [one for one in environments.LIBRARIES if one.name in self.pythons]
        if self.only is not None:
            return [one for one in present if one.name in (self.only, "sarsteer", "plain loop")]
        missing = [one for one in present if one.name not in cell]
        references = ("sarsteer", "plain loop")
        return [one for one in present if one in missing or one.name in references] if missing else []

    def model(self, name: str) -> None:
        """All measurements on one model."""
        folder = task.write(name, self.folder / "models")
        found = self.results.setdefault(name, {})
        cells = [cell for cell in CELLS if cell in self.wanted]
        wanted = {one.name for cell in cells for one in self.chosen(found.get(cell, {}))}
        if wanted:
            processes = [
                Process(one, self.pythons[one.name], folder, self.folder / f"{one.name}.log")
                for one in environments.LIBRARIES
                if one.name in wanted
            ]
            try:
                self._compare(name, processes)
                agreed = found["agreed"]
                for cell in cells:
                    chosen = {one.name for one in self.chosen(found.get(cell, {}))}
                    running = [one for one in processes if one.library.name in chosen and one.library.name in agreed]
                    if running:
                        found.setdefault(cell, {}).update(self._cell(name, cell, running))
                        self.save()
            finally:
                for process in processes:
                    process.stop()
        if "memory" not in found or self.only is not None:
            self._memory(name, folder)

    def _compare(self, name: str, processes: list[Process]) -> None:
        """Check tokens, logits and calibrations of all libraries; record who agrees."""
        found = self.results[name]
        agreed, outputs = found.setdefault("agreed", {}), {}
        for process in processes:
            peer, out = process.library.name, self.folder / f"outputs-{process.library.adapter}.safetensors"
            agreed.pop(peer, None)
            hello = process.ask("hello")
            answer = hello if "error" in hello else process.ask("outputs", out=str(out), batch=3, tokens=6)
            if "error" in answer:
                self._fail(name, peer, answer["error"])
                continue
            outputs[peer] = (hello, answer, load_file(out))
        for peer, (hello, answer, tensors) in outputs.items():
            expected = reference(outputs, hello["positions"], peer)
            problem = difference(tensors, expected)
            if problem is None:
                agreed[peer] = {**hello, **answer, "checked_against": expected["name"]}
                self.results["failed"].pop(f"{peer}, {name}", None)
            else:
                self._fail(name, peer, problem)
        self.save()

    def _fail(self, name: str, peer: str, reason: str) -> None:
        print(f"{name}, {peer}: {reason}", flush=True)
        self.results["failed"][f"{peer}, {name}"] = reason

    def _cell(self, name: str, cell: str, processes: list[Process]) -> dict[str, Any]:
        """Measure one cell of the table; returns the figures of each library."""
        if cell == "calibrate":
            return self._calibrate(name, processes)
        what, batch = cell.split(", batch ")
        length, steps = WORK[what], 1 if what == "prefill" else DECODED[name]
        tokens = 1 if what == "prefill" else 1 + steps
        repeats = REPEATS[name].get(int(batch), 1)
        work = dict(batch=int(batch), length=length, tokens=tokens, repeats=repeats)

        def measure(process: Process, index: int) -> dict[str, Any]:
            return process.ask("time", **work, steered_first=bool(index % 2))

        rounds = self._rounds(name, cell, processes, measure)
        figures = {}
        for peer, times in rounds.items():
            of = {(s, k): [t[s][k] for t in times] for s in ("plain", "steered") for k in (0, 1)}
            own = [t["steered"][0] for t in rounds["sarsteer"]]
            own_overhead = [t["steered"][0] / t["plain"][0] for t in rounds["sarsteer"]]
            overhead = [a / b for a, b in zip(of["steered", 0], of["plain", 0], strict=True)]
            figures[peer] = {
                "steered_over_plain": ratio(of["steered", 0], of["plain", 0]),
                "steered_over_plain_clock": ratio(of["steered", 1], of["plain", 1]),
                "over_sarsteer": ratio(of["steered", 0], own),
                "overhead_over_sarsteer": ratio(overhead, own_overhead),
                "ms_per_step": 1e3 * median_interval(of["steered", 0])[0] / steps / repeats,
                "plain_ms_per_step": 1e3 * median_interval(of["plain", 0])[0] / steps / repeats,
                "rounds": len(times),
                "load": os.getloadavg()[0],
            }
        return figures

    def _calibrate(self, name: str, processes: list[Process]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        expected = None
        able = []
        for process in processes:
            peer, out = process.library.name, self.folder / f"calibrated-{process.library.adapter}.safetensors"
            answer = process.ask("calibrate", out=str(out))
            if "absent" in answer or "error" in answer:
                results[peer] = {"absent": answer.get("error", "has no function that returns these activations")}
                continue
            tensors = load_file(out)
            expected = tensors if expected is None else expected
            rows = min(len(tensors["refusal"]), len(expected["refusal"]))
            worst = max(
                float((tensors[key][:rows] - expected[key][:rows]).abs().max() / expected[key].std())
                for key in ("refusal", "safe_mean")
            )
            if worst > 1e-3:  # batches of other sizes and padding: rounding of float32 in sums of n activations
                results[peer] = {"absent": f"other vectors than sarsteer (by {worst:.1e} of their standard deviation)"}
                continue
            results[peer] = {"layers": len(tensors["refusal"]), "difference": worst}
            able.append(process)
        rounds = self._rounds(name, "calibrate", able, lambda process, _index: process.ask("calibrate"))
        for peer, times in rounds.items():
            own = [t["calibrate"][0] for t in rounds["sarsteer"]]
            used = [t["calibrate"][0] for t in times]
            results[peer] |= {
                "over_sarsteer": ratio(used, own),
                "ms_per_pair": 1e3 * median_interval(used)[0] / task.PAIRS[name],
                "rounds": len(times),
            }
        return results

    def _rounds(
        self, name: str, cell: str, processes: list[Process], measure: Callable[[Process, int], dict[str, Any]]
    ) -> dict[str, list[dict[str, Any]]]:
        """The processes in turn, in another order each round."""
        times: dict[str, list[dict[str, Any]]] = {process.library.name: [] for process in processes}
        for index in range(self.rounds or (5 if cell == "calibrate" else ROUNDS[name])):
            first = index % len(processes)
            for process in processes[first:] + processes[:first]:
                answer = measure(process, index)
                if "error" in answer:
                    raise SystemExit(f"{name}, {cell}, {process.library.name}: {answer['error']}")
                times[process.library.name].append(answer)
        print(f"{name}, {cell}: measured {', '.join(times)}", flush=True)
        return times

    def _memory(self, name: str, folder: Path) -> None:
        """Peak memory and start-up, in a fresh process."""
        found = self.results[name]
        memory = found.setdefault("memory", {})
        start = found.setdefault("start", {})
        libraries = [one for one in environments.LIBRARIES if one.name in found.get("agreed", {})]
        if self.only is not None:
            libraries = [one for one in libraries if one.name in (self.only, "sarsteer")]
        for one in libraries:
            process = Process(one, self.pythons[one.name], folder, self.folder / f"{one.name}.log")
            seen = [found["agreed"][one.name]["start"], process.ask("hello")["start"]]
            memory[one.name] = process.ask("memory", batch=8, tokens=8)
            process.stop()
            # the first start may have compiled the library's files
            start[one.name] = {part: min(t[part][0] for t in seen) for part in seen[0]}
        self.save()


def ratio(over: list[float], under: list[float]) -> dict[str, Any]:
    """Median of the rounds' ratios and its 95 % interval."""
    median, interval = median_interval([a / b for a, b in zip(over, under, strict=True)])
    return {"ratio": median, "interval": interval}


def reference(outputs: dict[str, Any], positions: str, peer: str) -> dict[str, Any]:
    """What the outputs of ``peer`` must equal: those of sarsteer, or of the plain loop at all positions."""
    if positions == "all":
        loop = outputs["plain loop"][2]
        moved = {f"steered_{kind}": loop[f"everywhere_{kind}"] for kind in ("tokens", "logits")}
        return {"name": "plain loop", **loop, **moved}
    name = "plain loop" if peer == "sarsteer" else "sarsteer"
    return {"name": name, **outputs[name][2]}


def difference(tensors: dict[str, torch.Tensor], expected: dict[str, Any]) -> str | None:
    """What is wrong with a library's outputs, or None."""
    for side in ("plain", "steered", "after"):
        if f"{side}_logits" not in expected:
            continue
        want, got = expected[f"{side}_logits"], tensors[f"{side}_logits"]
        worst = float((want - got).abs().max() / want.std())
        if want.shape != got.shape or not worst <= TOLERANCE:
            return f"other logits {side} than {expected['name']} (by {worst:.1e} of their standard deviation)"
        if not torch.equal(expected[f"{side}_tokens"], tensors[f"{side}_tokens"]):
            return f"other tokens {side} than {expected['name']}"
    first = tensors["steered_logits"][:, 0]
    moved = float((first - tensors["plain_logits"][:, 0]).abs().max() / first.std())
    return None if moved > 100 * TOLERANCE else f"the vectors do not change its logits (by {moved:.1e})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [one.name for one in environments.LIBRARIES if one.name != "sarsteer"]
    parser.add_argument("--only", choices=names, help="measure this library again, beside sarsteer")
    parser.add_argument("--models", nargs="+", choices=task.MODELS, default=list(task.MODELS))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), metavar="CELL", help=f"of {CELLS}")
    parser.add_argument("--rounds", type=int, help=f"by default {ROUNDS}")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/peers"), help="environments, models, partial results"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.folder.absolute(), args.only, args.rounds, args.cells)
    bench.install()
    for name in args.models:
        bench.model(name)
    bench.results["not_measured"] = environments.NOT_MEASURED
    bench.save()
    args.out.write_text(bench.partial.read_text())
    table.write(bench.results)
    print(table.markdown(bench.results))


if __name__ == "__main__":
    main()
