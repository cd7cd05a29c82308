"""Where avslib has to live: no GPU build, no display, no home, a checkout that is read-only, odd paths and locales."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from avslib.data.packed import pack
from avslib.study.records import portable, run_id
from avslib.video.overlay_video import write_video
from tests.helpers.tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
STEERING = (
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "MPLBACKEND",
    "MPLCONFIGDIR",
    "HF_HOME",
    "HF_HUB_CACHE",
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "COLAB_RELEASE_TAG",
    "LANG",
    "LC_CTYPE",
)
# a build of PyTorch without CUDA, which raises at whatever needs a GPU
NO_CUDA = """
import torch

def refuse(*_, **__):
    raise AssertionError("Torch not compiled with CUDA enabled")

torch.version.cuda, torch.cuda.is_available, torch.cuda._lazy_init = None, lambda: False, refuse
"""
COMMANDS = """
import json, sys
from avslib import cli

for command in json.loads(sys.argv[1]):
    sys.argv = ["avs", *command]
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code, (command, stop.code)
"""


def run_commands(commands, cwd, root=ROOT, before=(), **variables):
    """Run several commands of avs in one process; its output."""
    env = {name: value for name, value in os.environ.items() if name not in STEERING} | variables
    env |= {"PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*before, sys.executable, "-c", NO_CUDA + COMMANDS, json.dumps(commands)],
        cwd=cwd,
        env=env,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def work_in(folder, mini_data):
    """Put data and a video into a folder: the run to be, and commands that read and write all kinds of files there."""
    data, video, run = folder / "the data", folder / "a clip.mp4", folder / "run (1)"
    shutil.copytree(mini_data, data)
    sound = np.sin(np.arange(32000) / 8).astype(np.float32)
    write_video(video, np.full((16, 48, 64, 3), 90, np.uint8), sound, 8.0)
    tiny = TINY | {
        "train.epochs": 1,
        "data.max_clips": 4,
        "model.backbone": "tf_efficientnet_lite0",
        "model.pretrained": True,
        "data.cache": str(folder / "cached sounds"),
    }
    options = [word for name, value in tiny.items() for word in ("-o", f"{name}={json.dumps(value)}")]
    return run, [
        ["doctor"],
        ["train", "--data", str(data), "--out", str(run), *options],
        ["predict", str(video), "--checkpoint", str(run / "best"), "--out", str(folder / "the result")],
        ["data", "pack", str(data), str(folder / "packed"), "--no-measure"],
    ]


def test_no_cuda_no_display_no_home_and_odd_paths(tmp_path, mini_data):
    (tmp_path / "home").touch()
    run, commands = work_in(tmp_path / "мои данные 'ü' [中]", mini_data)
    run_commands(commands, run.parent, HOME=str(tmp_path / "home"))
    for name in ("the result/strip.png", "the result/overlay.mp4", "packed/index.json", "run (1)/run.json"):
        assert (run.parent / name).stat().st_size


def test_read_only_checkout_and_a_locale_without_letters(tmp_path, mini_data):
    run, commands = work_in(tmp_path / "plain", mini_data)
    checkout = tmp_path / "checkout é"
    checkout.mkdir()
    # root may write whatever the mode says: only a mount is read-only to all
    mount = 'mount --bind "$0" "$1" && mount -o remount,bind,ro "$1" && ! touch "$1/x" 2> /dev/null && cd "$1" && shift'
    unshare = ["unshare", "--mount", "sh", "-c", mount + ' && exec "$@"', str(ROOT), str(checkout)]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no mount of one's own can be made here")
    run_commands(commands[:2], tmp_path, checkout, unshare, LC_ALL="C", PYTHONUTF8="0")
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["metrics"]


RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def fits_windows(name):
    """A relative name that Windows reads as its parts between / and can create."""
    path = PureWindowsPath(name)
    parts = all(part[-1] not in ". " and not RESERVED.match(part) for part in path.parts)
    return parts and not path.anchor and path.as_posix() == name and not re.search(r'[<>:"|?*\\]', name)


@pytest.mark.parametrize("name", ["a\\b", "C:/a", "/a", "aux.png", "a/NUL", "a/b.", "a?b", "2026-01-01T10:00"])
def test_names_that_windows_lacks_are_found(name):
    assert not fits_windows(name) and fits_windows("a b/é+1@x.tar.gz")


def test_files_of_the_repository_exist_on_windows():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True).stdout.decode().split("\0")[:-1]
    assert [name for name in names if not fits_windows(name) or len(name) > 150] == []
    assert len({name.lower() for name in names}) == len(names)


def strings(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def test_names_inside_built_files_are_those_of_windows(mini_data, tmp_path):
    pack(mini_data, tmp_path / "packed", progress=False)
    for path in (mini_data / "manifest.json", tmp_path / "packed/index.json"):
        names = {name for name in strings(json.loads(path.read_text(encoding="utf-8"))) if name}
        assert "s4_train_00000" in names and [name for name in names if not fits_windows(name)] == []


def test_records_keep_no_folder_of_windows_or_posix():
    path = PureWindowsPath("C:/Users/x y/runs") / "é"
    assert portable({"out": str(path), "share": r"\\server\d\e", "note": "data.root=" + str(path)}) == {
        "out": "é",
        "share": "e",
        "note": "data.root=é",
    }
    assert fits_windows(run_id("mini", "s4", "ours: a/b*?", 0, {"root": str(path)}))
