"""Every loss term and score at the extremes: finite, with finite gradients, and still what its name promises."""

import math
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avslib.calibration import calibration_error, entropy_parts, fit_temperature, logits_of_mean_probability
from avslib.config import Config
from avslib.errors import AvsError
from avslib.losses import (
    gaussian_kl,
    kl_loss,
    matching_loss,
    mutual_information_bound,
    objective,
    official_js,
    orthogonality_loss,
    shared_code_divergence,
    structure_loss,
)
from avslib.metrics import FScore, LegacyFScore, MeanIoU, frame_scores
from avslib.models.ecmvae import ECMVAEOutput, MIHeads
from avslib.models.experts import product_of_experts
from avslib.models.latent import reparametrize

WEIGHTINGS, SCALES, BOUNDS = ("official", "per_pixel"), ("official", "consistent"), ("official", "full")
DIVERGENCES = ("official", "monte_carlo_js", "geometric_js", "symmetric_kl")
STRIDES = {(1, 1): (1,), (1, 8): (1,), (32, 32): (4, 32), (40, 24): (2, 8)}  # of the fused maps, by size of the mask
EFFORTS = [
    pytest.param(settings(max_examples=50, deadline=None, derandomize=True, database=None), id="quick"),
    pytest.param(settings(max_examples=1500, deadline=None, database=None), id="long", marks=pytest.mark.long),
]
at_the_extremes = pytest.mark.parametrize("effort", EFFORTS)


# ---- inputs: log-variances from -50 to 50, means and logits to 1e4, one row, one pixel, empty and full masks, silence


@dataclass
class Case:
    """Latents [N, K] of a prior p and a posterior q, noise, logits and mask [N, 1, H, W], fused maps, audio [N, C]."""

    p: tuple[Tensor, Tensor]
    q: tuple[Tensor, Tensor]
    eps: tuple[Tensor, Tensor]
    logits: Tensor
    mask: Tensor
    fused: list[Tensor]
    audio: Tensor
    forms: dict[str, str]
    annotated: Tensor | None

    @property
    def leaves(self):
        return [*self.p, *self.q, self.logits, *self.fused, self.audio]


def around(limit):
    return st.one_of(st.sampled_from([-limit, limit, 0.0]), st.floats(-limit, limit, width=32))


@st.composite
def cases(draw, dtypes=(torch.float32, torch.bfloat16)):
    rows, k, dtype = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def latent(limit):
        numbers = draw(st.lists(around(limit), min_size=rows * k, max_size=rows * k))
        return torch.tensor(numbers).view(rows, k).to(dtype).requires_grad_()

    def normal(*shape, scales):
        return draw(st.sampled_from(scales)) * torch.randn(*shape, generator=generator)

    h, w = draw(st.sampled_from(list(STRIDES)))
    cover = torch.tensor([draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for _ in range(rows)]).view(rows, 1, 1, 1)
    mask = (torch.rand(rows, 1, h, w, generator=generator) < cover).float()
    logits = normal(rows, 1, h, w, scales=(0, 1, 100)) + draw(st.sampled_from([0.0, 1e4, -1e4]))
    fused = [normal(rows, 4, h // s, w // s, scales=(0, 1e-6, 1, 1e4)) for s in STRIDES[h, w]]
    audio = normal(rows, 4, scales=(0, 1e-6, 1, 1e4))
    choices = {"structure_weighting": WEIGHTINGS, "kl_scale": SCALES, "divergence_c": DIVERGENCES, "mi_bound": BOUNDS}
    annotated = torch.arange(rows) == 0 if draw(st.booleans()) else None
    return Case(
        (latent(1e4), latent(50.0)), (latent(1e4), latent(50.0)), (latent(6.0).detach(), latent(6.0).detach()),
        logits.to(dtype).requires_grad_(), mask, [x.to(dtype).requires_grad_() for x in fused],
        audio.to(dtype).requires_grad_(), {k: draw(st.sampled_from(v)) for k, v in choices.items()}, annotated,
    )  # fmt: skip


def whole_objective(case):
    """The sum of everything that an output of these parts gives."""
    rows = slice(None) if case.annotated is None else case.annotated
    p, q = case.p, tuple(x[rows] for x in case.q)
    latents = dict.fromkeys(("vs", "as", "vac"), p) | dict.fromkeys(("vs_y", "as_y", "vac_y"), q)
    eps = dict(zip(("js_prior", "js_posterior"), (e[rows] for e in case.eps), strict=True))
    sampled, sampled_y = (reparametrize(*g, e) for g, e in ((p, case.eps[0]), (q, case.eps[1][rows])))
    codes = {name: sampled_y if name.endswith("_y") else sampled for name in latents}
    heads = {name: MIHeads(*(x.tanh() for x in (*g, g[0] + 1))) for name, g in (("prior", p), ("posterior", q))}
    fused = {"prior": case.fused, "posterior": [x[rows] for x in case.fused]}
    audio = {"prior": case.audio, "posterior": case.audio[rows]}
    output = ECMVAEOutput(case.logits, case.logits[rows], latents, codes, fused, audio, heads, case.annotated)
    config = Config().replace({f"loss.{name}": form for name, form in case.forms.items()})
    parts = objective(output, case.mask, config, eps)
    assert all(value.isfinite() for value in parts.values()), parts
    return parts["loss"]


TERMS = {
    **{f"structure {w}": lambda c, w=w: structure_loss(c.logits, c.mask, w) for w in WEIGHTINGS},
    "matching": lambda c: matching_loss(c.logits, c.fused, c.audio),
    **{f"kl {s}": lambda c, s=s: kl_loss(c.q, c.p, s) for s in SCALES},
    **{f"divergence {d}": lambda c, d=d: shared_code_divergence(c.p, c.q, d, *c.eps) for d in DIVERGENCES},
    **{f"mutual information {b}": lambda c, b=b: mutual_information_bound(*c.p, c.q[0], b) for b in BOUNDS},
    "orthogonality": lambda c: orthogonality_loss(reparametrize(*c.p, c.eps[0]), reparametrize(*c.q, c.eps[1])),
    "product of experts": lambda c: sum(x.float().sum() for x in product_of_experts(c.p, c.q)),
    "objective": whole_objective,
}


@at_the_extremes
def test_terms_and_gradients_are_finite(effort, reliability_record, request):
    tried = dict.fromkeys(TERMS, 0)

    def check(case):
        for name, term in TERMS.items():
            value = term(case)
            gradients = torch.autograd.grad(value, case.leaves, allow_unused=True)
            assert value.isfinite(), name
            assert all(g is None or g.isfinite().all() for g in gradients), name
            tried[name] += 1

    effort(given(cases())(check))()
    if "long" in request.node.callspec.id:
        reliability_record("numerics", terms=len(tried), cases=sum(tried.values()), not_finite=0)


@at_the_extremes
def test_float16_inputs_have_finite_terms(effort):
    """Their gradients are scaled and may still overflow: the step is then left out by the gradient scaler."""

    def check(case):
        for name in TERMS.keys() - {"orthogonality", "product of experts", "objective"}:
            assert TERMS[name](case).isfinite(), name

    effort(given(cases(dtypes=[torch.float16]))(check))()


# ---- no digit changes where exponentials are in range


def latents(seed, spread, rows=16, k=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    mu, logvar, eps = torch.randn(3, rows, k, generator=generator, dtype=dtype).unbind()
    return (mu.requires_grad_(), (spread * logvar.tanh()).requires_grad_()), eps


@pytest.mark.parametrize("module, name, spread, term", [
    ("kl", "kl consistent", 15, lambda p, q, *_: kl_loss(q, p, "consistent")),
    ("kl", "kl official", 7.5, lambda p, q, *_: kl_loss(q, p, "official")),
    ("kl", "symmetric_kl", 15, lambda *a: shared_code_divergence(*a[:2], "symmetric_kl", *a[2:])),
    ("shared_code", "official", 30, official_js),
    ("shared_code", "monte_carlo_js", 30, lambda *a: shared_code_divergence(*a[:2], "monte_carlo_js", *a[2:])),
    ("mutual_information", "official", 30, lambda p, q, *_: mutual_information_bound(*p, q[0], "official")),
])  # fmt: skip
def test_safe_exponentials_change_no_digit_in_range(module, name, spread, term):
    (p, eps_p), (q, eps_q) = latents(0, spread), latents(1, spread)
    found = []
    for exponential in (None, torch.exp):
        with mock.patch(f"avslib.losses.{module}.safe_exp", exponential) if exponential else mock.MagicMock():
            value = term(p, q, eps_p, eps_q)
            found.append([value, *torch.autograd.grad(value, [*p, *q], allow_unused=True)])
    for ours, plain in zip(*found, strict=True):
        assert (ours is None and plain is None) or torch.equal(ours, plain), name


def test_the_official_gradient_has_a_norm_at_tiny_deviations():
    p, q = ((torch.zeros(1, 4, requires_grad=True), torch.full((1, 4), v, requires_grad=True)) for v in (-50.0, -45.0))
    gradients = torch.autograd.grad(official_js(p, q, torch.ones(1, 4), torch.ones(1, 4)), [*p, *q])
    assert all(g.norm().isfinite() for g in gradients) and gradients[0].abs().min() > 1e10


# ---- what the terms promise, at the extremes too


def close(a, b, rel=1e-9):
    return math.isclose(float(a), float(b), rel_tol=rel, abs_tol=rel)


def wide(gaussian):
    return tuple(x.detach().double() for x in gaussian)


@at_the_extremes
def test_kl_and_divergences_keep_their_signs_zeros_and_symmetry(effort):
    def check(case):
        p, q, (eps_p, eps_q) = wide(case.p), wide(case.q), wide(case.eps)
        for scale in SCALES:
            assert gaussian_kl(q, p, scale).min() >= -1e-9 and gaussian_kl(p, p, scale).abs().max() <= 1e-9
        for kind in DIVERGENCES:
            there = shared_code_divergence(p, q, kind, eps_p, eps_q)
            assert close(there, shared_code_divergence(q, p, kind, eps_q, eps_p)), kind
            assert abs(shared_code_divergence(p, p, kind, eps_p, eps_p)) <= 1e-9, kind
        assert shared_code_divergence(p, q, "geometric_js", eps_p, eps_q) >= -1e-9
        assert mutual_information_bound(*p, q[0], "official") <= 0
        assert mutual_information_bound(*p, q[0], "full") <= -0.5 * p[1].sum(1).mean() + 1e-9
        codes = [reparametrize(*g, e) for g, e in ((p, eps_p), (q, eps_q))]
        # by Cauchy-Schwarz, as no row is longer than 1
        assert 0 <= orthogonality_loss(*codes) <= len(codes[0]) ** 2 + 1e-9

    effort(given(cases())(check))()


@at_the_extremes
def test_experts_agree_on_what_lies_between_them(effort):
    def check(case):
        p, q = wide(case.p), wide(case.q)
        mu, logvar = product_of_experts(p, q)
        other_mu, other_logvar = product_of_experts(q, p)
        assert torch.allclose(mu, other_mu) and torch.allclose(logvar, other_logvar)
        means, logvars = (torch.stack([torch.zeros_like(a), a, b]) for a, b in zip(p, q, strict=True))
        slack = 1e-9 * (1 + means.abs().amax(0))
        assert ((mu >= means.amin(0) - slack) & (mu <= means.amax(0) + slack)).all()
        assert (logvar <= logvars.amin(0) + 1e-9).all() and (logvar >= logvars.amin(0) - math.log(3) - 1e-9).all()
        assert torch.equal(reparametrize(*p, torch.zeros_like(mu)), p[0]) and torch.equal(reparametrize(*p, None), p[0])

    effort(given(cases())(check))()


@at_the_extremes
def test_structure_and_matching_loss_do_not_see_mirrors_or_order(effort):
    def check(case):
        logits, mask = case.logits.detach().double(), case.mask.double()
        for weighting in WEIGHTINGS:
            loss = structure_loss(logits, mask, weighting)
            assert loss >= 0
            for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT, lambda x: x.flip(0)):
                assert close(loss, structure_loss(turn(logits), turn(mask), weighting)), weighting
            rows = [structure_loss(x[None], y[None], weighting) for x, y in zip(logits, mask, strict=True)]
            assert close(loss, sum(rows) / len(rows)), weighting
        fused, audio = [x.detach().double() for x in case.fused], case.audio.detach().double()
        loss = matching_loss(logits, fused, audio)
        assert loss >= -1e-9
        rows = [matching_loss(logits[[n]], [x[[n]] for x in fused], audio[[n]]) for n in range(len(audio))]
        assert close(loss, sum(rows))
        assert close(loss, matching_loss(logits.flip(-1), [x.flip(-1) for x in fused], audio))

    effort(given(cases())(check))()


# ---- scores


@at_the_extremes
def test_scores_lie_between_0_and_1_and_the_mask_itself_scores_1(effort):
    def check(case):
        logits, mask = case.logits.detach(), case.mask
        scores = frame_scores(logits, mask)
        for values in (scores.iou, scores.curve):
            assert values.min() >= 0 and values.max() <= 1
        assert torch.equal(scores.counted, mask.flatten(1).any(1))
        mirrored = frame_scores(logits.flip(-1), mask.flip(-1))
        assert torch.equal(scores.iou, mirrored.iou) and torch.equal(scores.curve, mirrored.curve)
        for best in (20.0, 1e4, math.inf):
            perfect = frame_scores((2 * mask - 1) * best, mask)
            assert (1 - perfect.iou).abs().max() < 1e-6 and (perfect.curve[perfect.counted].amax(1) > 1 - 1e-9).all()
        for metric in (MeanIoU(), FScore(), LegacyFScore(1, frames=1)):
            metric.update(logits, mask)
            assert 0 <= metric.compute() <= 1

    effort(given(cases())(check))()


@at_the_extremes
def test_probabilities_are_weighed_without_nan(effort):
    def check(case):
        samples = torch.stack([case.logits.detach().float(), -case.logits.detach().float().flip(0)])
        p = samples.sigmoid()
        total, expected, information = entropy_parts(p)
        assert all(x.isfinite().all() for x in (total, expected, information)) and total.max() <= 1 + 1e-6
        assert (expected <= total + 1e-6).all()
        assert 0 <= calibration_error(p[0], case.mask) <= 1
        logits = logits_of_mean_probability(samples)
        assert logits.isfinite().all()
        torch.testing.assert_close(logits.sigmoid(), p.double().mean(0).float())
        if 0 < case.mask.mean() < 1:
            temperature = fit_temperature(samples[0], case.mask)
            assert math.isfinite(temperature) and temperature >= 0

    effort(given(cases())(check))()


@pytest.mark.parametrize("logits, target, said", [
    ([math.inf, 0.0], [1, 0], "finite logits"), ([math.nan, 0.0], [1, 0], "finite logits"), ([], [], "zeros and ones"),
    ([1.0, 0.0], [255, 0], "zeros and ones"), ([1.0, 0.0], [1, 1], "zeros and ones")])  # fmt: skip
def test_temperature_says_what_it_cannot_be_fitted_to(logits, target, said):
    with pytest.raises(AvsError, match=said):
        fit_temperature(torch.tensor(logits), torch.tensor(target))
