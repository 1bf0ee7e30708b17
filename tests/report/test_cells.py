import pytest

from lmeval.report.cells import cell, speed
from lmeval.results.table import Column


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (None, Column("x", ""), ""),
        (0, Column("x", ""), "0"),
        (1234567, Column("x", ""), "1,234,567"),
        (1234567, Column("x", "", digits=2), "1,234,567"),  # a count has no decimals
        (0.125, Column("x", "", digits=2), "0.12"),
        (2e9, Column("x", "", digits=2), "2.00e+09"),
        (-0.5, Column("x", "", digits=1, style="signed"), "-0.5"),
        (0.5, Column("x", "", digits=1, style="signed"), "+0.5"),
        (0.5, Column("x", "", style="percent"), "50%"),
        (0.12345, Column("x", "", digits=2, style="percent"), "12.35%"),
        (2.5e6, Column("x", "", style="speed"), "2.50 MB/s"),
        ("[bold]", Column("x", "", digits=2), "[bold]"),
        ((0.25, 0.5), Column("x", "", digits=2), "0.25 to 0.50"),
        ([0.25, 0.5], Column("x", "", digits=0, style="percent"), "25% to 50%"),
        (True, Column("x", ""), "yes"),
        (17, Column("x", "", style="words"), "17"),
    ],
)
def test_a_column_says_how_its_values_are_read(value: object, column: Column, text: str):
    assert cell(value, column) == text


def test_speeds_change_their_unit_at_a_tenth_of_a_megabyte():
    assert speed(99_999) == "100.00 kB/s"
    assert speed(100_000) == "0.10 MB/s"
    assert speed(None) == ""
