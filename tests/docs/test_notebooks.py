"""The notebooks run from top to bottom, and their stored outputs are those of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sarsteer.tiny.world import REFUSAL

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def printed(notebook: object) -> list[str]:
    """What each code cell wrote to standard output."""
    return [
        "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")
        for cell in notebook.cells  # type: ignore[attr-defined]
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    stored = printed(notebook)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    ran = printed(notebook)
    assert any(REFUSAL in text for text in ran)
    assert [bool(text) for text in ran] == [bool(text) for text in stored], "run it again and save it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_path_of_a_machine_is_stored(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "/tmp/" not in text
    assert "/home/" not in text
    assert "/root/" not in text


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["try_it", "your_clips"]
