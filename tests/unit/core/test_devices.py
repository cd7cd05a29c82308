"""Devices by name."""

import os
import subprocess
import sys

import pytest
import torch

from avslib.core.devices import select_device
from avslib.core.errors import AvsError
from avslib.models.ecmvae import ECMVAE
from avslib.video.predictor import Predictor
from avslib.weights.checkpoints import load_checkpoint


@pytest.mark.parametrize(("cuda", "mps", "auto"), [(2, False, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_is_the_fastest_device_there_is(monkeypatch, cuda, mps, auto):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert select_device() == torch.device(auto) and select_device("cpu") == torch.device("cpu")
    if cuda:
        assert select_device("cuda:1") == select_device(torch.device("cuda", 1)) == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "cuda:7", "CUDA", "cuda:x", "", "meta"])
def test_a_wrong_or_missing_device_gets_one_sentence(name):
    for load in (Predictor.from_checkpoint, load_checkpoint, ECMVAE.from_pretrained):
        with pytest.raises(AvsError, match=r"device '.*': expected auto, cpu, cuda, cuda:N or mps; this machine has"):
            load("mini-s4", device=name)


def test_what_an_apple_gpu_lacks_falls_back_to_the_cpu():
    """Torch reads the variable while it is loaded, so it is set before that; no such GPU is here to try it."""
    script = "import os, sys, avslib; print(os.environ['PYTORCH_ENABLE_MPS_FALLBACK'], 'torch' in sys.modules)"
    for given, expected in (({}, "1 False"), ({"PYTORCH_ENABLE_MPS_FALLBACK": "0"}, "0 False")):
        environment = {k: v for k, v in os.environ.items() if k != "PYTORCH_ENABLE_MPS_FALLBACK"} | given
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("given", [(), ("cpu",)])
def test_a_predictor_takes_the_device_that_is_there(monkeypatch, given):
    asked = []
    monkeypatch.setattr("avslib.core.checkpoints.select_device", lambda name: asked.append(name) or torch.device("cpu"))
    assert Predictor.from_checkpoint("mini-s4", *given).device == torch.device("cpu")
    assert asked == list(given or ("auto",))
