"""What is published is whole, small enough, and runs outside of the repository."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.release.install import ROOT, SMALL, build, environment, try_it

pytest.importorskip("build")
pytest.importorskip("hatchling")

LIMIT = 20_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("builds from a clone; this is an unpacked sdist")
    return build(tmp_path_factory.mktemp("dist"))


@pytest.mark.slow
def test_the_sdist_is_complete(built: tuple[Path, Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "Makefile", "mkdocs.yml", "constraints.txt"):
        assert name in names
    for folder in ("src/sarsteer", "tests", "docs", "examples", "notebooks", "benchmarks", "training", "deploy"):
        mine = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py") if path.is_file()}
        assert mine <= names, f"missing: {sorted(mine - names)[:3]}"
        assert any(name.startswith(folder + "/") for name in names), folder
    assert not any(name.startswith((".venv", "build/", "dist/")) for name in names)


@pytest.mark.slow
def test_the_wheels_are_small_and_share_no_file(built: tuple[Path, Path, Path]) -> None:
    _, wheel, small = built
    assert wheel.stat().st_size < LIMIT
    names, weights = (set(zipfile.ZipFile(path).namelist()) for path in (wheel, small))
    assert "sarsteer_small/trained.safetensors" in weights
    assert not any(name.endswith("trained.safetensors") for name in names)
    assert all(name.startswith(("sarsteer/", "sarsteer-0")) for name in names)
    assert not names & weights


@pytest.mark.slow
def test_the_wheels_run_elsewhere(built: tuple[Path, Path, Path], tmp_path: Path) -> None:
    sdist, *wheels = built
    python = environment(tmp_path / "environment", wheels, borrow=True)
    try_it(python, sdist, tmp_path, demo=False)  # the demo takes a minute: make release-check


def test_the_versions_agree() -> None:
    import sarsteer

    def version(path: Path, form: str) -> str:
        found = re.search(form, path.read_text(encoding="utf-8"), re.MULTILINE)
        assert found, path
        return found[1]

    declared = version(ROOT / "pyproject.toml", r'^version = "(.*)"')
    assert sarsteer.__version__ == declared
    assert version(SMALL / "pyproject.toml", r'^version = "(.*)"') == declared
    assert version(ROOT / "pyproject.toml", r'"sarsteer-small==(.*?)"') == declared
    assert version(ROOT / "CITATION.cff", r"^version: (.*)$") == declared
    released = version(ROOT / "CHANGELOG.md", rf"^## {re.escape(declared)} \((\d{{4}}-\d\d-\d\d)\)$")
    assert version(ROOT / "CITATION.cff", r"^date-released: (.*)$").strip('"') == released
