"""The reader on made-up folders in AVSBench's layout: what it returns, and one clear sentence for each fault."""

import builtins
import csv
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from avslib.core.errors import AvsError
from avslib.data import pickles
from avslib.data.avsbench import AVSBench
from avslib.data.pickles import convert_audio, load_log_mel, unpickle_tensor
from tests.helpers.avsbench_folder import SIZE, write_avsbench, write_csv, write_wav


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_avsbench(tmp_path_factory.mktemp("avsbench"))


@pytest.fixture
def root(pristine, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(pristine, tmp_path / "a folder, ünïcode")


def one(root, pattern):
    return next(iter(sorted(root.rglob(pattern))))


def test_s4_item(pristine):
    train, test = (AVSBench(pristine, "s4", split, image_size=SIZE) for split in ("train", "test"))
    item = train[0]
    assert (len(train), item["name"], train.clips[0].category) == (2, "clip-train-0_0", "dog")
    assert item["image"].shape == (5, 3, SIZE, SIZE) and item["image"].dtype == torch.uint8
    assert item["annotated"].tolist() == [True, False, False, False, False]
    assert item["mask"].flatten(1).sum(1).tolist() == [40, 0, 0, 0, 0]
    assert test[0]["mask"].flatten(1).sum(1).tolist() == [40, 80, 120, 160, 200]
    stored = np.asarray(Image.open(test.clips[0].frame_paths[3]))
    assert (test[0]["image"][3].permute(1, 2, 0).numpy() == stored).all()


def test_ms3_item_and_batches(pristine):
    dataset = AVSBench(pristine / "Multi-sources", "ms3", "val", image_size=(32, 64))
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch["image"].shape == (2, 5, 3, 32, 64) and batch["mask"].shape == (2, 5, 1, 32, 64)
    assert batch["annotated"].all() and batch["mask"].max() == 1
    assert dataset.clips[0].category is None and batch["name"] == ["multi-val-0_0", "multi-val-1_1"]


def test_worker_processes_give_the_same_items(pristine):
    audio = {f"multi-test-{i}_{i}": torch.randn(5, 3) for i in range(2)}
    dataset = AVSBench(pristine, "ms3", "test", image_size=SIZE).with_audio(audio)
    here, there = dataset[1], list(DataLoader(dataset, batch_size=None, num_workers=1))[1]
    assert all(torch.equal(here[key], there[key]) for key in ("image", "mask", "audio"))


def test_sound(root):
    dataset = AVSBench(root, "s4", "val")
    assert dataset.waveform(0).shape == (80000,) and dataset.log_mel(0).shape == (5, 1, 96, 64)
    for seconds in (4.8, 7.3):
        write_wav(dataset.clips[0].wav_path, seconds)
        assert dataset.waveform(0).shape == (80000,)
    write_wav(dataset.clips[0].wav_path, 2)
    with pytest.raises(AvsError, match=r"clip-val-0_0\.wav.*2\.00 s.*expected 5 s"):
        dataset.waveform(0)


def test_pickles_without_wav(root):
    for wav in root.rglob("*.wav"):
        pickled = str(wav).replace("audio_wav", "audio_log_mel")[:-3] + "pkl"
        os.makedirs(os.path.dirname(pickled), exist_ok=True)
        with open(pickled, "wb") as stream:
            pickle.dump(torch.full((5, 1, 96, 64), 0.5, requires_grad=True), stream)
        wav.unlink()
    dataset = AVSBench(root, "ms3", "train")
    assert not dataset.log_mel(0).requires_grad and dataset.log_mel(0).mean() == 0.5
    with pytest.raises(AvsError, match="no wav"):
        dataset.waveform(0)


def test_pickles_are_converted_once_and_then_not_read(root, monkeypatch):
    values = {}
    for wav in sorted(root.rglob("*.wav")):
        pickled = Path(str(wav).replace("audio_wav", "audio_log_mel")).with_suffix(".pkl")
        pickled.parent.mkdir(parents=True, exist_ok=True)
        values[pickled.stem] = torch.rand(5, 1, 96, 64)
        pickled.write_bytes(pickle.dumps(values[pickled.stem].requires_grad_()))
        wav.unlink()
    pickled.write_bytes(pickle.dumps(print))
    done, refused = convert_audio(root, progress=False)
    assert done == len(values) - 1 and len(refused) == 1 and "builtins.print" in refused[0]
    assert convert_audio(root, progress=False)[0] == 0
    monkeypatch.setattr(pickles, "unpickle_tensor", lambda path: pytest.fail(f"{path} was unpickled"))
    dataset = AVSBench(root, "s4", "train")
    assert torch.equal(dataset.log_mel(1), values[dataset.clips[1].name].detach())
    dataset.clips[0].log_mel_path.write_bytes(b"half")
    with pytest.raises(AvsError, match="convert it again"):
        dataset.log_mel(0)
    with pytest.raises(AvsError, match="audio_log_mel"):
        convert_audio(root / "nothing", progress=False)


@pytest.mark.parametrize("mode", ["1", "L", "P", "zero-one", "coloured palette", "jpg frame"])
def test_mask_and_frame_formats(root, mode):
    dataset = AVSBench(root, "s4", "test", image_size=SIZE)
    expected = dataset[0]["mask"]
    path = dataset.clips[0].mask_paths[0]
    mask = Image.open(path).copy()
    if mode in ("1", "L", "P"):
        mask.convert(mode).save(path)
    elif mode == "zero-one":
        Image.fromarray(np.asarray(mask) // 255).save(path)
    elif mode == "coloured palette":
        labels = Image.fromarray(np.asarray(mask) // 255, mode="L").convert("P")
        labels.putpalette([0, 0, 0, 128, 0, 0])
        labels.save(path)
    else:
        frame = dataset.clips[0].frame_paths[0]
        Image.open(frame).save(frame.with_suffix(".jpg"))
        frame.unlink()
    assert torch.equal(AVSBench(root, "s4", "test", image_size=SIZE)[0]["mask"], expected)


def test_resizing(root):
    dataset = AVSBench(root, "s4", "test", image_size=2 * SIZE)
    assert dataset[0]["mask"].flatten(1).sum(1).tolist() == [160, 320, 480, 640, 800]
    assert dataset[0]["mask"].max() == 1


def test_pickles_behind_links_are_converted(tmp_path):
    (tmp_path / "disk/audio_log_mel/test").mkdir(parents=True)
    (tmp_path / "disk/audio_log_mel/test/a.pkl").write_bytes(pickle.dumps(torch.zeros(5, 1, 96, 64)))
    (tmp_path / "root").mkdir()
    for name, target in (("Single-source", "disk"), ("again", "disk"), ("loop", "root")):
        (tmp_path / "root" / name).symlink_to(tmp_path / target, target_is_directory=True)
    assert convert_audio(tmp_path / "root", progress=False) == (1, [])


def test_skip_and_extra_split(tmp_path, caplog):
    root = write_avsbench(tmp_path, splits=("test", "test_unseen"))
    assert len(AVSBench(root, "s4", "test_unseen")) == len(AVSBench(root, "ms3", "test")) == 2
    assert not caplog.messages
    assert [clip.name for clip in AVSBench(root, "s4", "test", skip=["clip-test-0_0"]).clips] == ["clip-test-1_0"]
    assert caplog.messages[0].endswith("1 clips, 1 left out")
    with pytest.raises(AvsError, match="no clip of split 'val'; it has test, test_unseen"):
        AVSBench(root, "s4", "val")


def rewrite_csv(root, change, task="s4"):
    path = one(root, f"{task}_meta_data.csv")
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    write_csv(path, change(rows))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: shutil.rmtree(root / "Single-source"), "has neither Single-source"),
        (
            lambda root: rewrite_csv(root, lambda rows: [{"name": r["name"], "split": "test"} for r in rows]),
            "'category'",
        ),
        (lambda root: one(root, "clip-test-0_0_3.png").unlink(), r"4 files, but not clip-test-0_0_3\.png; expected 5"),
        (lambda root: shutil.rmtree(root / "Single-source/s4_data/gt_masks"), "no such folder, so .* no masks"),
        (lambda root: shutil.rmtree(root / "Single-source/s4_data/gt_masks/test"), "no such folder; expected 5 masks"),
        (lambda root: one(root, "clip-test-0_0.wav").unlink(), "no sound: neither"),
        (lambda root: one(root, "s4_meta*").write_bytes(b"name,start,category,split\n\xff\xfe,0,a,test\n"), "UTF-8"),
        (
            lambda root: one(root, "s4_meta*").write_bytes(b"name,start,category,split\nshort\n"),
            "line 2: category is None",
        ),
        (lambda root: one(root, "s4_meta*").write_bytes(b""), "no column 'name'"),
        (lambda root: rewrite_csv(root, lambda rows: rows + rows), "comes twice"),
    ],
)
def test_faults_found_when_made(root, fault, words):
    fault(root)
    with pytest.raises(AvsError, match=words):
        AVSBench(root, "s4", "test")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/b", "C:evil", "..\\secret", "", "a\x00b", "."])
def test_names_stay_inside_the_folder(root, name):
    path = one(root, "ms3_meta_data.csv")
    path.write_text(f'video_id,split\n"{name}",test\n', encoding="utf-8")
    with pytest.raises(AvsError, match=r"plain name|cannot be read as a csv"):
        AVSBench(root, "ms3", "test")


def cut(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize(
    ("file", "fault", "words"),
    [
        ("frame", cut, "truncated"),
        ("frame", lambda path: path.write_bytes(b""), "truncated"),
        ("mask", cut, "truncated"),
        ("mask", lambda path: Image.new("L", (16, SIZE)).save(path), f"16x{SIZE} pixels and its frame {SIZE}x{SIZE}"),
        ("mask", lambda path: Image.linear_gradient("L").resize((SIZE, SIZE)).save(path), "not binary"),
        ("frame", lambda path: Image.new("1", (9000, 9000)).save(path), "more than 64000000"),
    ],
)
def test_faults_found_when_read(root, file, fault, words):
    dataset = AVSBench(root, "s4", "test", image_size=SIZE)
    path = (dataset.clips[0].frame_paths if file == "frame" else dataset.clips[0].mask_paths)[2]
    fault(path)
    with pytest.raises(AvsError, match=words) as raised:
        dataset[0]
    assert path.name in str(raised.value)
    assert dataset[1]["name"] == "clip-test-1_0"


def test_audio_must_fit_the_clips(pristine):
    with pytest.raises(AvsError, match="no embedding of clip 'clip-val-0_0'"):
        AVSBench(pristine, "s4", "val").with_audio({})
    with pytest.raises(AvsError, match=r"shape \[4, 8\]"):
        AVSBench(pristine, "s4", "val").with_audio({f"clip-val-{i}_0": torch.zeros(4, 8) for i in range(2)})


class RunsCode:
    def __reduce__(self):
        return builtins.open, ("ran.txt", "w")


@pytest.mark.parametrize("protocol", range(3, 6))
def test_pickled_tensors_are_read(tmp_path, protocol):
    value = torch.randn(5, 1, 96, 64)
    for tensor in (value, value.clone().requires_grad_(), torch.nn.Parameter(value)):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(tensor, protocol))
        assert torch.equal(load_log_mel(tmp_path / "a.pkl"), value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickles_that_run_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inner = torch.storage._load_from_bytes

    class Nested:
        """Hides the payload in the bytes that tensor rebuilding hands to torch.load."""

        def __reduce__(self):
            return inner, (pickle.dumps(RunsCode()),)

    class Codec:
        def __reduce__(self):
            import _codecs

            return _codecs.encode, ("x", "rot13")

    payloads = {"open": RunsCode(), "storage": Nested(), "encode": Codec(), "numpy": np.zeros(3), "getattr": getattr}
    for word, payload in payloads.items():
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(payload))
        with pytest.raises(AvsError, match=word):
            unpickle_tensor(tmp_path / "a.pkl")
    assert not (tmp_path / "ran.txt").exists()


def test_damaged_pickles(tmp_path):
    path, data = tmp_path / "a.pkl", pickle.dumps(torch.zeros(5, 1, 96, 64))
    huge_memo = b"\x80\x04]r\xff\xff\xff\xff."
    for content, words in [
        (data[:50], "damaged"),
        (b"", "damaged"),
        (huge_memo, "holds a list"),
        (pickle.dumps(torch.zeros(4, 1, 96, 64)), r"expected \[5, 1, 96, 64\]"),
        (pickle.dumps(torch.full((5, 1, 96, 64), torch.nan)), "not finite"),
    ]:
        path.write_bytes(content)
        with pytest.raises(AvsError, match=words):
            load_log_mel(path)
    with pytest.raises(AvsError, match="cannot be read"):
        load_log_mel(tmp_path / "none.pkl")
