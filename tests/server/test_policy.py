"""Policy files: valid as a whole, or an error that names the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from sarsteer.errors import SarsteerError
from sarsteer.server.errors import ApiError
from sarsteer.server.policy import read_policy, single_tenant
from sarsteer.steering.strength import Strength
from tests.server.conftest import MONITOR, TENANTS, key


def test_tenants_get_what_the_file_says(folder: Path) -> None:
    policy = read_policy(folder / "policy.yaml")
    assert [tenant.name for tenant in policy.tenants] == list(TENANTS)
    for name in TENANTS:
        assert policy.tenant_for(key(name)).name == name
    weak, shadow = policy.tenant_for(key("weak")), policy.tenant_for(key("shadow"))
    assert (weak.strength.alpha, weak.strength.gate, weak.applied) == (0.05, None, weak.strength)
    assert shadow.applied.alpha == 0
    assert shadow.applied.gate is shadow.strength.gate is not None
    with pytest.raises(ApiError, match="incorrect"):
        policy.tenant_for(key("nobody"))
    with pytest.raises(ApiError, match="no API key"):
        policy.tenant_for(None)
    policy.check_monitor(MONITOR)
    with pytest.raises(ApiError):
        policy.check_monitor(key("weak"))


FIRST = "tenants:\n  - {name: a, key: key-of-a-0123456789, steering: steering.safetensors"
BAD = [
    ("", "the file"),
    ("[1, 2]", "the file"),
    ("version: 2\ntenants: []", "version"),
    ("version: 1\ntenants: []", "tenants"),
    (f"version: 1\n{FIRST}}}\nother: 1", "other"),
    (f"version: 1\n{FIRST}, alhpa: 0.1}}", "tenants.0.alhpa"),
    (f"version: 1\n{FIRST}, alpha: .nan}}", "tenants.0.alpha"),
    (f"version: 1\n{FIRST}, alpha: '0.1'}}", "tenants.0.alpha"),
    (f"version: 1\n{FIRST}, alpha: 0}}", "alpha is 0"),
    (f"version: 1\n{FIRST}, alpha: -1}}", "negative alpha"),
    (f"version: 1\n{FIRST}, alpha: 0.1, alpha: 0.2}}", "occurs twice"),
    (f"version: 1\n{FIRST}, k: 1000}}", "k = 1000"),
    (f"version: 1\n{FIRST}, mode: shadow}}", "shadow mode records"),
    (f"version: 1\n{FIRST}, refusal_text: No.}}", "refusal_text"),
    (f"version: 1\n{FIRST}, gate: {{threshold: 99}}}}", "never|steer none"),
    (f"version: 1\n{FIRST}, gate: {{threshold: 0, target_fpr: 0.1}}}}", "give one"),
    (f"version: 1\n{FIRST}, key_env: X}}", "exactly one of key"),
    (f"version: 1\n{FIRST}}}\n  - {{name: a, key: key-of-b-0123456789, steering: steering.safetensors}}", "name of a"),
    (f"version: 1\n{FIRST}}}\n  - {{name: b, key: key-of-a-0123456789, steering: steering.safetensors}}", "key of a"),
    (f"version: 1\nmonitor: {{key: key-of-a-0123456789}}\n{FIRST}}}", "key of a tenant"),
    ("version: 1\ntenants:\n  - {name: a, key: short, steering: steering.safetensors}", "at least 16"),
    ("version: 1\ntenants:\n  - {name: a, key_env: UNSET_VARIABLE, steering: x.safetensors}", "UNSET_VARIABLE"),
    ("version: 1\ntenants:\n  - {name: a, key_file: nowhere, steering: x.safetensors}", "cannot be read"),
    ("version: 1\ntenants:\n  - {name: a, key: key-of-a-0123456789, steering: no.safetensors}", "no.safetensors"),
    ("version: 1\ntenants:\n  - {name: 'a b', key: key-of-a-0123456789, steering: x.safetensors}", "name"),
    ("version: 1\n  tenants: {", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_bad_policies(folder: Path, text: str, says: str) -> None:
    path = folder / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SarsteerError, match=says) as caught:
        read_policy(path, environment={})
    assert "bad.yaml" in str(caught.value)
    assert "0123456789" not in str(caught.value)  # no key in an error


def test_keys_from_file_and_environment(folder: Path) -> None:
    (folder / "one-key").write_text("# a comment\n\nkey-from-a-file-0123\n")
    path = folder / "sources.yaml"
    path.write_text(
        "version: 1\ntenants:\n"
        "  - {name: a, key_file: one-key, steering: steering.safetensors}\n"
        "  - {name: b, key_env: KEY_OF_B, steering: steering.safetensors, gate: {mode: logistic, target_fpr: 0.2}}\n"
    )
    policy = read_policy(path, environment={"KEY_OF_B": "key-from-environment-0123"})
    assert policy.tenant_for("key-from-a-file-0123").name == "a"
    second = policy.tenant_for("key-from-environment-0123")
    assert second.strength.gate is not None
    assert second.strength.gate.mode == "logistic"
    with pytest.raises(ApiError, match="monitor"):
        policy.check_monitor("key-from-a-file-0123")


def test_one_tenant_without_a_file(folder: Path) -> None:
    source = str(folder / "steering.safetensors")
    open_to_all = single_tenant(source, Strength(0.1), [])
    assert open_to_all.tenant_for(None) is open_to_all.tenant_for("anything")
    keys = [key("one"), key("two")]
    closed = single_tenant(source, Strength(0.1), keys)
    assert [closed.tenant_for(one).name for one in keys] == ["default", "default"]
    closed.check_monitor(key("one"))
    with pytest.raises(ApiError):
        closed.tenant_for(key("three"))
