"""What must not be imported where people wait: by a data worker, by a training, by the predictor, by composing."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from avslib.data.avsbench import AVSBench
from avslib.data.loading import FlippedClips

ROOT = Path(__file__).resolve().parents[2]
# what takes more than a tenth of `import torch`, with what brings it along
SLOW = {"torchmetrics", "scipy.signal", "scipy.io", "pandas", "matplotlib", "seaborn", "av"}
WORKER = SLOW | {"timm", "torchvision", "torchaudio", "accelerate", "huggingface_hub", "pydantic", "webdataset", "rich"}
CASES = {
    "training": ("import avslib.study.run, avslib.training.loop", SLOW),
    "predictor": ("import avslib.video.predictor", SLOW - {"av"} | {"accelerate", "webdataset"}),
    "composing": ("import avslib.data.mini.build", WORKER - {"rich"} | {"torch"}),
}


def imported(code, *arguments):
    """Every module that a fresh interpreter holds after the code."""
    script = f"{code}\nimport sys\nprint()\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("case", CASES)
def test_slow_libraries_are_left_out(case):
    code, banned = CASES[case]
    assert imported(code) & banned == set()


def test_a_worker_that_unpickles_its_clips_reads_them_without_slow_libraries(mini_data, tiny, tmp_path):
    clips = FlippedClips(AVSBench(mini_data, "s4", "train", 64), tiny.data, seed=0)
    (tmp_path / "clips").write_bytes(pickle.dumps(clips))
    code = "import pickle, sys; print(sorted(pickle.load(open(sys.argv[1], 'rb'))[0, 1]))"
    assert imported(code, str(tmp_path / "clips")) & WORKER == set()
