"""Figures: which are drawn, what is in them, and that they are files like other outputs."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lmeval.likelihood.summary import comparison_report
from lmeval.likelihood.tables import BoundResult
from lmeval.report.figures import save_figures
from lmeval.report.views import likelihood_figures
from lmeval.results import Report

RNG = np.random.default_rng(0)
EASY = RNG.normal(-100, 10, 40)
LEDGER = {"data": "dollars $x_1$", "n_dims": 64, "space": "17 levels"}
ELBO = BoundResult("VAE", "latent", "ELBO", "lower", EASY - 9, None, None, 1.0, 0.0, None, {})
SMC = ELBO._replace(bound="SMC 16 x 30", nats=EASY, ess=RNG.uniform(1, 16, 40), n_evaluations=5088.0)
MADE = BoundResult("MADE", "made", "log p", "exact", EASY, None, None, 1.0, 0.1, None, {})
KDE = BoundResult("a $ sampler", "implicit", "KDE", "estimate", EASY - 50, None, None, None, 2.0, None, {})


def compared(*found: BoundResult) -> Report:
    return comparison_report(found, [], None, LEDGER, {})


def save(report: Report, folder: Path) -> list[Path]:
    return save_figures(likelihood_figures.figures(report), folder)


def text_of(path: Path) -> str:
    return " ".join(ElementTree.parse(path).getroot().itertext())


def test_figures_are_written_as_png_and_svg(tmp_path: Path):
    paths = save(compared(ELBO, SMC, MADE, KDE), tmp_path / "new")
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "new").iterdir())
    assert [path.name for path in paths] == [
        f"{name}.{kind}" for name in ("bits_per_dim", "bounds", "ess") for kind in ("png", "svg")
    ]
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 200 and len(set(image.convert("L").tobytes())) > 10


def test_only_what_there_is_data_for_is_drawn(tmp_path: Path):
    assert {path.stem for path in save(compared(MADE, KDE), tmp_path)} == {"bits_per_dim"}
    assert {path.stem for path in save(compared(SMC), tmp_path)} == {"bits_per_dim", "ess"}
    lost = SMC._replace(ess=np.full(40, np.nan))
    assert {path.stem for path in save(compared(ELBO, lost), tmp_path)} == {"bits_per_dim", "bounds"}


def test_the_figure_names_models_bounds_and_sides(tmp_path: Path):
    save(compared(ELBO, SMC, MADE, KDE), tmp_path)
    text = text_of(tmp_path / "bits_per_dim.svg")
    for words in ("VAE  ELBO", "VAE  SMC 16 x 30", "MADE  log p", "a $ sampler  KDE", "dollars $x_1$"):
        assert words.replace("  ", " ") in " ".join(text.split()), words
    for words in ("upper bound: the truth lies below", "exact", "estimate of no side"):
        assert words in text
    assert "nats below the model's best bound" in text_of(tmp_path / "bounds.svg")


def test_markers_and_intervals_are_those_of_the_table():
    found = compared(ELBO, MADE, KDE)
    [axes] = likelihood_figures.draw_bits_per_dim(found).axes
    drawn: list[Any] = [container.lines for container in axes.containers]  # pyright: ignore[reportAttributeAccessIssue]
    rows = found.tables["bounds"]
    assert [data.get_marker() for data, _, _ in drawn] == ["<", "o", "x"]  # a lower bound of log p bounds bits from above
    for (data, caps, _), row in zip(drawn, rows, strict=True):
        assert data.get_xdata()[0] == row["bits_per_dim"]
        assert [cap.get_xdata()[0] for cap in caps] == pytest.approx(row["bits_per_dim_ci95"])


def test_bounds_are_drawn_against_their_cost():
    [line] = likelihood_figures.draw_bounds(compared(ELBO, SMC, MADE)).axes[0].lines
    assert np.asarray(line.get_xdata()).tolist() == [1.0, 5088.0]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([9.0, 0.0])


def test_equal_results_give_equal_files(tmp_path: Path):
    first = {path.name: path.read_bytes() for path in save(compared(ELBO, SMC), tmp_path)}
    again = {path.name: path.read_bytes() for path in save(compared(ELBO, SMC), tmp_path)}
    assert first == again


def test_one_datum_has_no_interval_and_a_figure(tmp_path: Path):
    assert save(compared(MADE._replace(nats=EASY[:1])), tmp_path)
