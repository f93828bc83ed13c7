"""Issue 13, item 8: a broken or missing plugin stops vLLM if steering is configured. Real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sarsteer import tiny
from sarsteer.vllm.frontend.server import MIDDLEWARE
from tests.vllm.test_server import ENVIRONMENT, free_port

LOAD = "from vllm.plugins import load_general_plugins; load_general_plugins(); print('vLLM continues')"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A folder for ``PYTHONPATH`` that makes one of the plugin's modules impossible to import."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('settings', 'versions'):\n    sys.modules[f'sarsteer.vllm.{name}'] = None\n"
    )
    return os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize("steering", ["file.safetensors", ""])
def test_a_plugin_that_cannot_be_imported(steering: str, broken: str) -> None:
    """vLLM itself logs the error and continues."""
    done = run(LOAD, PYTHONPATH=broken, SARSTEER_STEERING=steering)
    assert ("vLLM continues" in done.stdout) == (not steering), done.stderr[-2000:]
    assert (done.returncode == 0) == (not steering)
    if steering:
        assert "sarsteer.vllm" in done.stderr


def test_a_plugin_that_vllm_does_not_load(steering_file: Path) -> None:
    """``VLLM_PLUGINS`` leaves it out: vLLM ignores ``SARSTEER_STEERING``, and cannot ignore ``--middleware``."""
    done = subprocess.run(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny.model_folder()),
         "--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--port", str(free_port()),
         "--middleware", MIDDLEWARE],
        env={**ENVIRONMENT, "SARSTEER_STEERING": str(steering_file), "VLLM_PLUGINS": "another"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode != 0
    assert "did not load sarsteer's plugin; add sarsteer to VLLM_PLUGINS" in done.stderr + done.stdout


def test_a_program_that_registers_is_steered_whatever_vllm_loads(steering_file: Path) -> None:
    code = f"""
import sarsteer.vllm
sarsteer.vllm.register()
from vllm import LLM
llm = LLM({str(tiny.model_folder())!r}, dtype="float32", max_model_len=512, max_num_seqs=8, enforce_eager=True)
print("proven:", [worker["proven"] and worker["confirmed"] for worker in llm.collective_rpc("sarsteer_status")])
"""
    variables = {"SARSTEER_STEERING": str(steering_file), "VLLM_PLUGINS": "another"}
    done = run(code, VLLM_ENABLE_V1_MULTIPROCESSING="0", **variables)
    assert "proven: [True]" in done.stdout, done.stderr[-2000:]
