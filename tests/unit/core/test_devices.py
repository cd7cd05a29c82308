"""Devices by name."""

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


@pytest.mark.parametrize("given", [(), ("cpu",)])
def test_a_predictor_takes_the_device_that_is_there(monkeypatch, given):
    asked = []
    monkeypatch.setattr("avslib.core.checkpoints.select_device", lambda name: asked.append(name) or torch.device("cpu"))
    assert Predictor.from_checkpoint("mini-s4", *given).device == torch.device("cpu")
    assert asked == list(given or ("auto",))
