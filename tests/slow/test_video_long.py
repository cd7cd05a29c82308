"""A video of 60 s made from Mini-AVS test clips: masks as good as the clips' own, and memory that does not grow.

Layout: each square frame stands in the middle of 640 x 360 between black borders, so every known mask is whole. The
letterbox makes 640 x 360 fit a square, which leaves 56 % of it to the frame: the network runs at 224 pixels, where a
frame has 126, as it had 128 in training.
"""

import subprocess
import sys
import time

import av
import numpy as np
import psutil
import pytest
import torch

from avslib.data.avsbench import AVSBench
from avslib.data.mini import build_mini
from avslib.metrics import iou_per_frame
from avslib.video.overlay_video import write_video
from avslib.video.predictor import Predictor
from avslib.video.reader import probe
from tests.helpers.prediction_masks import read_masks

CLIPS, SIDE = 12, 360


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    splits = {"train": 1, "val": 1, "test": CLIPS, "test_unseen": 1}
    out = tmp_path_factory.mktemp("mini") / "data"
    build_mini(out, counts={"s4": splits, "ms3": splits}, image_size=224, workers=1, progress=False)
    return out


@pytest.fixture(scope="module")
def minute(clips, tmp_path_factory):
    """h264 and aac, 640 x 360, 30 frames a second, 60 s."""
    data = AVSBench(clips, "s4", "test", SIDE)

    def frames():
        picture = np.zeros((SIDE, 640, 3), np.uint8)
        for item in data.first(CLIPS):
            for image in item["image"].permute(0, 2, 3, 1).numpy():
                picture[:, 140:500] = image
                yield from (picture for _ in range(30))

    path = tmp_path_factory.mktemp("video") / "minute.mp4"
    sound = torch.cat([data.waveform(i) for i in range(CLIPS)])
    return write_video(path, frames(), sound, 30)


def repeat(path, times, out):
    """The same packets again and again, nothing encoded anew."""
    with av.open(str(out), "w") as target:
        tracks, last = {}, {}
        for k in range(times):
            with av.open(str(path)) as source:
                tracks = tracks or {s.index: target.add_stream_from_template(s) for s in source.streams}
                for packet in source.demux():
                    track = packet.stream.index
                    later = None if packet.dts is None else packet.dts + round(60 * k / packet.time_base)
                    if later is not None and later > last.get(track, -1e9):  # the sound is a little longer than 60 s
                        last[track], packet.pts = later, packet.pts + later - packet.dts
                        packet.dts, packet.stream = later, tracks[track]
                        target.mux(packet)
    return out


def run_predict(*arguments):
    """`avs predict`; the most memory it held, in bytes."""
    process = subprocess.Popen([sys.executable, "-m", "avslib.cli", "predict", *map(str, arguments), "-q"])
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.05)
    assert process.wait() == 0
    return peak


@pytest.mark.long
def test_video_is_as_good_as_its_clips(clips, minute, tmp_path):
    info = probe(minute)
    assert (info.width, info.height, info.fps, round(info.seconds)) == (640, 360, 30, 60)
    run_predict(minute, "--size", 224, "--out", tmp_path / "out", "--no-overlay", "--masks", "rle")
    found = torch.from_numpy(np.stack([mask[:, 140:500] for mask in read_masks(tmp_path / "out")]))
    large, own = (AVSBench(clips, "s4", "test", side) for side in (SIDE, 128))
    predictor = Predictor.from_checkpoint("mini-s4")
    by_clip = torch.cat([predictor(own[i]["image"], predictor.embed(own.waveform(i))) for i in range(CLIPS)])

    def score(p, data):
        known = torch.cat([data[i]["mask"] for i in range(CLIPS)])
        return float(iou_per_frame(torch.logit(p.float()[:, None], 1e-6), known).mean())

    video, clip = score(found, large), score(by_clip, own)
    print(f"J of the video {video:.4f}, of the clips {clip:.4f}")
    assert len(found) == 5 * CLIPS and clip > 0.3 and abs(video - clip) < 0.05


@pytest.mark.long
def test_memory_is_the_same_for_ten_minutes(minute, tmp_path):
    short = run_predict(minute, "--out", tmp_path / "short")
    long = run_predict(repeat(minute, 10, tmp_path / "ten.mp4"), "--out", tmp_path / "long")
    print(f"most memory: {short / 2**20:.0f} MiB for 60 s, {long / 2**20:.0f} MiB for 600 s")
    assert len(list(read_masks(tmp_path / "long"))) == 600 and long < 1.1 * short
