"""Curves that redraw themselves: rows are kept, and a notebook's display is opened once and then updated."""

import IPython
import IPython.display
import pytest

from course.show import LiveCurves

ROWS = [
    {"step": 10, "epoch": 0, "lr": 1e-3, "loss": 3.0, "seg_prior": 1.5},
    {"step": 10, "epoch": 0, "val_J": 0.1},
    {"step": 20, "epoch": 1, "lr": 1e-4, "loss": 2.0, "seg_prior": 1.0},
]


class Handle:
    def __init__(self):
        self.pictures = []

    def update(self, picture):
        self.pictures.append(picture)


@pytest.fixture
def display(monkeypatch):
    handle = Handle()

    def opened(picture, display_id):
        handle.update(picture)
        return handle

    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", opened)
    return handle


def test_rows_are_kept_outside_a_notebook():
    live = LiveCurves(rows=ROWS[:1])
    for row in ROWS[1:]:
        live(row)
    assert live.rows == ROWS


def test_display_is_opened_once_and_then_updated(display):
    live = LiveCurves(every=0)
    for row in ROWS:
        live(row)
    assert len(display.pictures) == 3 and display.pictures[-1].data.startswith(b"\x89PNG")
    assert "step 20" in display.pictures[-1].alt


def test_redraws_are_rationed_but_val_scores_are_drawn(display):
    live = LiveCurves(every=3600)
    for row in ROWS:
        live(row)
    assert len(display.pictures) == 2 and live.rows == ROWS
