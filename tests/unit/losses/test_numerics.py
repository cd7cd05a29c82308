"""Every loss term at the extremes: finite, with finite gradients, and no digit changed where nothing is extreme."""

from unittest import mock

import pytest
import torch
from hypothesis import given

from avslib.config import Config
from avslib.losses import (
    kl_loss,
    matching_loss,
    mutual_information_bound,
    objective,
    official_js,
    orthogonality_loss,
    shared_code_divergence,
    structure_loss,
)
from avslib.models.alternatives import product_of_experts
from avslib.models.ecmvae import ECMVAEOutput, MIHeads
from avslib.models.latent import reparametrize
from tests.helpers.extremes import BOUNDS, DIVERGENCES, SCALES, WEIGHTINGS, at_the_extremes, cases


def whole_objective(case):
    """The sum of everything that an output of these parts gives."""
    rows = slice(None) if case.annotated is None else case.annotated.nonzero().squeeze(1)
    p, q = case.p, tuple(x[rows] for x in case.q)
    latents = dict.fromkeys(("vs", "as", "vac"), p) | dict.fromkeys(("vs_y", "as_y", "vac_y"), q)
    eps = dict(zip(("js_prior", "js_posterior"), (e[rows] for e in case.eps), strict=True))
    sampled, sampled_y = (reparametrize(*g, e) for g, e in ((p, case.eps[0]), (q, case.eps[1][rows])))
    codes = {name: sampled_y if name.endswith("_y") else sampled for name in latents}
    heads = {name: MIHeads(*(x.tanh() for x in (*g, g[0] + 1))) for name, g in (("prior", p), ("posterior", q))}
    fused = {"prior": case.fused, "posterior": [x[rows] for x in case.fused]}
    audio = {"prior": case.audio, "posterior": case.audio[rows]}
    output = ECMVAEOutput(case.logits, case.logits[rows], latents, codes, fused, audio, heads, rows)
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


@pytest.mark.parametrize(
    "module, name, spread, term",
    [
        ("kl", "kl consistent", 15, lambda p, q, *_: kl_loss(q, p, "consistent")),
        ("kl", "kl official", 7.5, lambda p, q, *_: kl_loss(q, p, "official")),
        ("kl", "symmetric_kl", 15, lambda *a: shared_code_divergence(*a[:2], "symmetric_kl", *a[2:])),
        ("shared_code", "official", 30, official_js),
        ("shared_code", "monte_carlo_js", 30, lambda *a: shared_code_divergence(*a[:2], "monte_carlo_js", *a[2:])),
        ("mutual_information", "official", 30, lambda p, q, *_: mutual_information_bound(*p, q[0], "official")),
    ],
)
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
