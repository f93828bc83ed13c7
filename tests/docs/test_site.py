"""The site builds with strict links, has the pages made from the code, and loads nothing from the network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from sarsteer import errors
from sarsteer.cli.main import app

pytest.importorskip("material")
pytest.importorskip("mkdocs_jupyter")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)  # a warning, such as a dead link, is an error
    return folder


@pytest.mark.slow
def test_every_command_and_error_has_its_place(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f'id="sarsteer-{name}"' in commands
    page = (site / "reference" / "errors.html").read_text(encoding="utf-8")
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, (errors.SarsteerError, UserWarning)):
            assert f'id="{name.lower()}"' in page


@pytest.mark.slow
def test_the_public_names_are_documented(site: Path) -> None:
    import sarsteer

    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    missing = [name for name in sarsteer.__all__ if not re.search(rf'id="sarsteer[\w.]*\.{name}"', page)]
    assert missing == ["__version__"]


@pytest.mark.slow
def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|img|iframe|source|audio|link)\b[^>]*>", text):
            if 'rel="canonical"' not in tag:
                assert not re.search(r'(?:src|href|srcset)="(?:https?:)?//', tag), f"{page.name}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


@pytest.mark.slow
def test_notebooks_and_charts_are_shown(site: Path) -> None:
    assert "sarsteer.calibrate" in re.sub(r"<[^>]+>", "", (site / "notebooks" / "try_it.html").read_text("utf-8"))
    assert (site / "images" / "demo-dark.png").is_file()
    assert not list(site.rglob("toy.html")), "docs/dev is not part of the site"
