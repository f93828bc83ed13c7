"""What sarsteer installs has a license that allows its use beside Apache-2.0, and no known vulnerability."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PERMISSIVE = re.compile(
    r"Apache|BSD|MIT|ISC|PSF|Python Software Foundation|CNRI|BSL-1\.0|Zlib|Unlicense|HPND|0BSD", re.I
)
COPYLEFT = re.compile(r"GPL|General Public|MPL|Mozilla|EUPL|CDDL|EPL|SSPL|Commons Clause|Non-?Commercial", re.I)
REVIEWED = {
    "certifi": "MPL-2.0: a file of certificates, used unchanged",
    "orjson": "MPL-2.0 in part: a binary, used unchanged",
    "tqdm": "MPL-2.0 and MIT: used unchanged",
    "soxr": "LGPL-2.1: a shared library that can be replaced, used through its Python interface",
    "pycountry": "LGPL-2.1: data, used unchanged; extra voxtral only",
    "espeakng-loader": "MIT, and its eSpeak NG is GPL-3.0: a shared library of the extra tts only",
    "agent-client-protocol": "Apache-2.0, which its metadata does not state; a dependency of Inspect AI",
}
"""Packages whose license is not plainly permissive, each with the reason why it may be used."""


def installed() -> dict[str, importlib.metadata.Distribution]:
    """Everything that ``pip install 'sarsteer[all extras but dev, docs and vllm]'`` brings, as far as it is here."""
    mine = importlib.metadata.distribution("sarsteer")
    extras = frozenset(mine.metadata.get_all("Provides-Extra") or ()) - {"dev", "docs", "vllm"}
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting: list[tuple[str, frozenset[str]]] = [("sarsteer", extras)]
    while waiting:
        name, wanted = waiting.pop()
        key = canonicalize_name(name)
        if key in found:
            continue
        try:
            found[key] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        for line in found[key].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in wanted | {""}):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    del found["sarsteer"]
    return found


def license_of(distribution: importlib.metadata.Distribution) -> str:
    metadata = distribution.metadata
    classifiers = [text for text in metadata.get_all("Classifier") or () if text.startswith("License ::")]
    first_line = (metadata.get("License") or "").strip().partition("\n")[0]
    return str(metadata.get("License-Expression") or "; ".join(classifiers) or first_line)


def test_licenses() -> None:
    packages = installed()
    assert {"torch", "transformers", "soxr"} <= set(packages)
    unclear = {}
    for name, distribution in packages.items():
        text = license_of(distribution)
        if name not in REVIEWED and (COPYLEFT.search(text) or not PERMISSIVE.search(text)):
            unclear[name] = text or "not stated"
    assert not unclear, "review them, and add a reason to REVIEWED"


@pytest.mark.parametrize(
    ("text", "fine"), [("MIT", True), ("AGPL-3.0 OR MIT", False), ("Proprietary", False), ("", False)]
)
def test_what_counts_as_permissive(text: str, fine: bool) -> None:
    assert bool(PERMISSIVE.search(text) and not COPYLEFT.search(text)) == fine


def audit(requirements: Path) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "pip_audit", "-r", str(requirements), "--no-deps", "--disable-pip"]
    command += ["--timeout", "5", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.startswith("{"):
        pytest.skip(f"no vulnerability service is reachable: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return list(json.loads(done.stdout)["dependencies"])


@pytest.mark.slow
def test_no_known_vulnerabilities(tmp_path: Path) -> None:
    pytest.importorskip("pip_audit")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    probe = tmp_path / "probe.txt"
    probe.write_text(next(line for line in lines if line.startswith("requests==")) + "\n")
    if "skip_reason" in audit(probe)[0]:  # one package first: asking for all of them would take a minute offline
        pytest.skip(f"the index does not report vulnerabilities: {audit(probe)[0]['skip_reason']}")
    found = audit(ROOT / "constraints.txt")
    vulnerable = {package["name"]: package["vulns"] for package in found if package.get("vulns")}
    assert not vulnerable
