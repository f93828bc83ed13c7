"""The environment of the server's process."""

from __future__ import annotations

from sarsteer.vllm.frontend.server import server_environment


def test_the_server_loads_the_plugin_whatever_vllm_plugins_says() -> None:
    options = {"SARSTEER_STEERING": "x", "SARSTEER_K": None}
    assert server_environment({"SARSTEER_K": "3"}, options) == {"SARSTEER_STEERING": "x", "SARSTEER_K": "3"}
    for before, after in (("", "sarsteer"), ("a", "a,sarsteer"), ("sarsteer,a", "sarsteer,a")):
        assert server_environment({"VLLM_PLUGINS": before}, options)["VLLM_PLUGINS"] == after
