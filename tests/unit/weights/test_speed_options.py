"""Options for speed and memory give the same outputs, gradients and running statistics."""

import shutil

import pytest
import torch

from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.losses import objective
from avslib.models import ECMVAE
from avslib.video.predictor import Predictor
from avslib.weights.speed_options import apply_speed_options, checkpointed_blocks
from tests.unit.models.test_models import SMALL, batch


def step(backbone="resnet18", **options):
    """Loss, gradients, state after one training step in float64, and the bytes kept for the backward pass."""
    torch.manual_seed(0)
    model = ECMVAE(load_config("mini", SMALL | {"model.backbone": backbone})).double().train()
    for fusion in model.fusion:
        torch.nn.init.normal_(fusion.batch_norm.weight)
    names = list(model.state_dict())
    apply_speed_options(model, **options)
    image, audio, mask = (x.double() for x in batch())
    noise, kept = torch.Generator().manual_seed(0), {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(model(image, audio, mask, frames=2, noise=noise), mask, model.config, noise)["loss"]
    loss.backward()
    assert list(model.state_dict()) == names
    return loss.detach(), [p.grad for p in model.parameters()], model.state_dict(), sum(kept.values())


@pytest.fixture(scope="module")
def plain():
    return step(channels_last=False)


@pytest.mark.parametrize(
    "options",
    [{"channels_last": True}, {"checkpointing": True}, pytest.param({"compile": True}, marks=pytest.mark.long)],
    ids=lambda o: next(iter(o)),
)
def test_option_changes_no_figure(plain, options):
    loss, gradients, state, _ = step(**options)
    torch.testing.assert_close(loss, plain[0], rtol=1e-10, atol=0)
    for ours, expected in zip(gradients, plain[1], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)
    for name, expected in plain[2].items():
        torch.testing.assert_close(state[name], expected, rtol=1e-9, atol=1e-12, msg=name)


def test_checkpointing_keeps_less(plain):
    assert step(checkpointing=True)[3] < 0.6 * plain[3]


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "pvt_v2_b0", "convnext_atto"])
def test_the_blocks_of_any_backbone_are_found(backbone):
    model = ECMVAE(load_config("mini", SMALL | {"model.backbone": backbone}))
    inside = {id(p) for block in checkpointed_blocks(model.backbone) for p in block.parameters()}
    assert len(inside) > 0.7 * len(list(model.backbone.parameters()))


def test_compile_without_a_compiler_is_reported(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AvsError, match=r"train\.compile.*compiler"):
        apply_speed_options(ECMVAE(load_config("mini", SMALL)), compile=True)


def test_bf16_inference_is_close_and_reaches_the_backbone_alone():
    exact, model = (Predictor.from_checkpoint("mini-s4", "cpu", bf16=bf16).model for bf16 in (False, True))
    image, audio = torch.rand(5, 3, 64, 64), torch.rand(5, 128)
    with torch.inference_mode():
        assert model.backbone(image)[0].dtype == torch.bfloat16
        found, expected = (m(image, audio).logits.float().sigmoid() for m in (model, exact))
    assert (found - expected).abs().mean() < 0.01 and not torch.equal(found, expected)
