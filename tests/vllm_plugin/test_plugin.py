"""Which vLLM the plugin accepts, and what it does without configuration."""

from __future__ import annotations

import importlib
import logging
import sys
from types import SimpleNamespace

import pytest

from sarsteer import vllm
from sarsteer.errors import SteeringError
from sarsteer.vllm import plugin, versions
from sarsteer.vllm.frontend import server
from sarsteer.vllm.wrapper import wrap


def test_untested_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    versions.check_version("0.32.0")
    versions.check_version("0.32.4+cpu")
    for version in ("0.31.9", "0.33.0", "0.320.0", "1.0"):
        with pytest.raises(SteeringError, match=f"vLLM {version} was not tested"):
            versions.check_version(version)
    monkeypatch.setenv(versions.FORCE, "1")
    versions.check_version("0.33.0")


def test_without_configuration_it_logs_once_at_debug_level(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SARSTEER_STEERING", raising=False)
    monkeypatch.setattr(plugin, "is_tested", lambda: False)
    with caplog.at_level("DEBUG"):
        plugin.install()
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_functions_are_wrapped_once() -> None:
    owner = SimpleNamespace(double=lambda x: 2 * x)
    for _ in range(2):
        wrap(owner, "double", lambda original, x: original(x) + 1)
    assert owner.double(3) == 7
    with pytest.raises(SteeringError, match="this vLLM's SimpleNamespace has no triple"):
        wrap(owner, "triple", lambda original: original())


def test_a_broken_plugin_stops_vllm_if_steering_is_configured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 13, item 8. ``tests/vllm/test_plugin.py`` does the same in vLLM's own processes."""

    def broken() -> None:
        raise ImportError("cannot import name 'gone'")

    monkeypatch.setattr(plugin, "install", broken)
    monkeypatch.setenv("SARSTEER_STEERING", "file.safetensors")
    with pytest.raises(ImportError, match="gone"):
        vllm.register()
    monkeypatch.delenv("SARSTEER_STEERING")
    logger = logging.getLogger("sarsteer.vllm")
    monkeypatch.setattr(logger, "disabled", False)  # another library's logging configuration may have disabled it
    with caplog.at_level(logging.WARNING, logger=logger.name):
        vllm.register()
    assert "sarsteer cannot be loaded" in caplog.text


def test_the_required_middleware_cannot_be_imported_without_steering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SARSTEER_STEERING", raising=False)
    with pytest.raises(SteeringError, match="set SARSTEER_STEERING=FILE"):
        importlib.import_module("sarsteer.vllm.required")
    monkeypatch.setenv("SARSTEER_STEERING", "file.safetensors")
    with pytest.raises(SteeringError, match="did not load sarsteer's plugin; add sarsteer to VLLM_PLUGINS"):
        importlib.import_module("sarsteer.vllm.required")
    monkeypatch.setattr(plugin, "_installed", True)
    assert server.MIDDLEWARE == "sarsteer.vllm.required.Steering"
    assert importlib.import_module("sarsteer.vllm.required").Steering
    sys.modules.pop("sarsteer.vllm.required")
