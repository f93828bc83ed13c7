"""Issue 13, item 10: a steered vLLM opens no URL of a request unless the operator says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sarsteer.errors import SteeringError
from sarsteer.urls import SWITCH
from sarsteer.vllm.frontend.media import NOWHERE, close_media_urls


@pytest.mark.parametrize(
    ("switch", "domains", "result"),
    [
        ("", None, [NOWHERE]),
        ("", ["example.org"], ["example.org"]),
        ("public", ["example.org"], ["example.org"]),
        ("all", None, None),
    ],
)
def test_the_switch(switch: str, domains: Any, result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, switch)
    config = SimpleNamespace(allowed_media_domains=domains)
    close_media_urls(config)
    assert config.allowed_media_domains == result


def test_public_alone_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "public")
    with pytest.raises(SteeringError, match="--allowed-media-domains"):
        close_media_urls(SimpleNamespace(allowed_media_domains=None))
