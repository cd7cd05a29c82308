"""The command line: help that reads well, results as from Python, and one sentence with exit code 2 for bad input."""

import json
import os
import shutil
import subprocess
import sys
import wave

import pytest
import torch
from PIL import Image

from avslib import cli
from avslib.audio.vggish import VGGish
from avslib.models.ecmvae import ECMVAE
from avslib.weights.checkpoints import save_checkpoint
from tests.helpers.avsbench_folder import write_avsbench
from tests.helpers.reference import official_state


def avs(capfd, monkeypatch, *arguments):
    """Exit code, stdout and stderr of a command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["avs", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
        raise SystemExit(0)
    out, err = capfd.readouterr()
    return stop.value.code or 0, out, err


@pytest.fixture
def broken(mini_data, tmp_path):
    """A copy of the data to break."""
    root = shutil.copytree(mini_data, tmp_path / "data")
    (root / "files.csv").unlink()  # as other data, whose damage no list shows
    return root


@pytest.fixture(scope="module")
def checkpoint(mini_data, tmp_path_factory):
    from avslib.config import load_config
    from tests.helpers.tiny import TINY

    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), ECMVAE(load_config("mini", TINY)))


def a_clip(root, folder):
    return sorted((root / "Single-source/s4_data" / folder / "test").glob("*/*"))[0]


def miss_folder(root):
    shutil.rmtree(root)


def drop_column(root):
    path = root / "Single-source/s4_meta_data.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("category", "kind"), encoding="utf-8")


def drop_frame(root):
    sorted(a_clip(root, "visual_frames").glob("*_5.png"))[0].unlink()


def resize_mask(root):
    path = sorted(a_clip(root, "gt_masks").glob("*_1.png"))[0]
    Image.open(path).resize((32, 32), Image.Resampling.NEAREST).save(path)


def shorten_wav(root):
    path = a_clip(root, "audio_wav")
    with wave.open(str(path)) as stream:
        parameters, samples = stream.getparams(), stream.readframes(32000)
    with wave.open(str(path), "wb") as stream:
        stream.setparams(parameters)
        stream.writeframes(samples)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (miss_folder, "no such folder"),
        (drop_column, "'category'"),
        (drop_frame, "_5.png"),
        (resize_mask, "32x32"),
        (shorten_wav, "2.0"),
    ],
)
def test_bad_data_gets_one_sentence_and_exit_code_2(broken, checkpoint, capfd, monkeypatch, damage, words):
    damage(broken)
    code, _, err = avs(capfd, monkeypatch, "eval", "--data", broken, "--checkpoint", checkpoint, "-q")
    assert code == 2 and words in err and "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("avs: ")] == err.strip().splitlines()[-1:]


def test_worker_processes_pass_the_sentence_on(broken, checkpoint, capfd, monkeypatch):
    resize_mask(broken)
    path = checkpoint / "config.yaml"
    text = path.read_text(encoding="utf-8").replace("workers: 0", "workers: 1")
    path.write_text(text + "# edited\n", encoding="utf-8")
    code, _, err = avs(capfd, monkeypatch, "eval", "--data", broken, "--checkpoint", checkpoint, "-q")
    assert code == 2 and "32x32" in err and "Traceback" not in err


def test_checkpoint_of_another_architecture(mini_data, checkpoint, tmp_path, capfd, monkeypatch):
    other = shutil.copytree(checkpoint, tmp_path / "other")
    text = (other / "config.yaml").read_text(encoding="utf-8")
    (other / "config.yaml").write_text(text.replace("channels: 8", "channels: 12"), encoding="utf-8")
    code, _, err = avs(capfd, monkeypatch, "eval", "--data", mini_data, "--checkpoint", other)
    assert code == 2 and "has shape" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("train.epoch=3", "Did you mean 'train.epochs'"),
        ("train.epochs=many", "train.epochs"),
        ("epochs", "section.field=value"),
    ],
)
def test_bad_override(mini_data, capfd, monkeypatch, option, words):
    code, _, err = avs(capfd, monkeypatch, "train", "--data", mini_data, "-o", option)
    assert code == 2 and words in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("command", "device"),
    [(["eval", "--checkpoint"], "gpu"), (["eval", "--checkpoint"], "cuda:99"), (["robustness"], "cuda:99")],
)
def test_a_device_that_is_not_there(mini_data, capfd, monkeypatch, command, device):
    code, _, err = avs(capfd, monkeypatch, *command, "mini-s4", "--data", mini_data, "--device", device)
    assert code == 2 and f"device '{device}': expected auto, cpu" in err and err.endswith("[AVS101]\n")


@pytest.mark.parametrize(
    "command", [[], ["data"], ["data", "build-mini"], ["data", "check"], ["train"], ["eval"], ["table"], ["demo"]]
)
def test_every_command_explains_itself(capfd, monkeypatch, command):
    _, out, err = avs(capfd, monkeypatch, *command, "--help")
    assert "Usage: avs" in out + err and len(out + err) > 300


@pytest.mark.parametrize("task", ["s4", "ms3"])
def test_eval_prints_scores_of_val_and_test(mini_data, checkpoint, capfd, monkeypatch, task):
    code, out, _ = avs(
        capfd,
        monkeypatch,
        "eval",
        "--data",
        mini_data,
        "--task",
        task,
        "--checkpoint",
        checkpoint,
        "--split",
        "val",
        "--split",
        "test",
        "-q",
    )
    assert code == 0 and out.count("val") >= 3 and out.count("test") >= 3 and "F_legacy@4" in out


def test_imported_weights_are_scored_beside_the_published_row(tmp_path, mini_data, capfd, monkeypatch):
    root = write_avsbench(tmp_path / "data", per_split=1)
    torch.save(official_state("resnet"), tmp_path / "s4_resnet.pth")
    torch.save(VGGish().state_dict(), tmp_path / "vggish.pth")
    out = tmp_path / "weights"
    assert (
        avs(
            capfd,
            monkeypatch,
            "weights",
            "import",
            tmp_path / "s4_resnet.pth",
            "--out",
            out,
            "--vggish",
            tmp_path / "vggish.pth",
        )[0]
        == 0
    )
    code, said, _ = avs(capfd, monkeypatch, "eval", "--data", root, "--checkpoint", out, "-q")
    assert code == 0 and "published" in said and "0.763" in said and "F_legacy@4" in said
    code, said, _ = avs(capfd, monkeypatch, "eval", "--data", mini_data, "--checkpoint", out, "-q")
    assert code == 0 and "published" not in said and "all objects" in said


def test_eval_scores_all_clips_of_a_checkpoint_that_was_trained_without_some(mini_data, tmp_path, capfd, monkeypatch):
    from avslib.config import load_config
    from avslib.training.evaluate import Scores
    from avslib.training.setup import open_split
    from tests.helpers.tiny import TINY

    config = load_config("mini", TINY | {"data.root": str(mini_data), "data.skip": str(tmp_path / "bad.txt")})
    save_checkpoint(tmp_path / "checkpoint", ECMVAE(config))
    (tmp_path / "bad.txt").write_text("\n".join(open_split(config.replace({"data.skip": None}), "test").names[:2]))
    scored = []
    monkeypatch.setattr(
        "avslib.study.run.evaluate", lambda model, data, **_: scored.append(len(data)) or Scores({"J": 0.0}, {})
    )
    code, _, _ = avs(capfd, monkeypatch, "eval", "--data", mini_data, "--checkpoint", tmp_path / "checkpoint", "-q")
    assert code == 0 and scored == [3, 3]


def test_a_parameter_file_with_a_name_that_no_notebook_has(tmp_path, capfd, monkeypatch):
    for text, words in (
        ("all: {SEEED: 1}", "all: SEEED"),
        ("99: {SEED: 1}", "99: SEED"),
        ("7: {STEPS: 1}", "07: STEPS"),
    ):
        (tmp_path / "p.yaml").write_text(text)
        code, _, err = avs(capfd, monkeypatch, "notebooks", "run", "00", "--params", tmp_path / "p.yaml")
        assert code == 2 and f"{words}: there is no such notebook" in err


def test_train_writes_a_run_and_table_prints_it(mini_data, tmp_path, capfd, monkeypatch):
    from tests.helpers.tiny import TINY

    options = [word for name, value in TINY.items() for word in ("-o", f"{name}={json.dumps(value)}")]
    code, _, _ = avs(
        capfd,
        monkeypatch,
        "train",
        "--data",
        mini_data,
        *options,
        "-o",
        "train.epochs=1",
        "--out",
        tmp_path / "runs/a",
        "-q",
    )
    assert code == 0
    code, out, _ = avs(capfd, monkeypatch, "table", "--runs", tmp_path / "runs", "--format", "md")
    assert code == 0 and "ecmvae" in out and "not comparable with AVSBench" in out


def test_check_of_a_build_is_sound(mini_data, capfd, monkeypatch):
    code, out, _ = avs(capfd, monkeypatch, "data", "check", mini_data, "--deep", "--json")
    assert code == 0 and json.loads(out)


def test_build_mini_says_what_it_built(tmp_path, capfd, monkeypatch):
    import avslib.data.mini.build as build

    monkeypatch.setitem(build.SIZES, "small", {"s4": {"train": 1}, "ms3": {"val": 1}})
    code, out, _ = avs(capfd, monkeypatch, "data", "build-mini", "--out", tmp_path / "mini", "--workers", "1", "-q")
    assert code == 0 and "1 S4 and 1 MS3" in " ".join(out.split())


def test_installed_as_a_module_it_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "avslib.cli", "data", "check", str(tmp_path / "nowhere")],
        text=True,
        capture_output=True,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
