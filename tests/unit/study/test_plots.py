"""Figures show what they are given, in colours that differ without red and green, and leave no half-written file."""

import csv

import numpy as np
import pytest
from PIL import Image

from avslib.core.errors import AvsError
from avslib.study import plots
from avslib.study.results import Row
from avslib.study.results import Value as V


def clip(truth=True, predicted=True, frames=2, size=64):
    frame = np.full((frames, size, size, 3), 128, np.uint8)
    disk = np.hypot(*np.mgrid[-size // 2 : size // 2, -size // 2 : size // 2]) < size / 4
    disks = np.broadcast_to(disk, frame.shape[:3])
    return "title é", frame, disks * truth, disks * 0.9 * predicted


def shows(path, name):
    want = np.array([int(plots.COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)])
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)[24:]  # the legend stands above
    return (np.abs(picture - want).max(axis=-1) < 40).sum() > 20


def sheet(items, path):
    return plots.save_figure(plots.outlined_frames(items), path, palette=True)


def curves(history, path):
    return plots.save_figure(plots.curves_figure(history), path)


def hue(colour):
    import colorsys

    return colorsys.rgb_to_hsv(*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0]


@pytest.mark.parametrize("truth, predicted", [(True, True), (True, False), (False, True), (False, False)])
def test_sheet_outlines_what_is_there(tmp_path, truth, predicted):
    path = sheet([clip(truth, predicted)], tmp_path / "new folder" / "sheet é.png")
    assert (shows(path, "sky"), shows(path, "orange")) == (truth, predicted)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_sheet_takes_clips_of_unequal_length_and_masks_that_meet_the_border(tmp_path):
    full = ("full", np.zeros((1, 32, 32, 3), np.uint8), np.ones((1, 32, 32)), np.zeros((1, 32, 32)))
    path = sheet([clip(frames=5), full], tmp_path / "sheet.png")
    assert Image.open(path).width == pytest.approx(5 * 1.5 * 110, abs=2)


def test_sheet_is_the_same_file_each_time(tmp_path):
    first, second = (sheet([clip()], tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second


def test_sheet_of_wrong_shapes_is_refused(tmp_path):
    title, frames, truth, probability = clip()
    with pytest.raises(AvsError, match="expected frames"):
        sheet([(title, frames, truth[:, ::2], probability)], tmp_path / "a.png")
    with pytest.raises(AvsError, match="png"):
        sheet([clip()], tmp_path / "a.docx")
    assert not list(tmp_path.iterdir())


def test_truth_and_prediction_are_never_red_against_green():
    truth, prediction = hue(plots.TRUTH["colors"]), hue(plots.PREDICTION["colors"])
    assert 0.5 < truth < 0.7 and 0.08 < prediction < 0.15, "blue and orange"
    assert plots.TRUTH["linestyles"] != plots.PREDICTION["linestyles"]
    looks = list(plots.PARTS.values())
    assert len(set(looks)) == len(looks) == 10


def test_curves_from_rows_and_from_the_csv_agree(tmp_path):
    rows = [{"step": s, "loss": 1 / (s + 1), "mi": -0.1, "val_J": 0.5 if s == 3 else ""} for s in range(5)]
    with open(tmp_path / "history.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    from_rows = curves(rows, tmp_path / "a.png")
    from_csv = curves(tmp_path / "history.csv", tmp_path / "b.png")
    assert from_rows.read_bytes() == from_csv.read_bytes()
    only = curves([{"val_J": 0.5, "val_F": "", "loss": None}], tmp_path / "c.svg")
    assert only.read_text(encoding="utf-8").startswith("<?xml")


def test_curves_without_anything_to_draw_are_refused(tmp_path):
    with pytest.raises(AvsError, match="no loss part"):
        curves([{"step": 1}], tmp_path / "a.png")
    with pytest.raises(AvsError, match="no file"):
        curves(tmp_path / "none.csv", tmp_path / "a.png")


def test_bars_for_rows_with_and_without_spread(tmp_path):
    test, unseen = {"J": V((0.4, 0.5, 0.6))}, {"J": V((0.25,))}
    values = {"a": {"test": test}, "b": {"test_unseen": unseen}}
    rows = [Row("m", "", "d", {}, (0,), ("r",), values[label], label) for label in values]
    path = plots.comparison_bars(rows, tmp_path / "bars.png")
    assert shows(path, "blue") and shows(path, "orange")
    with pytest.raises(AvsError, match="no row has J"):
        plots.comparison_bars([], tmp_path / "bars.png")
