import io

import pytest
from rich.console import Console

from lmeval.cli import progress as drawing
from lmeval.progress import SILENT


def test_nothing_is_drawn_where_nobody_looks():
    with drawing.drawn_progress() as progress:
        assert progress is SILENT
    with drawing.drawn_progress(show=False) as progress:
        assert progress is SILENT


def test_stages_keep_their_bars_while_others_go_on(monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()
    monkeypatch.setattr(drawing, "Console", lambda **_: Console(file=screen, force_terminal=True, width=120))
    with drawing.drawn_progress() as progress:
        for _ in range(2):
            progress.stage("encoding", 2000, "bytes")
            progress.advance(1000, "2.000 bits/byte")
            progress.stage("counting", 7, "items")
            progress.advance(3)
    text = screen.getvalue()
    assert "2.0 kB/2.0 kB" in text
    assert "6/7 items" in text
    assert "2.000 bits/byte" in text
