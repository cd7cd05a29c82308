"""The data report: clean folders pass, and a folder broken in one way has the file and the fault named."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from avslib.cli import app
from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.data.avsbench import AVSBench, read_skip_list
from avslib.data.check import PUBLISHED, Finding, Report, check
from avslib.data.layout import is_plain_name
from avslib.training.setup import open_split
from tests.helpers.avsbench_folder import SIZE, write_avsbench, write_csv, write_wav


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = write_avsbench(tmp_path_factory.mktemp("avsbench"))
    (root / "manifest.json").write_text("{}")
    return root


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "copy")


def printed(report):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def test_a_sound_folder(pristine):
    report = check(pristine, deep=True, progress=False)
    assert (report.exit_code, report.ok, report.errors, report.warnings) == (0, True, [], [])
    assert report.tasks["s4"].splits == {"train": 2, "val": 2, "test": 2}
    assert report.tasks["s4"].categories["val"] == {"dog": 2}
    assert "Sound; every file was read" in printed(report)


def test_only_one_task(pristine):
    assert list(check(pristine / "Multi-sources").tasks) == ["ms3"]


def test_counts_are_compared_with_the_published_ones(root):
    (root / "manifest.json").unlink()
    report = check(root)
    assert (report.exit_code, len(report.warnings)) == (1, 6)
    assert "s4_meta_data.csv: 2 train clips; AVSBench has 3452" in printed(report)
    assert [sum(PUBLISHED[task].values()) for task in ("s4", "ms3")] == [4932, 424]


def test_shared_sources_are_noted(root):
    (root / "manifest.json").unlink()
    rows = [
        {"video_id": f"{source}_{i}", "split": split}
        for i, (source, split) in enumerate([("ab_c", "train"), ("ab_c", "test"), ("ab_d", "test"), ("ab", "val")])
    ]
    write_csv(root / "Multi-sources" / "ms3_meta_data.csv", rows)
    report = check(root / "Multi-sources")
    assert report.tasks["ms3"].shared_sources == {"test": 1}
    assert "1 of 2 test clips share their source video with a train clip" in printed(report)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unpickled(path):
    pickled = path.parents[2] / "audio_log_mel" / path.parent.relative_to(path.parents[1]) / f"{path.stem}.pkl"
    pickled.parent.mkdir(parents=True)
    pickled.write_bytes(pickle.dumps(print))


FAULTS = {
    "frame missing": ("clip-test-0_0_2.png", "visual_frames", lambda path: path.unlink(), "4 files"),
    "frame truncated": ("multi-val-0_0.mp4_5.png", "visual_frames", half, "truncated"),
    "frame of no bytes": ("clip-val-0_0_1.png", "visual_frames", lambda path: path.write_bytes(b""), "truncated"),
    "frame of another size": (
        "clip-val-0_0_4.png",
        "visual_frames",
        lambda path: Image.new("RGB", (8, 8)).save(path),
        "and its frame 8x8",
    ),
    "mask missing": ("clip-train-1_0_1.png", "gt_masks", lambda path: path.unlink(), "expected 1 masks"),
    "mask truncated": ("multi-test-1_1_3.png", "gt_masks", half, "truncated"),
    "mask of another size": (
        "multi-train-0_0_2.png",
        "gt_masks",
        lambda path: Image.new("L", (8, SIZE)).save(path),
        f"8x{SIZE} pixels",
    ),
    "mask not binary": (
        "clip-test-1_0_2.png",
        "gt_masks",
        lambda path: Image.linear_gradient("L").resize((SIZE, SIZE)).save(path),
        "not binary",
    ),
    "frame that is text": (
        "clip-test-1_0_3.png",
        "visual_frames",
        lambda path: path.write_text("no picture"),
        "cannot identify",
    ),
    "frames' folder missing": (
        "clip-val-1_0_1.png",
        "visual_frames",
        lambda path: shutil.rmtree(path.parent),
        "no such folder",
    ),
    "mask of no bytes": ("clip-val-1_0_2.png", "gt_masks", lambda path: path.write_bytes(b""), "truncated"),
    "mask of noise": (
        "multi-val-0_0_2.png",
        "gt_masks",
        lambda p: Image.effect_noise((SIZE, SIZE), 90).save(p),
        "not binary",
    ),
    "sound of no bytes": ("multi-train-1_1.wav", "audio_wav", lambda path: path.write_bytes(b""), "read"),
    "sound cut in its header": ("clip-test-0_0.wav", "audio_wav", lambda p: p.write_bytes(p.read_bytes()[:20]), "read"),
    "sound of a header alone": ("clip-test-1_0.wav", "audio_wav", lambda path: write_wav(path, 0), "no samples"),
    "sound missing": ("multi-val-1_1.wav", "audio_wav", lambda path: path.unlink(), "no sound"),
    "sound of 2 s": ("clip-train-0_0.wav", "audio_wav", lambda path: write_wav(path, 2), "2.00 s"),
    "sound that is text": ("clip-val-1_0.wav", "audio_wav", lambda path: path.write_bytes(b"RIFF no sound"), "read"),
    "pickle that is no tensor": ("multi-test-0_0.wav", "audio_wav", unpickled, "builtins.print"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(root, fault):
    name, below, broken, words = FAULTS[fault]
    (path,) = (path for path in root.rglob(name) if below in path.parts)
    broken(path)
    report = check(root, deep=True, progress=False)
    (finding,) = report.errors
    assert words in finding.sentence and finding.clip in name and finding.clip in finding.sentence
    assert report.exit_code == 2 and report.bad_clips == [finding.clip]
    assert json.loads(report.to_json())["errors"][0]["sentence"] == finding.sentence
    assert check(root, deep=True, skip=report.bad_clips, progress=False).exit_code == 0
    split = finding.clip.split("-")[1]
    assert len(AVSBench(root, finding.task, split, skip=report.bad_clips)) == 1


def test_clips_with_faults_go_on_a_list_that_training_leaves_out(root, tmp_path):
    next(root.rglob("clip-test-0_0.wav")).unlink()
    next(root.rglob("clip-val-1_0.wav")).unlink()
    command = [str(root), "--quiet", "--fix-list", str(tmp_path / "bad.txt"), "--sheet", str(tmp_path / "sheet.png")]
    assert CliRunner().invoke(app, ["data", "check", *command]).exit_code == 2
    assert read_skip_list(tmp_path / "bad.txt") == {"clip-test-0_0", "clip-val-1_0"}
    settings = {"data.root": str(root), "data.skip": str(tmp_path / "bad.txt"), "model.use_audio": False}
    assert [c.name for c in open_split(load_config("mini", settings), "test").clips] == ["clip-test-1_0"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 400 and sheet.height > 1000
    with pytest.raises(AvsError, match="expected clip names"):
        read_skip_list(tmp_path / "none.txt")


def test_names_that_look_like_comments_can_be_left_out(tmp_path):
    names = ["#1_0", "1_0"]
    report = Report("/data", deep=False, errors=[Finding("s4", "damaged", name) for name in names])
    report.write_fix_list(tmp_path / "bad.txt")
    assert read_skip_list(tmp_path / "bad.txt") >= set(names)
    (tmp_path / "bad.txt").write_text("# of mine\n#\n\n#1_0\n2_0 \n")
    assert read_skip_list(tmp_path / "bad.txt") == {"#1_0", "2_0"}


@pytest.mark.parametrize("name", ["#", "# 1_0", " 1_0", "#1_0", "a #b", "1_0"])
def test_any_name_on_a_fix_list_is_read_back(tmp_path, name):
    Report("/data", deep=False, errors=[Finding("s4", "damaged", name)]).write_fix_list(tmp_path / "bad.txt")
    assert read_skip_list(tmp_path / "bad.txt") == {name} and is_plain_name(name)


def test_a_task_without_its_csv_is_an_error(root):
    (root / "Multi-sources/ms3_meta_data.csv").unlink()
    report = check(root)
    assert report.exit_code == 2 and "ms3_meta_data.csv" in report.errors[0].sentence and list(report.tasks) == ["s4"]


def test_a_short_wav_beside_a_whole_log_mel_is_a_warning(root):
    wav = next(root.rglob("clip-test-0_0.wav"))
    write_wav(wav, 3.9)
    pickled = Path(str(wav).replace("audio_wav", "audio_log_mel")).with_suffix(".pkl")
    pickled.parent.mkdir(parents=True)
    pickled.write_bytes(pickle.dumps(torch.zeros(5, 1, 96, 64)))
    report = check(root, deep=True, progress=False)
    assert report.errors == [] and "3.90 s" in report.warnings[0].sentence and report.exit_code == 1


def test_empty_masks_are_warnings(root):
    (mask,) = root.rglob("gt_masks/**/clip-val-0_0_1.png")
    Image.new("L", (SIZE, SIZE)).save(mask)
    report = check(root, deep=True, progress=False)
    assert report.exit_code == 1 and report.ok and ["empty" in w.sentence for w in report.warnings] == [True]


def test_a_broken_csv_spares_the_other_task(root):
    (root / "Single-source" / "s4_meta_data.csv").write_text("name,split\na,train\n")
    report = check(root)
    assert report.exit_code == 2 and "'category'" in report.errors[0].sentence and "ms3" in report.tasks


def test_no_data_at_all(tmp_path):
    with pytest.raises(AvsError, match="no such folder"):
        check(tmp_path / "none")
    with pytest.raises(AvsError, match="neither"):
        check(tmp_path)
