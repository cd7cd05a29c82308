"""Terms of the corrected objective against independent references, and the faults of the forms that they replace."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from avslib.config import load_config
from avslib.losses.objective import objective
from avslib.losses.orthogonality import correlation_loss, orthogonality_loss
from avslib.losses.segmentation import sample_loss, structure_loss
from avslib.losses.shared_code import shared_code_divergence
from avslib.models import ECMVAE
from avslib.variants import variant


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_soft_minimum_is_numpys_and_lies_between_the_least_and_the_mean_loss():
    logits, mask = draw(4, 3, 1, 32, 32), (draw(3, 1, 32, 32, seed=1) > 0).double()
    single = [[structure_loss(x[n : n + 1], mask[n : n + 1], "per_pixel").item() for n in range(3)] for x in logits]
    losses, t = np.array(single), 0.05
    expected = np.mean(-t * np.log(np.mean(np.exp(-losses / t), axis=0)))
    found = sample_loss(logits, mask, "per_pixel", t).item()
    assert found == pytest.approx(expected, rel=1e-9)
    assert losses.min(0).mean() <= found <= losses.mean()


def test_correlation_is_numpys_and_knows_neither_scale_nor_bias():
    a, b = draw(100, 5), draw(100, 3, seed=1)
    z1, z2 = a.numpy() - a.numpy().mean(0), b.numpy() - b.numpy().mean(0)
    g1, g2 = z1 @ z1.T, z2 @ z2.T
    np.fill_diagonal(g1, 0)
    np.fill_diagonal(g2, 0)
    expected = (g1 * g2).sum() / np.sqrt((g1**2).sum() * (g2**2).sum())
    assert correlation_loss(a, b).item() == pytest.approx(expected, abs=1e-9)
    assert correlation_loss(7 * a, b).item() == pytest.approx(expected, abs=1e-8)
    independent = [correlation_loss(draw(64, 16, seed=s), draw(64, 16, seed=s + 50)).item() for s in range(40)]
    assert abs(np.mean(independent)) < 0.02  # with the diagonal it would be 0.2
    assert correlation_loss(a[:10], b[:10]) == 0


def test_only_the_released_form_shrinks_the_codes():
    """z . dD/dz = 2 D for the released form, whose norm carries no gradient; 0 for one that no scale changes."""
    for loss, pull in ((orthogonality_loss, 2.0), (correlation_loss, 0.0)):
        z = draw(64, 4).requires_grad_()
        value = loss(z, z.detach() @ draw(4, 4, seed=2))
        (gradient,) = torch.autograd.grad(value, z)
        assert (z * gradient).sum().item() == pytest.approx(pull * value.item(), abs=1e-4)


def test_kl_of_the_shared_code_is_that_of_torch():
    p, q = ((draw(6, 4, seed=s), draw(6, 4, seed=s + 1)) for s in (0, 2))
    p_, q_ = (Normal(mu, (logvar / 2).exp()) for mu, logvar in (p, q))
    expected = kl_divergence(q_, p_).sum(1).mean().item()
    assert shared_code_divergence(p, q, "kl", *[torch.zeros(6, 4)] * 2).item() == pytest.approx(expected, rel=1e-9)


def test_weights_of_the_divergences_rise_with_the_steps():
    loss = load_config("mini", variant("corrected")).loss
    half = loss.weights(0.125)
    assert [half[name] for name in ("kl_sv", "kl_sa", "divergence_c")] == pytest.approx([0.05, 0.05, 0.01])
    assert loss.weights(0.7)["divergence_c"] == 0.02 and load_config("mini").loss.weights(0.0)["kl_sv"] == 0.01


@pytest.fixture(scope="module")
def corrected():
    overrides = {"model.pretrained": False, "model.image_size": 64, **variant("corrected")}
    torch.manual_seed(0)
    return ECMVAE(load_config("mini", overrides))


def test_samples_of_one_clip_agree_on_their_noise_and_are_the_posteriors(corrected):
    image, audio = torch.randn(1, 3, 64, 64).repeat(4, 1, 1, 1), torch.randn(1, 128).repeat(4, 1)
    corrected.eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        logits = corrected(image, audio, frames=2, noise=noise).logits
        assert torch.allclose(logits[0], logits[1], atol=1e-5) and not torch.allclose(logits[0], logits[2], atol=1e-5)
        before = corrected(image, audio, frames=2).logits
        for parameter in corrected.posterior.decoder.parameters():
            parameter.mul_(2)
        changed = corrected(image, audio, frames=2, noise=torch.Generator().manual_seed(1)).logits
        assert not torch.allclose(changed, logits) and torch.equal(corrected(image, audio, frames=2).logits, before)


@pytest.mark.parametrize("annotated", [None, torch.tensor([True, False, True, False])])
def test_objective_trains_the_posteriors_decoder_on_samples_of_the_prior(corrected, annotated):
    image, audio, mask = torch.randn(4, 3, 64, 64), torch.randn(4, 128), (torch.rand(4, 1, 64, 64) > 0.5).float()
    corrected.train()
    noise = torch.Generator().manual_seed(0)
    out = corrected(image, audio, mask, frames=2, noise=noise, annotated=annotated, samples=3)
    assert out.logits_samples.shape == (3, 4 if annotated is None else 2, 1, 64, 64)
    parts = objective(out, mask, corrected.config, noise, progress=0.1)
    (gradient,) = torch.autograd.grad(parts["seg_samples"], corrected.prior.encode_c.head["mu"].weight)
    assert torch.isfinite(parts["loss"]) and gradient.abs().sum() > 0
