"""The files of a segmented video, also where the video breaks off, and the frames of its strip."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from avslib.core.errors import AvsError
from avslib.video.overlay_video import write_video
from avslib.video.prediction_files import PREDICTIONS, mask_files, rle_encode, write_prediction
from avslib.video.reader import BrokenOff, read_video
from avslib.video.second import Second, keep_some
from tests.helpers.prediction_masks import read_masks, rle_decode
from tests.unit.video.test_predictor import predictor, video  # noqa: F401
from tests.unit.video.test_reader import frames, tones


def test_three_forms_of_masks_hold_the_same(predictor, tmp_path):  # noqa: F811
    path = write_video(tmp_path / "a.mp4", np.repeat(frames(3), 2, axis=0), tones(3), 2)
    found = {}
    for kind in ("png", "npz", "rle"):
        rows = write_prediction(predictor.predict(path, fps=2), tmp_path / kind, masks=kind, overlay=False)
        names = {p.name for p in (tmp_path / kind).iterdir()} - {"masks"}
        single = {"png": set(), "npz": {"masks.npz"}, "rle": {"masks.jsonl"}}[kind]
        assert names == {"predictions.json", "strip.png"} | single and [row["second"] for row in rows] == [0, 1, 2]
        found[kind] = np.stack(list(read_masks(tmp_path / kind)))
    steps = np.stack([s.mask for s in predictor.predict(path, fps=2)])
    assert all(np.array_equal(masks, steps) for masks in found.values())
    assert np.allclose([row["area"] for row in rows], steps.reshape(3, 2, -1).mean((1, 2)), atol=1e-4)
    assert Image.open(tmp_path / "png/strip.png").width > 100


def test_what_breaks_off_is_written_as_far_as_it_goes(predictor, tmp_path):  # noqa: F811
    noise = np.random.default_rng(0).integers(0, 255, (96, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "long.mp4", noise, tones(12), 8)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.75)])
    with pytest.raises(BrokenOff, match="what there is of it is in"):
        write_prediction(predictor.predict(path), tmp_path / "out")
    content = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))
    at, declared = content["broke_off"]["at"], content["broke_off"]["declared"]
    with pytest.raises(BrokenOff):
        for moment in read_video(path):
            readable = moment.index + 1
    assert 7 < at < 11 and declared == 12 and len(content["seconds"]) == readable > at - 1
    assert len(list(read_masks(tmp_path / "out"))) == len(content["seconds"])
    assert len(list(read_video(tmp_path / "out/overlay.mp4"))) == len(content["seconds"])


def test_results_never_replace_their_source(predictor, tmp_path):  # noqa: F811
    path = video(tmp_path, 1, name="overlay.mp4")
    before = path.read_bytes()
    with pytest.raises(AvsError, match="not an empty folder; choose a new one"):
        write_prediction(predictor.predict(path), tmp_path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == [path.name]


def test_what_is_kept_stays_evenly_spread():
    kept, image, p = [], np.zeros((960, 1280, 3), np.uint8), np.zeros((960, 1280), np.float32)
    assert sum(1 for _ in keep_some((Second(k, float(k), image, p) for k in range(300)), kept, most=8)) == 300
    indices = [s.index for s in kept]
    assert 4 <= len(indices) <= 8 and len(set(np.diff(indices))) == 1 and indices[-1] > 255
    assert kept[0].image.shape == (480, 640, 3) and kept[0].uncertainty is None


@settings(max_examples=60, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_run_lengths_come_back(mask):
    counts = rle_encode(mask)
    assert np.array_equal(rle_decode(counts, mask.shape), mask) and sum(counts) == mask.size and min([*counts[1:], 1])
    with pytest.raises(ValueError, match="reshape"):
        rle_decode([*counts, 1], mask.shape)


@pytest.mark.parametrize("form", ["png", "npz", "rle"])
def test_masks_come_back_in_order_however_long_their_names(tmp_path, form):
    with mask_files(form, tmp_path, 1) as add:
        for k in range(12):
            probability = (np.arange(12) == k).astype(np.float32)[None]
            add(Second(k, float(k), np.zeros((1, 12, 3), np.uint8), probability))
    (tmp_path / PREDICTIONS).write_text(json.dumps({"masks": form}))
    assert [int(mask.argmax()) for mask in read_masks(tmp_path)] == list(range(12))
