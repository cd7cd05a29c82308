"""Only operations that have a deterministic form, on a GPU too: what is set, reported, and needed by a step."""

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avslib.config import load_config
from avslib.core.errors import ConfigError
from avslib.losses import objective
from avslib.models.ecmvae import ECMVAE
from avslib.training.guards import plain_errors
from avslib.training.setup import CUBLAS, deterministic
from tests.unit.models.test_models import SMALL, batch

# names of torch's own operations, by the list in the documentation of torch.use_deterministic_algorithms
NO_DETERMINISTIC_FORM_ON_CUDA = {
    "avg_pool3d_backward",
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "max_unpool2d",
    "max_unpool3d",
    "upsample_linear1d_backward",
    "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "nll_loss_forward",
    "nll_loss2d_forward",
    "_ctc_loss_backward",
    "put_",
    "histc",
    "median",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
}


def test_deterministic_sets_torch_and_cublas(monkeypatch):
    monkeypatch.delenv(CUBLAS, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic(False):
        assert CUBLAS not in os.environ and not torch.are_deterministic_algorithms_enabled()
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert os.environ[CUBLAS] == ":4096:8"
    assert torch.backends.cudnn.benchmark and not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_be_deterministic_is_reported():
    with pytest.raises(ConfigError, match=r"put_ has no deterministic form"), plain_errors("it"), deterministic():
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="something else"), deterministic():
        raise RuntimeError("something else")


@pytest.mark.parametrize("value", [None, ":0:0"])
def test_cuda_in_use_without_its_variable_is_reported(monkeypatch, value):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delenv(CUBLAS, raising=False)
    if value:
        monkeypatch.setenv(CUBLAS, value)
    with pytest.raises(ConfigError, match=r"CUDA is in use already; set \w+=:4096:8 before Python starts"):
        deterministic().__enter__()
    monkeypatch.setenv(CUBLAS, ":16:8")
    with deterministic():
        pass


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes",
    [
        {"model.backbone": "resnet18"},
        {"model.backbone": "pvt_v2_b0", "model.neck": "aspp"},
        {
            "model.backbone": "tf_efficientnet_lite0",
            "model.fusion": "correlation_gate",
            "model.injection": "all_levels",
            "loss.divergence_c": "monte_carlo_js",
            "model.code_fusion": "product_of_experts",
        },
    ],
    ids=lambda changes: changes["model.backbone"],
)
def test_a_step_of_training_needs_no_operation_without_a_deterministic_form(changes):
    torch.manual_seed(0)
    model = ECMVAE(load_config("mini", SMALL | changes)).train()
    image, audio, mask = batch(rows=10)
    annotated, noise = torch.tensor([True, False, False, False, False] * 2), torch.Generator()
    with Operations() as seen:
        output = model(image, audio, mask, noise=noise, annotated=annotated)
        objective(output, mask, model.config, noise)["loss"].backward()
    assert "convolution_backward" in seen.names and not seen.names & NO_DETERMINISTIC_FORM_ON_CUDA


def test_command(monkeypatch, mini_data, tmp_path):
    from typer.testing import CliRunner

    from avslib.cli import app
    from avslib.study import run as experiment

    asked = []
    monkeypatch.setattr(experiment, "run", lambda config, *_, **__: asked.append(config))
    for option in ([], ["--deterministic"]):
        CliRunner().invoke(app, ["train", "--data", str(mini_data), "--out", str(tmp_path), *option])
    assert [config.train.deterministic for config in asked] == [False, True]
