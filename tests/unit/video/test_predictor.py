"""Segmenting a video file: the same masks as from its frames, any length and shape, and the files that are promised."""

import json
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from avslib.calibration import calibration_error, entropy, entropy_parts
from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.models.ecmvae import ECMVAE
from avslib.video.overlay_video import overlay_video, write_video
from avslib.video.prediction_files import write_prediction
from avslib.video.predictor import Predictor
from avslib.video.reader import read_video
from avslib.video.second import Letterbox, Second
from avslib.weights.checkpoints import save_checkpoint
from tests.helpers.tiny import TINY
from tests.unit.video.test_reader import frames, tones


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    return Predictor(ECMVAE(load_config("mini", TINY)))


def video(folder, seconds, height=48, width=64, name="clip.mp4"):
    return write_video(folder / name, frames(seconds, height, width), tones(seconds), 1)


def test_video_gives_what_its_frames_give(predictor, tmp_path):
    path = video(tmp_path, 5)
    moments = list(read_video(path))
    box = Letterbox(48, 64, predictor.image_size)
    image = torch.stack([box.fit(m.image) for m in moments])
    audio = predictor.embed(torch.from_numpy(np.concatenate([m.sound for m in moments])))
    direct = box.back(predictor(image, audio)).numpy()
    seconds = list(predictor.predict(path))
    assert np.array_equal(np.stack([s.probability for s in seconds]), direct) and seconds[0].uncertainty is None
    drawn = predictor.samples(image, audio, 3, seed=1)
    sampled = list(predictor.predict(path, samples=3, seed=1))
    assert np.array_equal(np.stack([s.probability for s in sampled]), box.back(drawn.mean(0)).numpy())
    total, expected, information = entropy_parts(drawn)
    assert np.array_equal(sampled[4].uncertainty, box.back(total)[4].numpy())
    assert np.allclose(sampled[4].disagreement, box.back(information)[4].numpy(), atol=1e-7)
    assert torch.allclose(total, expected + information, atol=1e-6)


def test_samples_share_the_backbone_and_nothing_else(predictor, tmp_path):
    image = torch.randint(0, 255, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    audio, generator = torch.rand(5, 128, generator=torch.Generator().manual_seed(1)), torch.Generator().manual_seed(4)
    one_by_one = torch.stack([predictor(image, audio, generator) for _ in range(3)])
    assert torch.equal(predictor.samples(image, audio, 3, seed=4), one_by_one)


@pytest.mark.parametrize(("seconds", "height", "width"), [(3, 48, 64), (12, 64, 36), (1, 64, 64), (7, 30, 200)])
def test_any_length_and_shape(predictor, tmp_path, seconds, height, width):
    results = list(predictor.predict(video(tmp_path, seconds, height, width)))
    assert [s.index for s in results] == list(range(seconds)) == [s.time for s in results]
    assert all(s.probability.shape == (height, width) == s.image.shape[:2] for s in results)


def test_last_window_reaches_back(predictor, tmp_path):
    results = list(predictor.predict(video(tmp_path, 7)))
    moments = list(read_video(tmp_path / "clip.mp4"))[2:]
    image = torch.stack([Letterbox(48, 64, 64).fit(m.image) for m in moments])
    audio = predictor.embed(torch.from_numpy(np.concatenate([m.sound for m in moments])))
    assert np.array_equal(results[6].probability, Letterbox(48, 64, 64).back(predictor(image, audio))[4].numpy())


def test_results_stream(predictor, tmp_path):
    """The first window comes before the file is read on: a file that breaks off still gives its beginning."""
    noise = np.random.default_rng(0).integers(0, 255, (96, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "long.mp4", noise, tones(12), 8)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.75)])
    stream = predictor.predict(path)
    assert next(stream).index == 0
    with pytest.raises(AvsError, match="breaks off"):
        list(stream)


@pytest.mark.parametrize(("height", "width"), [(36, 64), (64, 36), (1080, 1920), (50, 50)])
def test_letterbox_keeps_the_aspect_ratio_and_comes_back(height, width):
    box = Letterbox(height, width, 64)
    assert abs(box.inner[0] / box.inner[1] - height / width) < 0.03 and max(box.inner) == 64
    ramp = np.tile(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, 1, 3))
    back = box.back(box.fit(ramp)[:1].float())[0]
    assert back.shape == (height, width) and (back - torch.from_numpy(ramp[..., 0]).float()).abs().mean() < 4


def test_summary_of_a_mask():
    p = np.full((10, 20), 0.1, np.float32)
    p[2:4, 5:9] = 0.75
    summary = Second(3, 3.0, np.zeros((10, 20, 3), np.uint8), p).summary()
    assert summary == {"second": 3, "time": 3.0, "area": 0.04, "confidence": 0.75, "box": [5, 2, 9, 4]}
    empty = Second(0, 0.0, np.zeros((10, 20, 3), np.uint8), p * 0).summary()
    assert empty["box"] is None and empty["confidence"] is None and empty["area"] == 0


def test_overlay_shows_each_seconds_mask_with_the_sound(tmp_path):
    path = write_video(tmp_path / "a.mp4", np.repeat(frames(3), 4, axis=0), tones(3), 4)
    seconds = []
    for k in range(3):
        p = np.zeros((48, 64), np.float32)
        p[:, 20 * k : 20 * k + 12] = 1
        seconds.append(Second(k, float(k), np.zeros((48, 64, 3), np.uint8), p))
    overlay_video(path, iter(seconds), tmp_path / "overlay.mp4")
    before, after = (list(read_video(tmp_path / f"{n}.mp4", 4, phase=0.5)) for n in ("a", "overlay"))
    assert len(after) == 12
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        changed = np.abs(a.image.astype(int) - b.image).mean((0, 2))
        assert 20 * (i // 4) <= changed.argmax() <= 20 * (i // 4) + 12
        assert np.corrcoef(a.sound, b.sound)[0, 1] > 0.95


def test_command_writes_what_it_says(predictor, tmp_path, capfd, monkeypatch):
    from avslib import cli

    checkpoint, path = save_checkpoint(tmp_path / "model", predictor.model), video(tmp_path, 6)
    out = tmp_path / "out"
    options = ["--samples", "2", "--overlap", "2", "--size", "96", "--overlay", "mp4", "-q"]
    arguments = ["predict", path, "--checkpoint", checkpoint, "--out", out, *options]
    monkeypatch.setattr(sys, "argv", ["avs", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code and "6 s" in " ".join(capfd.readouterr().out.split())
    content = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert [row["second"] for row in content["seconds"]] == list(range(6)) and content["samples"] == 2
    for kind in ("masks", "uncertainty"):
        assert [p.name for p in sorted((out / kind).iterdir())] == [f"{k:04d}.png" for k in range(6)]
    mask = np.asarray(Image.open(out / "masks/0002.png"))
    assert mask.shape == (48, 64) and abs((mask == 255).mean() - content["seconds"][2]["area"]) < 1e-4
    assert len(list(read_video(out / "overlay.mp4"))) == 6
    with pytest.raises(AvsError, match="not an empty folder; choose a new one"):
        write_prediction(predictor.predict(video(tmp_path, 3, name="short.mp4")), out)


def test_upload_widget_shows_the_result_or_a_sentence(predictor, tmp_path):
    widgets = pytest.importorskip("ipywidgets")
    from course.widgets.video_upload import strip_figure, video_upload

    box = video_upload(predictor)
    upload, _, button, message, result = box.children
    assert isinstance(button, widgets.Button) and button.disabled

    def choose(path):
        upload.value = (
            {
                "name": path.name,
                "type": "video/mp4",
                "size": path.stat().st_size,
                "content": memoryview(path.read_bytes()),
                "last_modified": datetime.now(UTC),
            },
        )
        button.click()

    choose(video(tmp_path, 2))
    assert "<video controls" in result.value and "<img alt=" in result.value and "done" in message.value
    choose(write_video(tmp_path / "mute.mp4", frames(2), None, 1))
    assert result.value == "" and message.value.startswith('<span role="alert">mute.mp4: has no sound track')
    assert str(tmp_path) not in message.value and not button.disabled
    figure = strip_figure(list(predictor.predict(tmp_path / "clip.mp4", samples=2)))
    assert len(figure.axes) == 5 and "2 frames" in figure.get_label()


def test_calibration_equals_torchmetrics():
    from torchmetrics.classification import BinaryCalibrationError

    generator = torch.Generator().manual_seed(0)
    p = torch.rand(20000, generator=generator) ** 2
    target = (torch.rand(20000, generator=generator) < p**1.5).long()
    true = BinaryCalibrationError(n_bins=15, norm="l1")(p, target).item()
    assert abs(calibration_error(p, target) - true) < 1e-5
    assert entropy(torch.tensor([0.0, 1.0])).tolist() == [0, 0]
    with pytest.raises(AvsError, match="sigmoid"):
        calibration_error(p + 3, target)


def test_predict_refuses_at_once(predictor, tmp_path):
    for bad, words in (
        (SimpleNamespace(path=tmp_path / "no.mp4", samples=0), "no such file"),
        (SimpleNamespace(path=video(tmp_path, 1), samples=-1), "samples"),
    ):
        with pytest.raises(AvsError, match=words):
            predictor.predict(bad.path, samples=bad.samples)
