"""Figures in files: paths are checked before any work, and a file has the format of its suffix."""

from __future__ import annotations

from pathlib import Path

import pytest

from sarsteer.errors import SarsteerError
from sarsteer.figure import check_figure_path, new_figure, save_figure


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chart.txt", "cannot draw into .txt; use .png, .svg or .pdf"),
        ("chart", "a file without a suffix"),
        ("missing/chart.png", "is not in an existing folder"),
    ],
)
def test_a_path_that_cannot_be_drawn_into(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SarsteerError, match=message) as error:
        check_figure_path(tmp_path / name)
    assert error.value.place == str(tmp_path / name)


def test_the_suffix_sets_the_format(tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure, (left, right) = new_figure(2, 6, 3)
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")):
        check_figure_path(tmp_path / name)
        save_figure(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    pyplot.close(figure)
    assert left is not right
