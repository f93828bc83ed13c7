"""Figures in files: paths are checked before any work, and a file has the format of its suffix."""

from __future__ import annotations

from pathlib import Path

import pytest

from sarsteer.errors import SarsteerError
from sarsteer.figure import BLUE, INK, check_figure_path, new_figure, save_figure, save_light_and_dark


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


def test_a_figure_for_light_and_dark_pages(tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure, (axis,) = new_figure(1, 3, 2)
    axis.plot([0, 1], [0, 1], color=BLUE, marker="o")
    axis.fill_between([0, 1], [0, 0], [1, 1], color=BLUE, alpha=0.1)
    axis.set_title("title", color=INK)
    light, dark = save_light_and_dark(figure, tmp_path / "chart.png")
    assert (light.name, dark.name) == ("chart-light.png", "chart-dark.png")
    brightness = [pyplot.imread(path)[..., :3].mean() for path in (light, dark)]
    assert brightness[0] > 0.8
    assert brightness[1] < 0.3, "the background too"
    assert axis.lines[0].get_color() != BLUE
    assert axis.collections[0].get_facecolor()[0][3] == pytest.approx(0.1), "still transparent"
    pyplot.close(figure)
