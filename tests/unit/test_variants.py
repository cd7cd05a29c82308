"""Each variant is a set of valid switches, changes what its name says, and trains."""

import pytest
import torch

from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.losses import objective
from avslib.models.alternatives import product_of_experts
from avslib.models.ecmvae import ECMVAE
from avslib.study.records import variant_hash
from avslib.training.noise import drawn_samples
from avslib.variants import VARIANTS, method_name, variant

SMALL = {
    "model.backbone": "test_efficientnet",
    "model.pretrained": False,
    "model.image_size": 64,
    "model.channels": 8,
    "model.image_encoder_channels": [4] * 5,
    "model.map_encoder_channels": [4] * 5,
    "model.latent_dim": 4,
}


@pytest.mark.parametrize("preset", ["mini", "paper"])
@pytest.mark.parametrize("name", VARIANTS)
def test_overrides_are_fields_with_their_values(name, preset):
    values = load_config(preset).replace(variant(name)).model_dump()
    for key, wanted in variant(name).items():
        section, field = key.split(".")
        assert values[section][field] == wanted


def test_no_two_variants_are_the_same_configuration_but_for_the_presets_own_forms():
    hashes = {
        name: variant_hash(load_config("mini").replace(variant(name)).model_dump(mode="json")) for name in VARIANTS
    }
    same_as_full = {name for name, value in hashes.items() if value == hashes["ecmvae"]}
    assert same_as_full == {
        "ecmvae",
        "divergence_c_monte_carlo_js",
        "kl_scale_consistent",
        "mi_bound_full",
        "structure_weighting_per_pixel",
    }
    assert len(set(hashes.values())) == len(VARIANTS) - len(same_as_full) + 1


def test_unknown_variant_names_the_nearest_and_all():
    with pytest.raises(AvsError, match=r"Did you mean 'without_mi'\?.*ecmvae, no_factorisation"):
        variant("witout_mi")


def test_what_is_returned_can_be_changed():
    variant("without_mi")["loss.mi"] = 1.0
    assert variant("without_mi") == {"loss.mi": 0.0}


def batch(frames=2):
    g = torch.Generator().manual_seed(0)
    image, audio = torch.randn(4, 3, 64, 64, generator=g), torch.randn(4, 128, generator=g)
    mask = (torch.rand(4, 1, 64, 64, generator=g) > 0.7).float()
    return image, audio, mask, torch.arange(4) % frames == 0


def small(name, **more):
    torch.manual_seed(0)
    config = load_config("mini").replace(SMALL | variant(name) | more)
    return ECMVAE(config), config


def losses_of(model, config):
    image, audio, mask, annotated = batch()
    noise = torch.Generator().manual_seed(1)
    which = config.data.posterior_mask
    samples = drawn_samples(config)
    given = {"annotated": annotated, "posterior_mask": which, "samples": samples}
    output = model(image, audio, mask, frames=2, noise=noise, **given)
    return output, objective(output, mask, config, noise)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_every_weight(name):
    model, config = small(name)
    _, losses = losses_of(model, config)
    losses["loss"].backward()
    assert losses["loss"].isfinite() and all(p.grad is not None for p in model.parameters())
    # TPAVI's scale starts at 0, so a step is taken before the weights behind it are asked for their gradient
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    model.zero_grad()
    losses_of(model, config)[1]["loss"].backward()
    # batch norm takes the bias before it away again
    cancelled = {f"fusion.{k}.output.bias" for k in range(4)} if config.model.fusion == "tpavi" else set()
    silent = {n for n, p in model.named_parameters() if not p.grad.any()} - cancelled
    if not config.loss.mi:
        silent = {n for n in silent if ".mi_" not in n}
    if not config.model.use_audio:
        # an input of zeros moves no weight, only biases
        silent = {n for n in silent if "audio_projection" not in n and "phi.weight" not in n and "encode_sa" not in n}
    assert not silent


@pytest.mark.parametrize(
    ("name", "codes", "fused", "parts"),
    [
        ("ecmvae", {"vs", "as", "vac"}, {"sc_v", "sc_a"}, {"kl_sv", "kl_sa", "divergence_c", "mi", "orthogonality"}),
        ("poe", {"vs", "as", "vac"}, {"sc_v", "sc_a"}, {"kl_sv", "kl_sa", "divergence_c", "mi", "orthogonality"}),
        ("no_factorisation", {"vs", "as"}, {"z"}, {"kl_sv", "kl_sa"}),
        ("visual_only", {"vs"}, {"z"}, {"kl_sv"}),
        ("deterministic", set(), set(), set()),
    ],
)
def test_codes_and_loss_parts_of_a_form(name, codes, fused, parts):
    output, losses = losses_of(*small(name))
    both = {c + y for c in codes for y in ("", "_y")}
    assert set(output.latents) == both and set(output.codes) == both | {c + y for c in fused for y in ("", "_y")}
    always = {"loss", "seg_prior", "match_prior"} | ({"seg_posterior", "match_posterior"} if codes else set())
    assert set(losses) == always | parts


def test_visual_only_hears_nothing_and_the_deterministic_network_draws_nothing():
    image, audio, _, _ = batch()
    for name in ("visual_only", "without_audio"):
        model = small(name)[0].eval()
        assert torch.equal(model(image, audio, frames=2).logits, model(image, -audio, frames=2).logits)
    model = small("deterministic")[0].eval()
    noises = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    one, other = (model(image, audio, frames=2, noise=noise).logits for noise in noises)
    assert torch.equal(one, other)


def test_product_of_experts_is_the_normalised_product_of_the_densities():
    p, q = (torch.tensor([[0.5]]), torch.tensor([[-1.0]])), (torch.tensor([[-2.0]]), torch.tensor([[0.7]]))
    x = torch.linspace(-12, 12, 48001, dtype=torch.float64)
    logs = [torch.distributions.Normal(mu.item(), (logvar / 2).exp().item()).log_prob(x) for mu, logvar in (p, q)]
    density = (sum(logs) - x.square() / 2).exp()
    density /= density.sum()
    mean = (x * density).sum()
    mu, logvar = product_of_experts(p, q)
    assert mu.item() == pytest.approx(mean.item(), abs=1e-5)
    assert logvar.exp().item() == pytest.approx(((x - mean).square() * density).sum().item(), abs=1e-5)


def test_product_of_experts_of_extreme_variances():
    sure, vague = (torch.ones(1, 1), torch.full((1, 1), -200.0)), (torch.zeros(1, 1), torch.full((1, 1), 200.0))
    mu, logvar = product_of_experts(sure, vague)
    assert mu.item() == pytest.approx(1.0) and logvar.item() == pytest.approx(-200.0)
    mu, logvar = product_of_experts(vague)
    assert (mu.item(), logvar.item()) == pytest.approx((0.0, 0.0))


@pytest.mark.parametrize(
    ("name", "moved"), [("ecmvae", [3]), ("injection_all_levels", [0, 1, 2, 3]), ("injection_decoder", [])]
)
def test_codes_enter_the_maps_before_the_fusion_where_the_variant_says(name, moved):
    model = small(name)[0].eval()
    image, audio, _, _ = batch()
    one, other = (model(image, audio, frames=2, noise=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert [k for k in range(4) if not torch.equal(one.fused["prior"][k], other.fused["prior"][k])] == moved
    assert not torch.equal(one.logits, other.logits)


def test_the_gate_hears_its_own_second_alone():
    model = small("correlation_gate")[0].eval()
    for fusion in model.fusion:
        torch.nn.init.normal_(fusion.output.weight)
    image, audio, _, _ = batch()
    changed = audio.clone()
    changed[1] *= -1
    one, other = (
        model.fusion[0](model.prior.neck(model.backbone(image))[0], a, 2)[0]
        for a in (model.audio_projection(audio), model.audio_projection(changed))
    )
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [True, False, True, True]


def test_first_mask_repeated_runs_the_posterior_on_all_frames_with_that_mask():
    model, config = small("posterior_first_mask")
    image, audio, mask, annotated = batch()
    known = {"annotated": annotated, "posterior_mask": config.data.posterior_mask}
    output = model.eval()(image, audio, mask, frames=2, **known)
    wanted = model(image, audio, mask[[0, 0, 2, 2]], frames=2)
    assert torch.equal(output.logits_posterior, wanted.logits_posterior)
    # masks of frames that are not annotated count nowhere
    other = mask.clone()
    other[~annotated] = 1 - other[~annotated]
    noise = {name: torch.zeros(4, 4) for name in ("js_prior", "js_posterior")}
    again = model(image, audio, other, frames=2, **known)
    a, b = objective(output, mask, config, noise), objective(again, other, config, noise)
    assert all(torch.equal(a[part], b[part]) for part in a)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({}, "ecmvae"),
        ({"model.backbone": "resnet18", "model.image_size": 224, "train.seed": 3}, "ecmvae"),
        ({"loss.mi": 0, "loss.orthogonality": 0}, "without_both"),
        ({"loss.mi": 0, "loss.kl": 0.1}, "without_mi, kl=0.1"),
        ({"model.latent": "visual"}, "ecmvae, latent=visual"),
        (variant("visual_only") | {"model.latent_dim": 8}, "visual_only, latent_dim=8"),
        (variant("all_official"), "all_official"),
    ],
)
def test_method_name_says_what_differs_from_the_preset(overrides, name):
    assert method_name(load_config("mini").replace(overrides)) == name
