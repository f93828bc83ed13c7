"""The files in ``deploy/``: valid, and about the metrics, addresses and options that the server has."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("prometheus_client")

import typer
import yaml

from sarsteer import Steering
from sarsteer.cli.main import app
from sarsteer.server.metrics import Metrics
from sarsteer.server.policy import read_policy

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "sarsteer.json"
KEYS = {"SUPPORT_KEY": "support-key-0123456789", "METRICS_KEY": "metrics-key-0123456789"}
YAML = sorted([*DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.yaml"), ROOT / "examples" / "github-workflow.yml"])


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def series() -> dict[str, set[str]]:
    """The labels of every time series that the server can write."""
    metrics = Metrics()
    metrics.watch(lambda: True, lambda: 0, lambda: 0)
    labels = {name: set(one._labelnames) for name, one in metrics.registry._names_to_collectors.items()}
    endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    found = {}
    for family in metrics.registry.collect():
        for ending in endings[family.type]:
            name = family.name + ending
            found[name] = labels[name] | ({"le"} if ending == "_bucket" else set())
    return found


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    (alerts,) = documents(DEPLOY / "prometheus" / "alerts.yml")
    return [
        *(target["expr"] for panel in panels for target in panel["targets"]),
        *(rule["expr"] for group in alerts["groups"] for rule in group["rules"]),
    ]


def options_of_serve() -> set[str]:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {name for option in command.params for name in option.opts}


def commands() -> dict[str, list[str]]:
    """How each file starts the server."""
    compose, kubernetes = documents(DEPLOY / "compose.yaml")[0], documents(DEPLOY / "kubernetes.yaml")
    deployment = next(one for one in kubernetes if one["kind"] == "Deployment")
    found = {
        "compose": compose["services"]["sarsteer"]["command"],
        "kubernetes": deployment["spec"]["template"]["spec"]["containers"][0]["args"],
        "systemd": shlex.split(unit()["Service"]["ExecStart"])[1:],
    }
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        found[name] = json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[-1])
    return found


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "sarsteer.service", encoding="utf-8")
    return parser


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_is_valid(path: Path) -> None:
    assert all(isinstance(one, dict) for one in documents(path))


def test_dashboard_and_alerts_use_metrics_and_labels_that_exist() -> None:
    known = series()
    for text in expressions():
        names = re.findall(r"\bsarsteer_\w+", text)
        assert names, text
        assert set(names) <= known.keys()
        used = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|!~|=)\s*\"", re.sub(r"up\{[^}]*\}", "", text)))
        for group in re.findall(r"\bby \(([^)]*)\)", text):
            used |= {label.strip() for label in group.split(",")}
        assert used <= set.union(*(known[name] for name in names)), text


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(expressions())
    missing = {name for name in series() if re.sub(r"_(bucket|sum|count)$", "", name) not in shown}
    assert not missing


def test_commands_have_real_options_and_time_to_drain() -> None:
    known = options_of_serve()
    for name, command in commands().items():
        assert command[0] == "serve", name
        used = {word.partition("=")[0] for word in command if word.startswith("--")}
        assert used <= known, name
        assert "--policy" in used, "keys are required"
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["sarsteer"]
    pod = next(one for one in documents(DEPLOY / "kubernetes.yaml") if one["kind"] == "Deployment")["spec"]["template"]
    seconds = int(re.findall(r"--drain-seconds[ =](\d+)", " ".join(commands()["kubernetes"]))[0])
    wait = int(pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert int(compose["stop_grace_period"].rstrip("s")) > seconds
    assert int(unit()["Service"]["TimeoutStopSec"]) > seconds
    assert pod["spec"]["terminationGracePeriodSeconds"] > seconds + wait


def test_kubernetes_probes_and_keys() -> None:
    pod = next(one for one in documents(DEPLOY / "kubernetes.yaml") if one["kind"] == "Deployment")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    probes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}
    assert {one["name"] for one in container["env"] if "secretKeyRef" in one["valueFrom"]} == KEYS.keys()


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_policies_are_read_by_the_server(where: str, steering: Steering, tmp_path: Path) -> None:
    file = steering.save(tmp_path / "steering.safetensors")
    text = (DEPLOY / "config" / "policy.yaml").read_text(encoding="utf-8")
    if where == "kubernetes":
        text = documents(DEPLOY / "kubernetes.yaml")[0]["data"]["policy.yaml"]
        text = text.replace("/var/lib/sarsteer/steering.safetensors", str(file))
    (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
    policy = read_policy(tmp_path / "policy.yaml", KEYS)
    assert policy.keys
    assert policy.monitor is not None
