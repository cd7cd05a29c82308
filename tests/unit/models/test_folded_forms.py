"""Folded forms and the backward pass written by hand: gradcheck in float64, and their plain forms at extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from avslib.calibration import logits_of_mean_probability
from avslib.core.numerics import safe_exp, upsample_conv
from avslib.losses import gaussian_kl, matching_loss, mutual_information_bound, shared_code_divergence, structure_loss
from avslib.losses.segmentation import boundary_weight
from avslib.metrics import f_curves, frame_scores
from avslib.models.alternatives import product_of_experts
from avslib.models.fusion import TPAVI
from avslib.training.distributed import gather_processes, rank, synchronize_batch_norm, world_size
from tests.helpers.processes import in_processes
from tests.helpers.reference import ROOT, QuadraticTPAVI, load_module

plain_metrics = load_module(ROOT / "benchmarks" / "reference_metrics.py")


def randn(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.double)).requires_grad_()


# ---- fusion: one linear-time pass for the (THW)^2 matrix, its batch norm folded in


def fusion(channels, training=True, dtype=torch.double):
    torch.manual_seed(0)
    built = TPAVI(channels).to(dtype).train(training)
    for value in [*built.parameters(), built.batch_norm.running_mean]:
        value.data.normal_()
    return built


@pytest.mark.parametrize(
    "frames, groups, h, w, audio",
    [
        (2, 2, 2, 1, 1.0),  # prior and posterior in one pass
        (1, 1, 2, 2, 1.0),  # one frame
        (2, 1, 2, 1, 0.0),  # silence
        (1, 1, 1, 1, 1.0),  # one position: batch norm of a single value
    ],
)
def test_fusion_gradcheck(frames, groups, h, w, audio):
    module, rows = fusion(4), frames * groups
    inputs = randn(rows, 4, h, w), randn(rows, 4, seed=1, scale=audio)
    assert gradcheck(lambda x, a, *_: module(x, a, frames, groups), (*inputs, *module.parameters()))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 3),
    st.integers(0, 99),
    st.sampled_from([1e-8, 1.0, 1e8]),
    st.sampled_from([0.0, 1e-8, 1.0, 1e8]),
    st.sampled_from(["any", "constant map", "constant sound"]),
    st.booleans(),
)
def test_fusion_equals_its_plain_form_at_extremes(frames, seed, size, loudness, kind, training):
    ours = fusion(4, training)
    plain = QuadraticTPAVI.like(ours)
    x, audio = randn(2 * frames, 4, 2, 3, seed=seed, scale=size), randn(2 * frames, 4, seed=seed + 1, scale=loudness)
    if kind == "constant map":
        x = x[:1, :, :1, :1].detach().expand_as(x).clone().requires_grad_()
    if kind == "constant sound":
        audio = audio[:1].detach().expand_as(audio).clone().requires_grad_()
    results = []
    for module in (ours, plain):
        out, _ = module(x, audio, frames)
        results.append([out, *torch.autograd.grad(out.square().sum() + out.sum(), [x, audio])])
    for found, expected in zip(*results, strict=True):
        # the batch norm of equal rows divides by sqrt(eps) what rounding leaves of them
        assert (found - expected).norm() <= 1e-6 * expected.norm() + 1e-7, kind


@pytest.mark.parametrize("size", [1.0, 10.0, 1e3])
def test_variance_of_seconds_that_cancel_is_not_negative(size):
    """Equal columns of u (silence) and rows of M that add up to 0: the true variance is 0."""
    module = fusion(16, dtype=torch.float32)
    module.batch_norm.momentum = 1.0
    for seed in range(20):
        u, m = (randn(1, *s, seed=seed + k, scale=size).float() for k, s in enumerate(((80, 1), (5, 16))))
        u, m = u.expand(1, 80, 5).detach().requires_grad_(), (m - m.mean(1, keepdim=True)).detach().requires_grad_()
        out = module._batch_norm(u, m, 1)
        gradients = torch.autograd.grad(out.sum(), [u, m])
        assert module.batch_norm.running_var.min() >= 0
        assert all(x.isfinite().all() for x in (out, *gradients))


# ---- decoder, boundary weight, scores


def test_doubling_convolution_gradcheck():
    conv = nn.Conv2d(2, 3, 3, padding=1).double()

    def folded(x, weight, bias):
        return torch.func.functional_call(Folded(conv), {"conv.weight": weight, "conv.bias": bias}, x)

    inputs = randn(1, 2, 2, 3), randn(3, 2, 3, 3, seed=1), randn(3, seed=2)
    assert gradcheck(folded, inputs) and gradgradcheck(folded, inputs)


class Folded(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return upsample_conv(x, self.conv)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_doubling_convolution_equals_two_steps_at_extremes(size):
    conv, x = nn.Conv2d(2, 3, 3, padding=1, bias=False).double(), randn(1, 2, 1, 4, scale=size)
    torch.testing.assert_close(upsample_conv(x, conv), conv(F.interpolate(x, scale_factor=2)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5), (33, 64)])
def test_boundary_weight_in_two_passes_equals_one(size):
    mask = (randn(2, 1, *size) > 0).double()
    box = F.conv2d(mask, torch.ones(1, 1, 31, 31, dtype=torch.double), padding=15) / 31**2
    torch.testing.assert_close(boundary_weight(mask), 1 + 5 * (box - mask).abs(), rtol=1e-12, atol=0)


LOGITS = st.sampled_from([0.0, 1e4, -1e4, float("inf"), -float("inf"), 8e-8, 9e-8]) | st.floats(-20, 20, width=32)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(LOGITS, st.booleans()), min_size=1, max_size=12), st.sampled_from(["drawn", "empty", "full"]))
def test_scores_in_one_pass_equal_the_loop_over_thresholds(pixels, kind):
    x, y = (torch.tensor(column).float()[None, None, None] for column in zip(*pixels, strict=True))
    y = {"drawn": y, "empty": 0 * y, "full": 0 * y + 1}[kind]
    assert frame_scores(x, y).iou.item() == pytest.approx(plain_metrics.reference_j(x, y), rel=1e-12)
    assert f_curves(x, y)[0].max().item() == pytest.approx(plain_metrics.reference_f(x, y), rel=1e-12)


# ---- loss terms in closed or logarithmic form


def test_safe_exponential_gradcheck():
    for values in ([-50.0, 0.0, 3.0], [29.0, 31.0]):
        x = torch.tensor(values, dtype=torch.double, requires_grad=True)
        assert gradcheck(safe_exp, x, eps=1e-6, rtol=1e-6) and gradgradcheck(safe_exp, x, rtol=1e-6)


P, Q = [randn(2, 3, seed=s) for s in (0, 1)], [randn(2, 3, seed=s) for s in (2, 3)]
EPS = [randn(2, 3, seed=s).detach() for s in (4, 5)]
LOSSES = {
    "kl consistent": (lambda a, b, c, d: gaussian_kl((a, b), (c, d)), (*P, *Q)),
    "kl official": (lambda a, b, c, d: gaussian_kl((a, b), (c, d), "official"), (*P, *Q)),
    **{
        k: (lambda a, b, c, d, k=k: shared_code_divergence((a, b), (c, d), k, *EPS), (*P, *Q))
        for k in ("monte_carlo_js", "geometric_js", "symmetric_kl")
    },
    "mutual information": (lambda a, b, c: mutual_information_bound(a, b, c, "full"), (*P, Q[0])),
    "experts": (lambda a, b, c, d: product_of_experts((a, b), (c, d)), (*P, *Q)),
    "structure official": (lambda x: structure_loss(x, (randn(2, 1, 4, 4) > 0).double()), (randn(2, 1, 4, 4, seed=6),)),
    "structure per_pixel": (
        lambda x: structure_loss(x, (randn(2, 1, 4, 4) > 0).double(), "per_pixel"),
        (randn(2, 1, 4, 4, seed=6),),
    ),
    "matching": (
        lambda x, a, *f: matching_loss(x, list(f), a),
        (randn(2, 1, 4, 4), randn(2, 3), randn(2, 3, 2, 2, seed=1), randn(2, 3, 1, 1, seed=2)),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_gradcheck(name):
    function, inputs = LOSSES[name]
    assert gradcheck(function, inputs)


def test_product_of_experts_equals_the_sum_of_precisions():
    precision = 1 + P[1].neg().exp() + Q[1].neg().exp()
    mu, logvar = product_of_experts(tuple(P), tuple(Q))
    torch.testing.assert_close(mu, (P[0] * P[1].neg().exp() + Q[0] * Q[1].neg().exp()) / precision)
    torch.testing.assert_close(logvar, -precision.log())


def test_logits_of_the_mean_equal_the_plain_form():
    x = randn(5, 100, scale=8.0).detach()
    torch.testing.assert_close(logits_of_mean_probability(x), x.sigmoid().mean(0).logit(), rtol=1e-8, atol=1e-12)
    assert torch.equal(logits_of_mean_probability(x), -logits_of_mean_probability(-x))


# ---- several processes: the gathering's own backward pass, and what is built on it


class _Everywhere(torch.autograd.Function):
    """The same tensor in all processes; its gradient is the mean of theirs, as in training."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient / world_size()


def shared(function):
    """A function of this process's share, as one of the whole: gradcheck moves all processes in step."""
    return lambda *x: function(*(_Everywhere.apply(part)[rank()] for part in x))


def gathered_forms():
    """The names of those that pass gradcheck, and whether a second derivative, which would be wrong, is refused."""
    norm = synchronize_batch_norm(nn.BatchNorm1d(2).double())
    fused = synchronize_batch_norm(fusion(4))
    for value in [*norm.parameters(), *fused.batch_norm.parameters()]:
        value.data.copy_(torch.linspace(0.5, 1.5, value.numel()))
    x = randn(2, 3, 2)
    functions = {
        "gather": (lambda x: gather_processes(x).square(), [x]),
        "batch norm": (lambda x: gather_processes(norm(x)), [x]),
        "fusion": (lambda x, a: gather_processes(fused(x, a, 2)[0]), [randn(2, 2, 4, 1, 2), randn(2, 2, 4, seed=1)]),
    }
    # fast_mode: along one random direction, since each evaluation of the fusion exchanges messages
    passed = []
    for name, (function, inputs) in functions.items():
        if gradcheck(shared(function), inputs, fast_mode=name == "fusion"):
            passed.append(name)
    try:
        (first,) = torch.autograd.grad(gather_processes(x[rank()]).square().sum(), x, create_graph=True)
        torch.autograd.grad(first.sum(), x)
    except RuntimeError:
        passed.append("refuses a second derivative")
    return passed


def test_gathering_gradcheck_in_two_processes(tmp_path):
    expected = ["gather", "batch norm", "fusion", "refuses a second derivative"]
    assert in_processes(2, tmp_path / "store", gathered_forms) == [expected] * 2
