"""Loss terms against independent forms, their properties, and their safety at the edges."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import distributions

from avslib.losses import (
    gaussian_kl,
    geometric_js,
    kl_loss,
    matching_loss,
    monte_carlo_js,
    mutual_information_bound,
    official_js,
    orthogonality_loss,
    shared_code_divergence,
    structure_loss,
    symmetric_kl,
)
from avslib.losses.segmentation import boundary_weight
from tests.helpers import reference

FORMS = ["official", "monte_carlo_js", "geometric_js", "symmetric_kl"]
CORRECTED = FORMS[1:]
GRID = torch.linspace(-40, 40, 40001, dtype=torch.double)


def randn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def gaussian(seed, rows=8, k=4):
    return randn(rows, k, seed=seed), randn(rows, k, seed=100 + seed)


def divergence(p, q, kind, samples=1, seed=5):
    p, q = (tuple(x.repeat(samples, 1) for x in g) for g in (p, q))
    return shared_code_divergence(p, q, kind, randn(*p[0].shape, seed=seed), randn(*q[0].shape, seed=seed + 1))


def disc(size=64, radius=16.0):
    axis = torch.arange(size) - size / 2 + 0.5
    return ((axis[:, None] ** 2 + axis**2) < radius**2).double()[None, None]


# ---- segmentation


@pytest.mark.parametrize("weighting", ["official", "per_pixel"])
def test_structure_loss_against_plain_loop(weighting):
    mask = torch.cat([disc(), torch.zeros_like(disc()), torch.ones_like(disc())])
    logits = randn(3, 1, 64, 64, scale=3)
    expected = reference.structure_loss(logits, mask, weighting == "per_pixel")
    torch.testing.assert_close(structure_loss(logits, mask, weighting), expected)


@pytest.mark.parametrize("weighting", ["official", "per_pixel"])
def test_structure_loss_orders_predictions(weighting):
    mask = disc()
    right, shifted, wrong = ((2 * m - 1) * 8 for m in (mask, mask.roll(8, -1), 1 - mask))
    losses = [structure_loss(x, mask, weighting) for x in (right, shifted, torch.zeros_like(mask), wrong)]
    assert losses[0] < losses[1] < losses[3] and losses[0] < losses[2] < losses[3]


def test_boundary_weight_cancels_in_the_official_cross_entropy_only():
    mask, weight = disc(size=96, radius=30), boundary_weight(disc(size=96, radius=30))
    # the same error of one pixel at the outline and far from it
    outline, far = ((weight == w).nonzero()[0] for w in (weight.max(), weight.min()))
    grads = {}
    for weighting in ("official", "per_pixel"):
        logits = torch.zeros_like(mask, requires_grad=True)
        structure_loss(logits, mask, weighting).backward()
        iou = torch.zeros_like(mask, requires_grad=True)
        p = iou.sigmoid()
        i, u = (weight * p * mask).sum(), (weight * (p + mask)).sum()
        (1 - (i + 1) / (u - i + 1)).backward()
        bce = (logits.grad - iou.grad).abs()
        grads[weighting] = (bce[tuple(outline)] / bce[tuple(far)]).item()
    assert grads["official"] == pytest.approx(1)
    assert grads["per_pixel"] == pytest.approx((weight.max() / weight.min()).item()) and grads["per_pixel"] > 2


@pytest.mark.parametrize("weighting", ["official", "per_pixel"])
@pytest.mark.parametrize("mask", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
def test_structure_loss_of_empty_and_full_masks(weighting, mask, logit):
    logits = torch.full((1, 1, 32, 32), logit, requires_grad=True)
    loss = structure_loss(logits, torch.full((1, 1, 32, 32), mask), weighting)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


# ---- matching


def test_matching_loss_against_plain_loop():
    fused, audio = [randn(4, 6, s, s, seed=s) for s in (8, 4)], randn(4, 6, seed=1)
    unit = audio / audio.norm(dim=1, keepdim=True)
    logits = randn(4, 1, 32, 32)
    torch.testing.assert_close(matching_loss(logits, fused, audio), reference.matching_loss(logits, fused, unit))


def test_matching_loss_is_zero_where_the_segmented_region_sounds():
    audio = randn(2, 6)
    logits = torch.full((2, 1, 32, 32), -50.0, dtype=torch.double)
    logits[..., :16] = 50
    region = randn(2, 6, 8, 8, seed=3)
    region[..., :4] = audio[:, :, None, None]
    matched = matching_loss(logits, [region], audio)
    assert matched == pytest.approx(0, abs=1e-9) and matched < matching_loss(-logits, [region], audio)


# ---- KL


@pytest.mark.parametrize("scale, factor", [("consistent", 0.5), ("official", 1.0)])
def test_kl_against_torch_distributions(scale, factor):
    q, p = gaussian(0), gaussian(1)
    normals = [distributions.Normal(mu, torch.exp(factor * logvar)) for mu, logvar in (q, p)]
    expected = distributions.kl_divergence(*normals).sum(1)
    torch.testing.assert_close(gaussian_kl(q, p, scale), expected)
    torch.testing.assert_close(kl_loss(q, p, scale), expected.mean())


def test_kl_agrees_with_the_samples_only_in_the_consistent_form():
    (mu_q, logvar_q), p = gaussian(0, rows=1), gaussian(1, rows=1)
    z = mu_q + torch.exp(0.5 * logvar_q) * randn(200_000, 4)
    estimate = (reference.normal((mu_q, logvar_q)).log_prob(z) - reference.normal(p).log_prob(z)).sum(1).mean()
    assert gaussian_kl((mu_q, logvar_q), p).item() == pytest.approx(estimate.item(), rel=0.02)
    assert gaussian_kl((mu_q, logvar_q), p, "official").item() != pytest.approx(estimate.item(), rel=0.2)


# ---- divergence of the shared code


@pytest.mark.parametrize("kind", CORRECTED)
def test_divergence_is_zero_only_for_equal_gaussians(kind):
    p = gaussian(0)
    assert divergence(p, p, kind).item() == pytest.approx(0, abs=1e-12)
    assert divergence(p, (p[0] + 1, p[1]), kind, samples=200) > 0.05
    assert divergence(p, (p[0], p[1] + 1), kind, samples=200) > 0.05


@pytest.mark.parametrize("kind", CORRECTED)
def test_divergence_is_symmetric(kind):
    p, q = gaussian(0), gaussian(1)
    there, back = (divergence(*pair, kind, samples=2000).item() for pair in ((p, q), (q, p)))
    assert there == pytest.approx(back, rel=0.02 if kind == "monte_carlo_js" else 1e-9)


def test_official_js_does_not_see_the_means():
    p, eps = gaussian(0), (randn(8, 4, seed=8), randn(8, 4, seed=9))
    same, moved = (official_js(p, (p[0] + shift, p[1]), *eps) for shift in (0.0, 5.0))
    assert same > 0.01
    torch.testing.assert_close(same, moved)


@pytest.mark.parametrize("kind", CORRECTED)
def test_corrected_forms_pull_the_means_together(kind):
    mu = torch.full((64, 4), 2.0, dtype=torch.double, requires_grad=True)
    zero = torch.zeros(64, 4, dtype=torch.double)
    divergence((mu, zero), (zero, zero), kind).backward()
    assert mu.grad.sum() > 0


@pytest.mark.parametrize("shift, logvar", [(0.0, 1.5), (1.0, 0.0), (3.0, -1.0), (10.0, 0.5)])
def test_monte_carlo_js_against_integration(shift, logvar):
    p, q = (tuple(torch.tensor([[x]], dtype=torch.double) for x in g) for g in ((0.0, 0.0), (shift, logvar)))
    expected = reference.js([x[0] for x in p], [x[0] for x in q], GRID).item()
    assert divergence(p, q, "monte_carlo_js", samples=100_000).item() == pytest.approx(expected, abs=0.005)
    assert expected <= math.log(2)


def test_monte_carlo_js_never_exceeds_log_2_and_reaches_it():
    p, q = gaussian(0, rows=1, k=16), gaussian(1, rows=1, k=16)
    assert divergence(p, q, "monte_carlo_js", samples=1000) <= math.log(2)
    assert divergence(p, (p[0] + 100, p[1]), "monte_carlo_js").item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("shift, logvar", [(0.0, 1.5), (1.0, 0.0), (3.0, -1.0)])
def test_geometric_js_against_integration(shift, logvar):
    p, q = (tuple(torch.tensor([[x]], dtype=torch.double) for x in g) for g in ((0.0, 0.0), (shift, logvar)))
    expected = reference.geometric_js([x[0] for x in p], [x[0] for x in q], GRID)
    torch.testing.assert_close(geometric_js(p, q), expected, rtol=1e-6, atol=0)


def test_symmetric_kl_against_torch_distributions():
    p, q = gaussian(0), gaussian(1)
    both = [distributions.kl_divergence(reference.normal(a), reference.normal(b)) for a, b in ((p, q), (q, p))]
    torch.testing.assert_close(symmetric_kl(p, q), (0.5 * (both[0] + both[1])).sum(1).mean())


# ---- orthogonality


def test_orthogonality_of_apart_and_equal_codes():
    a = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    b = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert orthogonality_loss(a, b).item() == pytest.approx(0, abs=1e-9)
    assert orthogonality_loss(a, a).item() == pytest.approx(16, rel=1e-4)
    # the same column in a code of two: one entry of Z1^T Z2 out of four
    wide = torch.cat([a, torch.zeros_like(a)], dim=1)
    assert orthogonality_loss(wide, wide).item() == pytest.approx(4, rel=1e-4)


def test_orthogonality_of_one_row_is_zero():
    z = torch.randn(1, 4, requires_grad=True)
    loss = orthogonality_loss(z, torch.randn(1, 4))
    loss.backward()
    assert loss == 0 and z.grad.isfinite().all()


def test_orthogonality_ignores_offset_and_scale():
    z1, z2 = randn(8, 4, seed=1), randn(8, 4, seed=2)
    torch.testing.assert_close(orthogonality_loss(z1, z2), orthogonality_loss(3 * z1 + 7, z2), rtol=1e-4, atol=0)


def test_orthogonality_over_two_processes_is_that_of_their_whole_batch():
    z1, z2 = randn(8, 4, seed=1), randn(8, 4, seed=2)
    both = orthogonality_loss(z1, z2, lambda x: torch.stack([x, x]))
    torch.testing.assert_close(both, orthogonality_loss(z1.repeat(2, 1), z2.repeat(2, 1)))


# ---- mutual information


def test_full_bound_is_the_log_density():
    mu, logvar, target = (randn(8, 6, seed=s) for s in range(3))
    log_density = reference.normal((mu, logvar)).log_prob(target).sum(1).mean() + 3 * math.log(2 * math.pi)
    torch.testing.assert_close(mutual_information_bound(mu, logvar, target, "full"), log_density)


def test_only_the_official_bound_rises_with_the_variance_alone():
    mu, target = randn(8, 6, seed=0), randn(8, 6, seed=1)
    variance = (mu - target).square().mean().log()
    levels = [variance + step for step in (0.0, 2.0, 6.0, 20.0)]
    official, full = (
        [mutual_information_bound(mu, level.expand_as(mu), target, kind).item() for level in levels]
        for kind in ("official", "full")
    )
    assert official == sorted(official) and official[-1] == pytest.approx(0, abs=1e-6)
    assert full == sorted(full, reverse=True)


# ---- numerical safety

logvars = st.floats(-50, 50, width=32)
means = st.floats(-100, 100, width=32)
vectors = st.lists(st.tuples(means, logvars, means, logvars, st.floats(-6, 6, width=32)), min_size=1, max_size=4)


def leaves(rows):
    columns = [torch.tensor(column)[None] for column in zip(*rows, strict=True)]
    return [c.requires_grad_() for c in columns[:4]], columns[4]


def assert_finite(loss, inputs):
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, inputs, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()
        assert gradient is None or gradient.norm().isfinite()


@given(vectors)
@example([(100.0, 50.0, -100.0, -50.0, 6.0)])
@example([(0.0, -50.0, 0.0, 50.0, 1.0), (100.0, -50.0, -100.0, -50.0, -6.0)])
@settings(max_examples=60, deadline=None)
def test_latent_terms_are_finite_at_extreme_variances(rows):
    (mu_p, logvar_p, mu_q, logvar_q), eps = leaves(rows)
    inputs = [mu_p, logvar_p, mu_q, logvar_q]
    p, q = (mu_p, logvar_p), (mu_q, logvar_q)
    for kind in FORMS:
        assert_finite(shared_code_divergence(p, q, kind, eps, -eps), inputs)
    for scale in ("official", "consistent"):
        assert_finite(kl_loss(p, q, scale), inputs)
    for kind in ("official", "full"):
        assert_finite(mutual_information_bound(mu_p, logvar_p, mu_q, kind), inputs)
    assert_finite(orthogonality_loss(mu_p + torch.exp(logvar_p / 2) * eps, mu_q), inputs)


@given(vectors)
@settings(max_examples=60, deadline=None)
def test_divergences_keep_their_signs_at_extreme_variances(rows):
    (mu_p, logvar_p, mu_q, logvar_q), eps = leaves(rows)
    p, q = (mu_p, logvar_p), (mu_q, logvar_q)
    for kind in ("geometric_js", "symmetric_kl"):
        value = shared_code_divergence(p, q, kind, eps, eps)
        assert value >= -1e-3 * (1 + logvar_p.abs().sum() + logvar_q.abs().sum())
    assert monte_carlo_js(p, q, eps, -eps) <= math.log(2) + 1e-6


def test_far_too_large_variances_are_still_pulled_back():
    logvar = torch.tensor([[50.0]], requires_grad=True)
    kl_loss((torch.zeros(1, 1), logvar), (torch.zeros(1, 1), torch.tensor([[-50.0]])), "consistent").backward()
    assert logvar.grad > 1e10


def test_monte_carlo_js_keeps_its_digits_where_the_variance_is_tiny():
    mean = torch.full((1, 4), 100.0)
    p, q = (mean, torch.full((1, 4), -40.0)), (mean, torch.full((1, 4), -41.0))
    eps = torch.randn(1, 4), torch.randn(1, 4)
    zero = [(torch.zeros(1, 4), g[1] + 40) for g in (p, q)]
    torch.testing.assert_close(monte_carlo_js(p, q, *eps), monte_carlo_js(*zero, *eps))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32(dtype):
    logits, mask = (4 * torch.randn(2, 1, 96, 96)).to(dtype), disc(96).float().expand(2, -1, -1, -1)
    torch.testing.assert_close(structure_loss(logits, mask), structure_loss(logits.float(), mask), rtol=1e-6, atol=0)
    p, q = (tuple(x.to(dtype) for x in gaussian(s)) for s in (0, 1))
    for kind in FORMS:
        value, expected = (
            shared_code_divergence(*pair, kind, randn(8, 4), randn(8, 4))
            for pair in ((p, q), [tuple(x.double() for x in g) for g in (p, q)])
        )
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
