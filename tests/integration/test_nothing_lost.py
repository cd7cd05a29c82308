"""What is damaged is recognised and reported or made again, a full disk leaves the old file, a second run overwrites
nothing."""

import errno
import json
import os
import random
import shutil
import signal
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from avslib.config import load_config
from avslib.core.errors import AvsError, DataError, DiskFullError, OutputError
from avslib.core.files import atomic_path
from avslib.core.tensors import load_tensors, save_tensors
from avslib.data.avsbench import AVSBench
from avslib.data.embeddings import _kept
from avslib.data.mini import build_mini
from avslib.data.packed import PackedClips, pack
from avslib.data.pictures import read_frame
from avslib.models.ecmvae import ECMVAE
from avslib.study.records import load_clips, load_records, write_record
from avslib.training.loop import train
from avslib.training.state import History, RunState
from avslib.video.prediction_files import write_prediction
from avslib.video.prepare import _write_clip
from avslib.video.reader import Moment
from avslib.weights.checkpoints import CONFIG, load_checkpoint, save_checkpoint
from benchmarks.record import BenchSettings, Row, new_bench_record, read_bench_record, write_bench_record
from tests.helpers.damage import damaged
from tests.helpers.tiny import TINY
from tests.unit.study.test_results import record
from tests.unit.video.test_prediction_files import predictor, video  # noqa: F401

CLIPS = [{"name": f"clip {k}", "split": "test", "J": k / 8} for k in range(8)]
TENSORS = {"weight": torch.arange(600.0).view(20, 30), "half": torch.ones(9).half(), "count": torch.tensor(7)}


def plain(value):
    """A value with tensors as bytes, which can be compared."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def a_state(folder):
    network = nn.Linear(30, 20)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    RunState(step=3, best_j=0.5, sums={"loss": torch.tensor(2.0)}).save(folder, load_config("mini"), network, optimizer)
    return folder / "state.pt", lambda: RunState.open(folder, load_config("mini"), resume=True)[1]


def weights(folder):
    save_tensors(folder / "a.safetensors", TENSORS, {"more": "x"})
    return folder / "a.safetensors", lambda: load_tensors(folder / "a.safetensors")[0]


def a_config(folder):
    save_checkpoint(folder, ECMVAE(load_config("mini", TINY)))
    return folder / CONFIG, lambda: load_checkpoint(folder).config.model_dump()


def a_record(folder):
    return write_record(folder, record(), CLIPS), lambda: load_records(folder)[0].model_dump()


def scores_of_clips(folder):
    write_record(folder, record(), CLIPS)
    return folder / "clips.csv", lambda: load_clips(load_records(folder)[0])


def a_bench_record(folder):
    made = new_bench_record(BenchSettings(), {"train": [Row(case="step", name="ours", clips_per_second=3.5)]}, 2.0)
    return write_bench_record(folder / "a.json", made), lambda: read_bench_record(folder / "a.json").model_dump()


def a_cache(folder):
    def read():
        return _kept(["content"], ["a", "b"], folder, lambda: torch.arange(40.0).view(2, 5, 4))

    read()
    return next(folder.glob("*.safetensors")), read


def _packed(folder, data):
    pack(data, folder / "packed", "s4", ["val"], frames=2, progress=False)
    return lambda: list(PackedClips(folder / "packed", "val", 32, 2))


def a_shard(folder, data):
    read = _packed(folder, data)
    return folder / "packed/val-000000.tar", read


def a_frame(folder):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "a.png")
    return folder / "a.png", lambda: read_frame(folder / "a.png")[0].tolist()


def a_packed_index(folder, data):
    read = _packed(folder, data)
    return folder / "packed/index.json", read


KINDS = {
    "state of a run": (a_state, 60),
    "weights": (weights, 200),
    "configuration of weights": (a_config, 12),
    "run record": (a_record, 60),
    "scores of clips": (scores_of_clips, 60),
    "bench record": (a_bench_record, 60),
    "cached embeddings": (a_cache, 100),
    "packed clips": (a_shard, 40),
    "index of packed clips": (a_packed_index, 40),
    "frame": (a_frame, 100),
}


def attack(name, path, read, times, cut_only=False):
    """Damage a file `times` times: how often reading it raised our sentence or warned, and gave the same. It never
    gives anything else."""
    whole, wanted, rng = path.read_bytes(), plain(read()), random.Random(name)
    recognised = harmless = 0
    for _ in range(times):
        what, data = damaged(whole, rng, cut_only)
        if data == whole:
            continue
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                assert plain(read()) == wanted, f"{name}: {what} gave other values"
                recognised, harmless = recognised + bool(said), harmless + (not said)
            except (AvsError, SafetensorError):
                recognised += 1
        path.write_bytes(whole)
    return {"damaged": recognised + harmless, "recognised": recognised, "harmless": harmless}


def test_no_damaged_file_is_taken_for_a_whole_one(mini_data, tmp_path, reliability_record):
    found = {}
    for name, (make, times) in KINDS.items():
        (tmp_path / name).mkdir()
        more = [mini_data] if make in (a_shard, a_packed_index) else []
        found[name] = attack(name, *make(tmp_path / name, *more), times)
        # what is harmless lies where no content does: the padding of a tar or zip file, the name of a checksum
        assert found[name]["recognised"] > 0.6 * found[name]["damaged"], found
    tried, recognised = (sum(kind[key] for kind in found.values()) for key in ("damaged", "recognised"))
    by_kind = {name: kind["damaged"] for name, kind in found.items()}
    reliability_record(
        "files",
        damaged_files=tried,
        recognised=recognised,
        read_the_same=tried - recognised,
        read_as_something_else=0,
        bytes_lost=0,
        by_kind=by_kind,
    )


def test_torch_alone_would_load_other_numbers(tmp_path):
    path, _ = a_state(tmp_path)
    whole, wanted = path.read_bytes(), plain(torch.load(path)["model"])
    at = whole.index(torch.load(path)["model"]["weight"].numpy().tobytes()[:16])
    path.write_bytes(whole[:at] + b"\0\0\0\0" + whole[at + 4 :])
    assert plain(torch.load(path)["model"]) != wanted
    with pytest.raises(AvsError, match=r"state\.pt: damaged .*--resume then starts"):
        RunState.open(tmp_path, load_config("mini"), resume=True)


def test_weights_and_configuration_belong_together(tmp_path):
    model = ECMVAE(load_config("mini", TINY))
    save_checkpoint(tmp_path, model)
    text = (tmp_path / CONFIG).read_text(encoding="utf-8").replace("lr: ", "lr: 1")
    (tmp_path / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(AvsError, match=r"not the config\.yaml that model\.safetensors was saved with"):
        load_checkpoint(tmp_path)
    (tmp_path / CONFIG).write_text(text + "# edited\n", encoding="utf-8")
    assert load_checkpoint(tmp_path).config.train.lr != model.config.train.lr


def test_older_files_without_checksums_are_read(tmp_path):
    from avslib.weights.checkpoints import shipped_names

    assert all(load_checkpoint(name) for name in shipped_names()[:1])
    path = write_record(tmp_path, record(), CLIPS)
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in values.items() if not k.endswith("_hash") or k == "config_hash"}))
    assert load_records(tmp_path)[0].metrics == record().metrics


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_damaged_build_is_refused(mini_data, tmp_path, reliability_record):
    splits = {"train": 8, "val": 3, "test": 3, "test_unseen": 2}
    root, rng = shutil.copytree(mini_data, tmp_path / "mini"), random.Random(0)
    before = contents(root)
    build = {"counts": {"s4": splits, "ms3": splits}, "image_size": 64, "workers": 1, "progress": False}
    paths = rng.sample([p for p in sorted(before) if p.name not in ("files.csv", "manifest.json")], 25)
    paths += [p for p in before if p.name in ("files.csv", "manifest.json")]
    for k, path in enumerate(paths):
        (root / path).write_bytes(damaged(before[path], rng)[1])
        if not k:
            (root / path).unlink()
        with pytest.raises((DataError, OutputError), match=r"damaged|different build|not a build"):
            build_mini(root, verify=True, **build)
        (root / path).write_bytes(before[path])
    assert build_mini(root, verify=True, **build)["name"] == "Mini-AVS"
    reliability_record("mini_build", damaged_files=len(paths), recognised=len(paths), bytes_lost=0)


def in_child(call):
    """The class and text of what `call` raises in a process of its own whose files cannot grow past 2000 bytes."""
    import resource

    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(120)  # a decoder whose threads did not come along with the fork would wait for ever
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            call()
            said = "nothing"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode()[:1000])
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as stream:
        return stream.read()


def full_writers(folder, predictor, clip, data):  # noqa: F811
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))

    moment = Moment(0, 0, 1, np.zeros((9, 9, 3), np.uint8), np.zeros(16000, "f4"))
    row = {"name": "a", "category": "b", "split": "test", "start": "0"}

    def picture():
        with atomic_path(folder / "a.png") as part:
            noise.save(part, format="png")

    def log():
        history = History(folder / "history.csv", 1)
        for step in range(500):
            history.add(step=step, loss=0.1)

    return {
        "state": lambda: a_state(folder),
        "weights": lambda: save_tensors(folder / "a.safetensors", TENSORS),
        "record": lambda: write_record(folder / "record", record(notes="long " * 1000)),
        "picture": picture,
        "history": log,
        "prediction": lambda: write_prediction(predictor.predict(clip), folder / "masks"),
        "cut clip": lambda: _write_clip(folder, "s4", row, [moment] * 5, 9, "a.mp4"),
        "packed": lambda: pack(data, folder / "packed", "s4", ["val"], progress=False),
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are Unix's")
def test_a_full_disk_leaves_the_old_file_and_no_part(predictor, mini_data, tmp_path, reliability_record):  # noqa: F811
    folder, clip = tmp_path / "out", video(tmp_path, 2)
    folder.mkdir()
    writers = full_writers(folder, predictor, clip, mini_data)
    old = dict.fromkeys(("state.pt", "a.safetensors", "a.png"), b"old")
    for name, data in old.items():
        (folder / name).write_bytes(data)
    for name, write in writers.items():
        said = in_child(write)
        assert said.startswith("DiskFullError: ") and "MB are free" in said, (name, said)
    assert {name: (folder / name).read_bytes() for name in old} == old
    assert not list(tmp_path.rglob("*.part"))
    reliability_record("full_disk", faults=len(writers), survived=len(writers), parts_left=0, bytes_lost=0)


def torch_stream(path):
    with open(path, "wb") as stream:
        torch.save(TENSORS, stream)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_bytes(b"x"), lambda path: Image.new("L", (9, 9)).save(path, format="png"), torch_stream],
)
def test_a_full_device_is_reported_whoever_writes(tmp_path, write):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(DiskFullError, match=r"a: not written: the disk is full"), atomic_path(tmp_path / "a") as part:
        part.symlink_to("/dev/full")
        write(part)
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="Input/output") as error, atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, "Input/output error")
    assert not isinstance(error.value, AvsError)


def test_half_a_row_of_the_history_is_left_out(tmp_path):
    history = History(tmp_path / "history.csv", 0)
    for step in (10, 20, 30):
        history.add(step=step, epoch=0, loss=0.5)
    text = history.path.read_text(encoding="utf-8") + "2"  # of 25
    history.path.write_text(text, encoding="utf-8")
    History(history.path, 20)
    assert [line[:2] for line in history.path.read_text(encoding="utf-8").splitlines()[1:]] == ["10", "20"]


def test_damaged_rows_of_the_history_are_named_and_dropped(tmp_path):
    history = History(tmp_path / "history.csv", 0)
    for step in (10, 20, 30):
        history.add(step=step, epoch=0, loss=0.5)
    text = history.path.read_text(encoding="utf-8").replace("\n20,0", "\n20;0")
    history.path.write_text(text, encoding="utf-8")
    with pytest.warns(UserWarning, match=r"history\.csv: dropped damaged rows: line 3$"):
        History(history.path, 30)
    assert [line[:2] for line in history.path.read_text(encoding="utf-8").splitlines()[1:]] == ["10", "30"]


def test_what_is_there_stays(mini_data, tmp_path):
    from typer.testing import CliRunner

    from avslib.cli import app

    model = ECMVAE(load_config("mini", TINY))
    save_checkpoint(tmp_path / "a", model)
    save_checkpoint(tmp_path / "a", model, replace=False)  # the same again
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="already exists with different content"):
        save_checkpoint(tmp_path / "a", ECMVAE(load_config("mini", TINY)), replace=False)
    write_record(tmp_path / "run", record())
    with pytest.raises(OutputError, match="holds a finished run and no state"):
        RunState.open(tmp_path / "run", load_config("mini"), resume=True)
    (tmp_path / "mine.txt").write_text("clips that I left out")
    result = CliRunner().invoke(app, ["data", "check", str(mini_data), "-q", "--fix-list", str(tmp_path / "mine.txt")])
    assert isinstance(result.exception, OutputError) and (tmp_path / "mine.txt").read_text() == "clips that I left out"
    with pytest.raises(OutputError, match="is a file"):
        train(load_config("mini", TINY), tmp_path / "mine.txt", progress=False)
    assert contents(tmp_path).items() >= before.items()
    assert len(AVSBench(mini_data, "s4", "val")) == 3
