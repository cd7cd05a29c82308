"""Devices by name."""

import pytest
import torch

from avslib.core.errors import AvsError
from avslib.video.predictor import Predictor
from avslib.weights.devices import select_device


@pytest.mark.parametrize(("cuda", "mps", "auto"), [(2, False, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_is_the_fastest_device_there_is(monkeypatch, cuda, mps, auto):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert select_device() == torch.device(auto) and select_device("cpu") == torch.device("cpu")
    if cuda:
        assert select_device("cuda:1") == select_device(torch.device("cuda", 1)) == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "cuda:7", "cuda:x", "", "meta"])
def test_a_wrong_or_missing_device_gets_one_sentence(name):
    with pytest.raises(AvsError, match=r"device '.*': expected auto, cpu, cuda, cuda:N or mps; this machine has"):
        Predictor.from_checkpoint("mini-s4", device=name)
