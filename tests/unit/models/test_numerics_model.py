"""A training step of the whole model stays finite: silence, one frame, empty and full masks, bf16, any variant."""

import itertools
import math

import pytest
import torch

from avslib.audio import SAMPLE_RATE, log_mel
from avslib.audio.encoders import AudioEncoder, build_audio_encoder
from avslib.audio.vggish import VGGish
from avslib.config import load_config
from avslib.losses import objective
from avslib.models.alternatives import CorrelationGate
from avslib.models.ecmvae import ECMVAE
from avslib.training.evaluate import evaluate
from avslib.training.setup import open_split
from avslib.variants import VARIANTS, variant

SMALL = {
    "model.backbone": "test_efficientnet",
    "model.pretrained": False,
    "model.image_size": 64,
    "model.channels": 8,
    "model.image_encoder_channels": [4] * 5,
    "model.map_encoder_channels": [4] * 5,
    "model.map_vector": 4,
    "model.latent_dim": 4,
}
SILENCE = torch.zeros(5 * SAMPLE_RATE)
LAYOUTS = {"one frame": (1, 1), "one clip": (2, 2), "two clips of one frame": (2, 1)}  # rows, frames


def build(name="ecmvae", preset="mini", **more):
    """A model whose fusion is away from its neutral start, in training mode."""
    torch.manual_seed(0)
    model = ECMVAE(load_config(preset, SMALL).replace(variant(name) | more)).train()
    for value in model.fusion.parameters():
        if value.ndim < 2:
            torch.nn.init.normal_(value)
    return model


def spread(model, logvar):
    """Prior and posterior at opposite ends."""
    for branch, sign in ((model.prior, 1), (model.posterior, -1)):
        for encoder in filter(None, (getattr(branch, n, None) for n in ("encode_sv", "encode_sa", "encode_c"))):
            torch.nn.init.constant_(encoder.head.logvar.bias, sign * logvar)


def not_finite(model, audio, fill, *, frames=1, dtype=None, blank=False, size=64, annotated=None):
    """Loss terms and gradients that are not finite after a step on rows of that audio and a mask of `fill`."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(len(audio), 3, size, size, generator=generator) * (not blank)
    mask = torch.full((len(audio), 1, size, size), fill)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        output = model(image, audio, mask, frames=frames, noise=generator, annotated=annotated)
    parts = objective(output, mask, model.config, generator)
    parts["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return [name for name, x in (parts | gradients).items() if x is None or not x.isfinite().all()]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_takes_a_bf16_step_at_the_edges(name):
    model = build(name)
    spread(model, 50.0)
    assert not_finite(model, torch.zeros(1, 128), 0.0, dtype=torch.bfloat16) == []


@pytest.mark.long
def test_every_variant_takes_any_step_at_the_edges(reliability_record):
    steps, bad = 0, []
    edges = itertools.product(VARIANTS, (-50.0, 50.0), (0.0, 1.0), (None, torch.bfloat16))
    for (name, logvar, fill, dtype), (rows, frames) in zip(edges, itertools.cycle(LAYOUTS.values()), strict=False):
        model = build(name)
        spread(model, logvar)
        found = not_finite(model, torch.zeros(rows, 128), fill, frames=frames, dtype=dtype, blank=fill == 1)
        steps += 1
        bad += [(name, rows, frames, logvar, fill, dtype, found)] if found else []
    assert not bad
    reliability_record("numerics-steps", variants=len(VARIANTS), steps=steps, not_finite=len(bad))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fill", [0.0, 1.0], ids=["empty", "full"])
def test_layouts_of_few_rows(layout, fill):
    rows, frames = LAYOUTS[layout]
    assert not_finite(build(), torch.zeros(rows, 128), fill, frames=frames, dtype=torch.bfloat16) == []


# ---- silence, from the samples to the gradients


@pytest.mark.parametrize("name", ["soundnet", "vggish"])
def test_silence_is_heard_as_finite_numbers_and_trained_on(name):
    encoder = build_audio_encoder(name) if name == "soundnet" else AudioEncoder(name, VGGish())
    audio = encoder.embed(SILENCE[None], frames=5)[0]
    assert audio.isfinite().all() and audio.shape == (5, 128)
    assert not_finite(build(), audio, 0.0, frames=5) == []


def test_log_mel_of_silence_is_its_floor():
    assert torch.equal(log_mel(SILENCE, SAMPLE_RATE, 5), torch.full((5, 1, 96, 64), 0.01).log())


# ---- batch norm


@pytest.mark.parametrize("rows, annotated", [(1, None), (2, torch.tensor([True, False]))])
def test_one_frame_too_small_for_batch_norm_is_refused(rows, annotated):
    model = build(**{"model.image_size": 32})
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        not_finite(model, torch.zeros(rows, 128), 0.0, frames=rows, size=32, annotated=annotated)
    image, audio = torch.zeros(1, 3, 32, 32), torch.zeros(1, 128)
    assert model.eval()(image, audio, frames=1).logits.isfinite().all()
    assert not_finite(model.train(), torch.zeros(2, 128), 0.0, size=32) == []


# ---- half precision and saturation


@pytest.mark.parametrize("dtype, far", [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("size", [1.0, 300.0, 1e4])
def test_the_gate_hears_large_maps_in_half_precision(dtype, far, size):
    torch.manual_seed(0)
    gate = CorrelationGate(8)
    torch.nn.init.normal_(gate.output.weight)
    x, audio = (size * torch.randn(2, 8, 4, 4)).to(dtype).requires_grad_(), torch.randn(2, 8).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        out, _ = gate(x, audio, 1)
    out.float().square().sum().backward()
    expected, _ = gate(x.detach().float(), audio.float(), 1)
    assert (out.float() - expected).norm() <= far * expected.norm() and x.grad.isfinite().all()


def test_a_sure_network_is_scored_with_several_samples(tiny):
    model = ECMVAE(tiny)
    torch.nn.init.constant_(model.prior.decoder.head_out.weight, 1e3)
    with torch.no_grad():
        model.prior.decoder.head_mid.weight.mul_(1e3)
    scores = evaluate(model, open_split(tiny, "val"), samples=2)
    assert all(math.isfinite(value) for value in scores.metrics.values())
