"""The model: backbones by name, shapes, branches, noise, bad input, and the objective on its outputs."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.core.numerics import upsample_conv
from avslib.core.timm_networks import PACKAGED, packaged_weights
from avslib.losses import objective
from avslib.models import ECMVAE
from avslib.models.backbones import STRIDES, Backbone
from avslib.models.latent import POSTERIOR, PRIOR
from avslib.training.noise import noise_shapes

SMALL = {
    "model.backbone": "test_efficientnet",
    "model.pretrained": False,
    "model.image_size": 64,
    "model.channels": 8,
    "model.audio_dim": 8,
    "model.audio_encoder": "vggish",
    "model.latent_dim": 4,
    "model.map_vector": 4,
    "model.image_encoder_channels": [4] * 5,
    "model.map_encoder_channels": [4] * 5,
}
BACKBONES = {
    "resnet18": 64,
    "tf_efficientnet_lite0": 64,
    "pvt_v2_b0": 64,
    "convnext_atto": 64,
    "swin_tiny_patch4_window7_224": 224,
}
CUTOUTS = Path(__file__).parents[3] / "avslib" / "data" / "mini" / "bank" / "cutouts"


def build(**changes):
    torch.manual_seed(0)
    return ECMVAE(load_config("mini", SMALL | {f"model.{k}": v for k, v in changes.items()})).eval()


@pytest.fixture(scope="module")
def small():
    return build()


def batch(rows=4, h=64, w=64, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(rows, 1, h, w)
    mask[..., 8:40, 16:48] = 1
    return torch.randn(rows, 3, h, w, generator=generator), torch.rand(rows, dim, generator=generator), mask


def stir(model):
    """Move the fusion away from its start, at which the audio has no say in the maps."""
    for fusion in model.fusion:
        torch.nn.init.normal_(fusion.batch_norm.weight)
    return model


# ---- backbones and sizes


@pytest.mark.parametrize("name, size", BACKBONES.items(), ids=list(BACKBONES))
def test_any_four_level_backbone_runs_and_trains_every_parameter(name, size):
    model = build(backbone=name, image_size=size).train()
    image, audio, mask = batch(rows=2, h=size, w=size)
    features = model.backbone(image)
    assert [f.shape[1:] for f in features] == [
        (c, size // s, size // s) for c, s in zip(model.backbone.channels, STRIDES, strict=True)
    ]
    output = model(image, audio, mask, frames=1, noise=torch.Generator().manual_seed(0))
    assert output.logits.shape == output.logits_posterior.shape == mask.shape
    objective(output, mask, model.config)["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("h, w, frames", [(64, 64, 1), (96, 160, 7), (224, 96, 2)])
def test_preset_mini_takes_any_size_and_number_of_frames(mini, h, w, frames):
    image, audio, mask = batch(rows=2 * frames, h=h, w=w, dim=128)
    with torch.inference_mode():
        output = mini(image, audio, mask, frames=frames)
    assert output.logits.shape == mask.shape and output.logits_posterior.isfinite().all()
    assert [f.shape[-2:] for f in output.fused["prior"]] == [(h // s, w // s) for s in STRIDES]


@pytest.fixture(scope="module")
def mini():
    return ECMVAE(load_config("mini", ["model.pretrained=false"])).eval()


@pytest.mark.parametrize("neck", ["basic", "aspp"])
def test_both_necks(neck):
    image, audio, _ = batch()
    assert build(neck=neck)(image, audio, frames=4).logits.isfinite().all()


@pytest.mark.parametrize("name, said", [("no_such_network", "no_such_network"), ("vit_tiny_patch16_224", "strides")])
def test_backbones_that_cannot_serve_are_named(name, said):
    with pytest.raises(AvsError, match=said):
        Backbone(name)


def test_weights_file_of_the_backbone(tmp_path):
    with pytest.raises(AvsError, match="no such file"):
        Backbone("resnet18", str(tmp_path / "none.pth"))
    source = Backbone("resnet18")
    state = source.net.state_dict()
    torch.save(state | {"fc.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    assert torch.equal(Backbone("resnet18", str(tmp_path / "weights.pth")).net.conv1.weight, source.net.conv1.weight)
    del state["conv1.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(AvsError, match=r"conv1\.weight"):
        Backbone("resnet18", str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    "file, labels",
    [("big_cat/tp_tiger_sumatran", {292}), ("chicken/tp_hen", {8}), ("duck/tp_duck", {97}), ("dog/tp_dingo", {273})],
)
def test_packaged_weights_recognise_animals(packaged, file, labels):
    backbone, classifier = packaged
    cutout = Image.open(CUTOUTS / f"{file}.webp").convert("RGBA")
    side = max(cutout.size)
    plain = Image.new("RGBA", (side, side), (128, 128, 128, 255))
    plain.alpha_composite(cutout, ((side - cutout.width) // 2, (side - cutout.height) // 2))
    pixels = bytearray(plain.convert("RGB").resize((224, 224)).tobytes())
    image = torch.frombuffer(pixels, dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1)[None]
    with torch.inference_mode():
        assert classifier((image / 255 - backbone.mean) / backbone.std).argmax().item() in labels


@pytest.fixture(scope="module")
def packaged():
    """The backbone as preset mini builds it, and a classifier on its tensors; the head comes from the package."""
    (name,) = PACKAGED
    backbone, classifier = Backbone(name, pretrained=True).eval(), timm.create_model(name).eval()
    classifier.load_state_dict(packaged_weights(name) | backbone.net.state_dict())
    return backbone, classifier


# ---- branches


def test_prior_does_not_see_the_mask(small):
    image, audio, mask = batch()
    alone, both = small(image, audio, frames=4), small(image, audio, mask, frames=4)
    assert alone.logits_posterior is None and set(alone.latents) == set(PRIOR)
    assert torch.equal(alone.logits, both.logits) and set(both.latents) == {*PRIOR, *POSTERIOR}
    other = small(image, audio, 1 - mask, frames=4)
    assert torch.equal(other.logits, both.logits) and not torch.allclose(other.logits_posterior, both.logits_posterior)


@pytest.mark.parametrize("per_clip, annotated", [(1, [1, 0, 0, 0]), (2, [1, 0, 1, 0])])
def test_posterior_runs_on_the_annotated_rows_alone(small, per_clip, annotated):
    image, audio, mask = batch(rows=8)
    rows = torch.tensor(2 * annotated, dtype=torch.bool)
    output = small(image, audio, mask, frames=4, annotated=rows)
    alone = small(image[rows], audio[rows], mask[rows], frames=per_clip)
    assert output.logits.shape == (8, 1, 64, 64) and output.logits_posterior.shape == (2 * per_clip, 1, 64, 64)
    torch.testing.assert_close(output.logits_posterior, alone.logits_posterior)
    torch.testing.assert_close(output.latents["vac_y"], alone.latents["vac_y"])


def test_masks_of_rows_that_are_not_annotated_do_not_matter(small):
    image, audio, mask = batch()
    rows = torch.tensor([True, False, False, False])
    noise = {name: torch.zeros(1, 4) for name in ("js_prior", "js_posterior")}
    parts = []
    for m in (mask, torch.where(rows[:, None, None, None], mask, 1 - mask)):
        output = small(image, audio, m, frames=4, annotated=rows)
        parts.append(objective(output, m, small.config, noise))
    assert parts[0] == parts[1]


def test_without_audio_the_sound_changes_nothing():
    image, audio, mask = batch()
    for use_audio in (True, False):
        model = stir(build(use_audio=use_audio))
        one, other = (model(image, a, mask, frames=4) for a in (audio, 5 * audio.flip(0)))
        assert torch.equal(one.logits, other.logits) != use_audio
        assert torch.equal(one.logits_posterior, other.logits_posterior) != use_audio


def test_normalize_brings_bytes_to_the_statistics_of_the_weights(small):
    grey = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    expected = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(small.normalize(grey)[0, :, 0, 0], expected)


# ---- decoder


@pytest.mark.parametrize("h, w", [(1, 1), (4, 5)])
def test_doubling_and_convolution_in_one_step_equals_two(h, w):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 2, 3, padding=1).double()
    x = torch.randn(2, 3, h, w, dtype=torch.double, requires_grad=True)
    two_steps = conv(torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
    weight = torch.randn_like(two_steps)
    results = []
    for y in (two_steps, upsample_conv(x, conv)):
        results.append([y, *torch.autograd.grad((y * weight).sum(), [x, conv.weight, conv.bias])])
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


# ---- noise


def test_noise_is_none_generator_or_given(small):
    image, audio, mask = batch()

    def codes(noise):
        with torch.inference_mode():
            return small(image, audio, mask, frames=4, noise=noise)

    mean, given = codes(None), codes({name: torch.full((4, 4), 2.0) for name in (*PRIOR, *POSTERIOR)})
    one, again, other = (codes(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    for name, (mu, logvar) in mean.latents.items():
        assert torch.equal(mean.codes[name], mu)
        torch.testing.assert_close(given.codes[name], mu + 2 * torch.exp(logvar / 2))
        assert torch.equal(one.codes[name], again.codes[name]) and not torch.equal(one.codes[name], other.codes[name])


@pytest.mark.parametrize("posterior_mask, posterior_rows", [("annotated", 2), ("first_repeated", 8)])
@pytest.mark.parametrize(
    "changes",
    [{}, {"code_fusion": "product_of_experts"}, {"latent": "unfactorised"}, {"latent": "visual"}, {"latent": "none"}],
    ids=lambda changes: next(iter(changes.values()), "factorised"),
)
def test_a_mapping_drawn_in_the_order_of_noise_shapes_equals_the_generator(changes, posterior_mask, posterior_rows):
    model, (image, audio, mask) = build(**changes), batch(rows=8)
    rows = {"annotated": torch.arange(8) % 4 == 0, "posterior_mask": posterior_mask}
    drawn, generator = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    shapes = noise_shapes(model, 8, posterior_rows)
    results = []
    for noise in ({name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}, generator):
        output = model(image, audio, mask, frames=4, noise=noise, **rows)
        results.append(output.codes | objective(output, mask, model.config, noise))
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert set(noise_shapes(model, 8)) == {name for name in shapes if not name.endswith("_y") and name[:2] != "js"}


def test_missing_or_misshapen_eps_is_named(unchecked_shapes, small):
    image, audio, mask = batch()
    noise = {name: torch.zeros(4, 4) for name in (*PRIOR, *POSTERIOR)}
    with pytest.raises(AvsError, match="'as_y'"):
        small(image, audio, mask, frames=4, noise={k: v for k, v in noise.items() if k != "as_y"})
    with pytest.raises(AvsError, match=r"'vac'.*\(3, 4\)"):
        small(image, audio, mask, frames=4, noise=noise | {"vac": torch.zeros(3, 4)})


# ---- bad input

IMAGE, AUDIO, MASK = batch()


@pytest.mark.parametrize(
    "image, audio, mask, extra, said",
    [
        (IMAGE[:, :1], AUDIO, None, {}, "image has shape"),
        (IMAGE[0], AUDIO, None, {}, "image has shape"),
        (IMAGE, AUDIO, None, {"frames": 3}, "4 rows"),
        (IMAGE, AUDIO, None, {"frames": 0}, "frames=0"),
        (IMAGE[..., :50], AUDIO, None, {}, "divisible by 32"),
        (IMAGE, AUDIO[:2], None, {}, "audio has shape"),
        (IMAGE, AUDIO[:, :5], None, {}, r"expected \[4, 8\]"),
        (IMAGE, AUDIO, MASK[..., :32], {}, "mask has shape"),
        (IMAGE, AUDIO, MASK, {"annotated": torch.ones(3, dtype=torch.bool)}, "annotated has shape"),
        (IMAGE, AUDIO, MASK, {"annotated": torch.tensor([True, True, False, True]), "frames": 2}, r"found \[2, 1\]"),
        (IMAGE, AUDIO, MASK, {"annotated": torch.zeros(4, dtype=torch.bool)}, "at least one"),
    ],
)
def test_shapes_that_do_not_fit_are_named(unchecked_shapes, small, image, audio, mask, extra, said):
    with pytest.raises(AvsError, match=said):
        small(image, audio, mask, **{"frames": 4, **extra})


# ---- objective


def test_objective_is_the_weighted_sum_of_its_parts(small):
    image, audio, mask = batch()
    config = small.config.replace(
        {
            "loss.match": 0.3,
            "loss.kl": 0.2,
            "loss.mi": 0.7,
            "loss.orthogonality": 0.4,
            "loss.seg_prior": 2,
            "loss.seg_posterior": 3,
        }
    )
    p = objective(small(image, audio, mask, frames=4), mask, config, torch.Generator().manual_seed(0))
    expected = (
        2 * p["seg_prior"]
        + 3 * p["seg_posterior"]
        + 0.3 * (p["match_prior"] + p["match_posterior"])
        + 0.2 * (p["kl_sv"] + p["kl_sa"] + p["divergence_c"])
        - 0.7 * p["mi"]
        + 0.4 * p["orthogonality"]
    )
    torch.testing.assert_close(p["loss"], expected)
    assert all(value.ndim == 0 for value in p.values())


def test_objective_says_what_it_lacks(unchecked_shapes, small):
    image, audio, mask = batch()
    with pytest.raises(AvsError, match="with a mask"):
        objective(small(image, audio, frames=4), mask, small.config)
    output = small(image, audio, mask, frames=4)
    with pytest.raises(AvsError, match="mask has shape"):
        objective(output, mask[:1], small.config)
    for factor in (255, -1, float("nan")):
        with pytest.raises(AvsError, match=f"mask holds {factor}; expected 0 and 1"):
            objective(output, factor * mask.clamp(min=1), small.config)
    with pytest.raises(AvsError, match="'js_posterior'"):
        objective(output, mask, small.config, {"js_prior": torch.zeros(4, 4)})
    with pytest.raises(AvsError, match=r"\(2, 4\)"):
        objective(output, mask, small.config, {"js_prior": torch.zeros(2, 4), "js_posterior": torch.zeros(4, 4)})


@pytest.mark.parametrize("preset", ["paper", "mini"])
@pytest.mark.parametrize("fill", [0.0, 1.0], ids=["empty", "full"])
@pytest.mark.parametrize("logvar", [-50.0, 50.0])
def test_training_step_stays_finite_at_the_edges(preset, fill, logvar):
    """One row, a silent second, empty and full masks, log-variances that only a broken run has."""
    model = stir(ECMVAE(load_config(preset, SMALL))).train()
    for branch, sign in ((model.prior, 1), (model.posterior, -1)):
        for encoder in (branch.encode_sv, branch.encode_sa, branch.encode_c):
            torch.nn.init.constant_(encoder.head.logvar.bias, sign * logvar)
    image, audio, mask = batch(rows=1)
    noise = torch.Generator().manual_seed(0)
    mask = torch.full_like(mask, fill)
    losses = objective(model(image, 0 * audio, mask, frames=1, noise=noise), mask, model.config, noise)
    losses["loss"].backward()
    assert [n for n, v in losses.items() if not v.isfinite()] == []
    assert [n for n, p in model.named_parameters() if not p.grad.isfinite().all()] == []


def test_bfloat16_autocast_is_close(small):
    image, audio, mask = batch()
    noise = {name: torch.ones(4, 4) for name in ("js_prior", "js_posterior")}
    expected = objective(small(image, audio, mask, frames=4), mask, small.config, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = objective(small(image, audio, mask, frames=4), mask, small.config, noise)
    for name, value in parts.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0.05, atol=0.01)
