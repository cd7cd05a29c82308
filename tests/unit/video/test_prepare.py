"""Raw videos become a folder that the reader takes: frames and sound of the right seconds, resuming, failures."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from avslib.audio import load_wav, log_mel
from avslib.cli import app
from avslib.core.errors import AvsError
from avslib.data.avsbench import AVSBench
from avslib.data.check import check
from avslib.data.layout import LAYOUTS
from avslib.video.overlay_video import write_video
from avslib.video.prepare import prepare

RATE = 16000


def a_video(path, seconds, fps=4):
    """Second k is flat with the grey value 20 + 15 k, in its last quarter; its tone has 200 + 100 k Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.zeros(round(seconds * fps), np.uint8)
    for k in range(len(grey)):
        grey[k] = 20 + 15 * (k // fps) if k % fps == fps - 1 else 0
    t = np.arange(RATE) / RATE
    tones = [0.5 * np.sin(2 * np.pi * (200 + 100 * k) * t) for k in range(int(seconds + 1))]
    sound = np.concatenate(tones)[: round(seconds * RATE)].astype(np.float32)
    return write_video(path, (np.full((48, 64, 3), g) for g in grey), sound, fps)


def greys(dataset, index):
    return [round((float(v) - 20) / 15) for v in dataset[index]["image"].float().mean((1, 2, 3))]


def pitches(dataset, index):
    sound = dataset.waveform(index).numpy().reshape(5, RATE)
    return [int(np.abs(np.fft.rfft(s)).argmax()) for s in sound]


def log_rows(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return {row["clip"]: (row["status"], row["reason"]) for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    a_video(root / "dog" / "long.mp4", 12)
    a_video(root / "whole_7.mp4", 5)
    (root / "broken.mp4").write_bytes(b"no video" * 100)
    write_video(root / "mute.mp4", np.zeros((5, 48, 64, 3), np.uint8), None, 1)
    return root


@pytest.mark.parametrize("task", ["s4", "ms3"])
def test_without_a_csv_videos_are_cut_end_to_end(videos, tmp_path, task):
    result = prepare(videos, tmp_path, task, workers=1, progress=False)
    assert sorted(result.made) == ["long_0", "long_5", "whole_7_0"] and result.exit_code == 1
    assert "no sound track" in result.failed["mute_0"] and "no video that can be read" in result.failed["broken"]
    dataset = AVSBench(tmp_path, task, "test", masks=False)
    assert [greys(dataset, 0), greys(dataset, 1)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert pitches(dataset, 1) == [700, 800, 900, 1000, 1100]
    assert dataset.clips[0].category == ("dog" if task == "s4" else None)
    item = dataset[0]
    assert item["image"].shape == (5, 3, 224, 224) and not item["mask"].any() and not item["annotated"].any()
    assert dataset.clips[0].log_mel_path.suffix == ".safetensors" and dataset.waveform(0).shape == (5 * RATE,)
    assert torch.equal(dataset.log_mel(0), log_mel(*load_wav(dataset.clips[0].wav_path), 5))


def test_a_csv_says_what_is_cut_from_where(videos, tmp_path):
    rows = """name,start,category,split,video
        long_3,3,dog,train,
        whole_7,7,cat,val,
        mine,1.5,cat,test,long.mp4
        long_9,9,dog,test,
        long_x,x,dog,test,
        gone_1,1,dog,val,
    """
    table = tmp_path / "mine.csv"
    table.write_text(rows.replace(" ", ""), encoding="utf-8")
    result = prepare(videos, tmp_path / "out", "s4", table, workers=1, size=0, progress=False)
    assert sorted(result.made) == ["long_3", "mine", "whole_7"] and result.exit_code == 1
    assert "needs 14 s" in result.failed["long_9"] and "expected seconds" in result.failed["long_x"]
    assert "'gone'" in result.failed["gone_1"]
    data = {split: AVSBench(tmp_path / "out", "s4", split, 48, masks=False) for split in ("train", "val", "test")}
    assert greys(data["train"], 0) == [3, 4, 5, 6, 7] and pitches(data["train"], 0) == [500, 600, 700, 800, 900]
    assert greys(data["val"], 0) == [0, 1, 2, 3, 4]  # the file of this name is no longer than the clip: it is the clip
    sound = data["test"].waveform(0).numpy()
    assert int(np.abs(np.fft.rfft(sound[RATE // 2 : RATE * 3 // 2])).argmax()) == 400  # second 2 of the source
    assert Image.open(data["val"].clips[0].frame_paths[0]).size == (64, 48)


def test_a_stopped_run_goes_on_and_a_clip_appears_whole(videos, tmp_path, monkeypatch):
    write, wrote = Image.Image.save, []

    def failing(picture, path, **how):
        wrote.append(path)
        if len(wrote) == 8:
            raise OSError("cannot write")
        write(picture, path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", failing)
        result = prepare(videos / "dog", tmp_path, workers=1, progress=False)
    assert result.made == ["long_0"] and "cannot write" in result.failed["long_5"] and result.exit_code == 1
    frames = tmp_path / "Single-source/s4_data/visual_frames/test/unknown"
    assert [p.name for p in frames.iterdir()] == ["long_0"] and len(AVSBench(tmp_path, "s4", "test", masks=False)) == 1
    made = {p: p.stat().st_mtime_ns for p in frames.glob("*/*")}
    result = prepare(videos / "dog", tmp_path, workers=1, progress=False)
    assert (result.there, result.made, result.exit_code) == (["long_0"], ["long_5"], 0)
    assert log_rows(result.log) == {"long_0": ("there", ""), "long_5": ("made", "")}
    assert all(p.stat().st_mtime_ns == time for p, time in made.items())


def test_a_file_named_as_its_row_is_cut_from_the_start_of_the_row(videos, tmp_path):
    """The csv that is written says where each clip begins in its file."""
    (tmp_path / "mine.csv").write_text("name,start,category,split\nlong,5,dog,test\nwhole_7,7,dog,val\n")
    prepare(videos, tmp_path / "out", "s4", tmp_path / "mine.csv", workers=1, progress=False)
    data = {split: AVSBench(tmp_path / "out", "s4", split, masks=False) for split in ("test", "val")}
    assert greys(data["test"], 0) == [5, 6, 7, 8, 9] and greys(data["val"], 0) == [0, 1, 2, 3, 4]
    written = (tmp_path / "out/Single-source/s4_meta_data.csv").read_text().split()
    assert written == ["name,start,category,split", "long,5,dog,test", "whole_7,0,dog,val"]


@pytest.mark.parametrize("task", ["s4", "ms3"])
def test_one_name_in_two_splits_is_two_clips_or_a_failure(videos, tmp_path, task):
    columns = {"s4": "name,category,split,start", "ms3": "video_id,split,start"}[task]
    rows = [f"long_0,{'dog,' if task == 's4' else ''}{split},{start}" for split, start in (("test", 0), ("train", 5))]
    (tmp_path / "mine.csv").write_text("\n".join([columns, *rows]))
    for status in ("made", "there"):
        result = prepare(videos, tmp_path / "out", task, tmp_path / "mine.csv", workers=1, progress=False)
        assert greys(AVSBench(tmp_path / "out", task, "test", masks=False), 0) == [0, 1, 2, 3, 4]
        if task == "s4":
            assert getattr(result, status) == ["long_0"] * 2 and not result.failed
            assert greys(AVSBench(tmp_path / "out", task, "train", masks=False), 0) == [5, 6, 7, 8, 9]
        else:
            assert getattr(result, status) == ["long_0"] and "split test too" in result.failed["long_0"]
            assert "split test too" in result.log.read_text()


@pytest.mark.parametrize("task", ["s4", "ms3"])
@pytest.mark.parametrize("csv_kept", [True, False])
def test_a_clip_cut_elsewhere_is_refused_not_kept(videos, tmp_path, task, csv_kept):
    """The frames would be those of the first start or video, and the csv would name the second."""
    key, out = {"s4": "name", "ms3": "video_id"}[task], tmp_path / "out"

    def cut(start, video="long.mp4"):
        text = f"{key},start,category,split,video\nmine,{start},dog,test,{video}\n"
        (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
        return prepare(videos, out, task, tmp_path / "mine.csv", workers=1, progress=False)

    assert cut("2").made == cut("2.0").there == ["mine"]
    table = out / LAYOUTS[task].folder / LAYOUTS[task].csv
    before = table.read_bytes()
    for start, video in ((5, "long.mp4"), (0, "whole_7.mp4")):
        if not csv_kept:  # as a killed run leaves it
            table.unlink()
        result = cut(start, video)
        assert result.exit_code == 2 and "mine: holds the clip from second 2 of long.mp4" in result.failed["mine"]
        assert not csv_kept or table.read_bytes() == before


@pytest.mark.parametrize(
    ("first", "second", "words"), [(64, 32, "64x64 pixels, not 32x32"), (0, 48, "64x48 pixels, not")]
)
def test_clips_of_a_different_size_are_refused_not_kept(videos, tmp_path, first, second, words):
    def made(size):
        return prepare(videos / "dog", tmp_path, size=size, workers=1, progress=False)

    assert made(first).made == made(first).there == ["long_0", "long_5"]
    result = made(second)
    assert result.exit_code == 2 and words in result.failed["long_0"] and words in result.failed["long_5"]


def test_a_clip_of_a_different_split_or_category_is_refused(videos, tmp_path):
    """The reader would find no sound of the one; the csv would keep only one row of the other."""
    for split, expected in (("test", []), ("val", ["long_0", "long_5"])):
        result = prepare(videos / "dog", tmp_path / "a", "ms3", split=split, workers=1, progress=False)
        assert list(result.failed) == expected and all("different split" in why for why in result.failed.values())
    for category, start, expected in (("dog", 0, []), ("cat", 5, ["long_0"])):
        (tmp_path / "mine.csv").write_text(f"name,start,category,split\nlong_0,{start},{category},test\n")
        result = prepare(videos, tmp_path / "b", "s4", tmp_path / "mine.csv", workers=1, progress=False)
        assert list(result.failed) == expected
    assert "category dog too" in result.failed["long_0"]
    assert "long_0,0,dog,test" in (tmp_path / "b/Single-source/s4_meta_data.csv").read_text()


def test_every_video_of_the_folder_is_named(videos, tmp_path):
    root = tmp_path / "root"
    for name in ("a/one.mp4", "b/one.mkv", "c/one.MOV", "camera.MTS"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((videos / "whole_7.mp4").read_bytes())
    (root / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (root / "notes.txt").write_text("not a video")
    result = prepare(root, tmp_path / "out", workers=1, progress=False)
    assert (result.made, set(result.failed), result.exit_code) == (["camera_0"], {"one", "gone"}, 1)
    assert "no such file" in result.failed["gone"] and result.failed["one"].count("one.") == 3


def test_videos_behind_links_are_found_once(videos, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(videos / "dog", target_is_directory=True)
    (root / "again").symlink_to(videos / "dog", target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    result = prepare(root, tmp_path / "out", workers=1, progress=False)
    assert (result.made, result.failed) == (["long_0", "long_5"], {})


def test_threads_make_the_same_files(videos, tmp_path):
    for workers in (1, 2):
        prepare(videos, tmp_path / str(workers), workers=workers, progress=False)
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "12"
    )
    logs = {p for p in one if p.name == "prepare_log.csv"}
    assert one.keys() == two.keys() and all(one[p] == two[p] for p in one.keys() - logs)


def test_without_masks_the_reader_and_the_check_say_so(videos, tmp_path):
    prepare(videos / "dog", tmp_path, workers=1, progress=False)
    with pytest.raises(AvsError, match=r"gt_masks: no such folder, so these clips .* masks=False"):
        AVSBench(tmp_path, "s4", "test")
    report = check(tmp_path, deep=True, progress=False)
    assert report.exit_code == 2 and [f.sentence for f in report.errors if "gt_masks" not in f.sentence] == []
    masks = tmp_path / "given/test/unknown/long_0"
    masks.mkdir(parents=True)
    for k in range(1, 6):
        Image.new("L", (224, 224)).save(masks / f"long_0_{k}.png")
    result = prepare(videos / "dog", tmp_path, masks=tmp_path / "given", workers=1, progress=False)
    assert "no masks were copied" in log_rows(result.log)["long_5"][1]
    assert (result.unmasked, result.exit_code) == (["long_5"], 1)
    assert AVSBench(tmp_path, "s4", "test", skip=["long_5"])[0]["annotated"].all()


def test_command_and_exit_codes(videos, tmp_path):
    def avs(*arguments):
        return CliRunner().invoke(app, ["data", "prepare", *map(str, arguments), "--workers", "1", "-q"])

    assert avs(videos / "whole_7.mp4", tmp_path / "a").exit_code == 0
    result = avs(videos, tmp_path / "b", "--split", "val", "--task", "ms3")
    assert result.exit_code == 1 and "prepare_log.csv" in result.output and "mute_0" in result.output
    assert avs(videos / "broken.mp4", tmp_path / "c").exit_code == 2
    with pytest.raises(AvsError, match="has no video"):
        prepare(tmp_path / "a", tmp_path / "d")
    with pytest.raises(AvsError, match="no such file or folder"):
        prepare(tmp_path / "nowhere", tmp_path / "d")
    assert not (tmp_path / "d").exists()
