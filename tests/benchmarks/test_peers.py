"""The checks that decide whether a library is timed, and the tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.peers import __main__ as peers
from benchmarks.peers import environments, table

ROOT = Path(__file__).parents[2]


def outputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    plain = torch.randn(2, 3, 11)
    found = {"plain_logits": plain, "steered_logits": plain + 0.5, "after_logits": plain.clone()}
    found["steered_logits"][..., 0] += 1
    return found | {name.replace("logits", "tokens"): logits.argmax(-1) for name, logits in found.items()}


def test_equal_outputs_are_timed() -> None:
    assert peers.difference(outputs(), {"name": "sarsteer", **outputs()}) is None


@pytest.mark.parametrize("side", ["plain", "steered", "after"])
def test_other_logits_are_not_timed(side: str) -> None:
    changed = outputs()
    changed[f"{side}_logits"][1, 2, 5] += 1e-3
    assert f"other logits {side} than sarsteer" in str(peers.difference(changed, {"name": "sarsteer", **outputs()}))


def test_nan_and_unsteered_outputs_are_not_timed() -> None:
    broken, unsteered = outputs(), outputs()
    broken["steered_logits"][0, 0, 0] = torch.nan
    unsteered["steered_logits"] = unsteered["plain_logits"].clone()
    unsteered["steered_tokens"] = unsteered["plain_tokens"].clone()
    assert "other logits" in str(peers.difference(broken, {"name": "sarsteer", **outputs()}))
    assert "do not change" in str(peers.difference(unsteered, {"name": "sarsteer", **unsteered}))


def test_requirements_pin_torch_and_the_library() -> None:
    for library in environments.LIBRARIES:
        if not library.own:
            text = "".join(path.read_text() for path in environments.HERE.glob(f"requirements/{library.name}.*"))
            assert "torch==" in text
            assert f"{library.name}==" in text


def test_tables_show_measured_ratios_and_what_is_missing() -> None:
    ratio = {"ratio": 1.25, "interval": [1.2, 1.3]}
    agreed = {"positions": "last", "attach": [0.002, 0.002], "versions": {"transformers": "5.0"}}
    results = {
        "failed": {"repeng": "did not install"},
        "toy": {"agreed": {"sarsteer": agreed}, "decode, batch 1": {"sarsteer": {"steered_over_plain": ratio}}},
    }
    text = table.markdown(results)
    assert "| decode, batch 1 | 1.250 [1.200, 1.300] |" in text
    assert "**repeng**: did not install" in text


def test_the_gpu_benchmark_refuses_a_machine_without_cuda() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith("no CUDA device")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_gpu_benchmark_runs_with_a_tiny_model() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--rounds", "2", "--tokens", "3", "--pairs", "2", "--eager"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "decode, batch 8: steered / plain" in done.stdout
    assert "calibration:" in done.stdout


@pytest.mark.slow
def test_a_worker_compares_and_times(tmp_path: Path) -> None:
    from benchmarks.peers import task

    process = peers.Process(
        environments.LIBRARIES[1], Path(sys.executable), task.write("toy", tmp_path), tmp_path / "log"
    )
    try:
        answer = process.ask("outputs", out=str(tmp_path / "out.safetensors"), batch=1, tokens=2)
        times = process.ask("time", batch=1, length=4, tokens=2, repeats=2, steered_first=True)
        wrong = process.ask("time", batch=0, length=4, tokens=2, repeats=2, steered_first=True)
    finally:
        process.stop()
    assert "attach" in answer, json.dumps(answer)
    assert min(*times["plain"], *times["steered"]) > 0
    assert "error" in wrong
