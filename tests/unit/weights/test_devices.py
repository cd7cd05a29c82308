"""A device by name: what is there, or one sentence."""

import pytest
import torch

from avslib.core.errors import InstallError, UsageError
from avslib.weights.devices import select_device


@pytest.mark.parametrize(
    "gpus, apple, best", [(2, False, "cuda"), (0, True, "mps"), (0, False, "cpu"), (1, True, "cuda")]
)
def test_auto_takes_what_is_there(monkeypatch, gpus, apple, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert select_device("auto") == torch.device(best) and select_device("cpu") == torch.device("cpu")
    for name, there in (("cuda:1", gpus > 1), ("cuda:9", False), ("mps", apple)):
        if there:
            assert select_device(name) == torch.device(name)
        else:
            with pytest.raises(InstallError, match=f"'{name}': not available here"):
                select_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA", "mps:0", "xla"])
def test_other_names_are_refused(name):
    with pytest.raises(UsageError, match="expected auto, cpu, cuda"):
        select_device(name)
