"""Figures become files, or are refused where they could not be written."""

from pathlib import Path

import pytest
from PIL import Image

from lmeval.errors import OutputError
from lmeval.report.blocks import Figure, Note
from lmeval.report.figures import check_folder, empty_figure, save_figures

LINE = Figure("line", "A line.", lambda: empty_figure(3.0, 2.0)[0])


def test_every_figure_of_a_view_is_written_as_png_and_svg(tmp_path: Path):
    paths = save_figures([Note("no figure"), LINE], tmp_path / "new")
    assert [path.name for path in paths] == ["line.png", "line.svg"]
    with Image.open(paths[0]) as image:
        assert image.size == (450, 300)
    assert save_figures([Note()], tmp_path) == []


def test_folders_that_cannot_be_written_to(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("")
    for folder, says in ((file, "it is no folder"), (tmp_path / "no" / "such", "there is no folder")):
        with pytest.raises(OutputError, match=says):
            check_folder(folder)
        with pytest.raises(OutputError):
            save_figures([LINE], folder)
    check_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()
