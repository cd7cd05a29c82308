"""The linear-time fusion equals the (THW)^2 form written from its formula."""

import pytest
import torch

from avslib.core.numerics import l2_normalize
from avslib.models.fusion import TPAVI
from tests.helpers.reference import QuadraticTPAVI

GRID = [(1, 4, 6), (5, 3, 5), (7, 2, 3), (5, 1, 1)]


def build(training, channels=8, dtype=torch.float64, seed=0):
    """A fusion whose every parameter and statistic is away from its neutral start."""
    torch.manual_seed(seed)
    fusion = TPAVI(channels).to(dtype).train(training)
    for value in [*fusion.parameters(), fusion.batch_norm.running_mean]:
        value.data.normal_()
    fusion.batch_norm.running_var.uniform_(0.5, 2)
    return fusion


def inputs(frames, h, w, clips=2, channels=8, dtype=torch.float64):
    rows = clips * frames
    return (
        torch.randn(rows, channels, h, w, dtype=dtype, requires_grad=True),
        torch.randn(rows, channels, dtype=dtype, requires_grad=True),
    )


def backward(module, x, audio, frames, weight):
    out, a = module(x, audio, frames)
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad((out * weight).sum() + a.square().sum(), [x, audio, *parameters.values()])
    return out, a, {name: g.flatten() for name, g in zip(["x", "audio", *parameters], gradients, strict=True)}


@pytest.mark.parametrize("frames, h, w", GRID)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_the_quadratic_form(training, frames, h, w):
    ours = build(training)
    reference = QuadraticTPAVI.like(ours)
    x, audio = inputs(frames, h, w)
    weight = torch.randn(x.shape, dtype=x.dtype)
    out, a, gradients = backward(ours, x, audio, frames, weight)
    out_ref, a_ref, gradients_ref = backward(reference, x, audio, frames, weight)
    torch.testing.assert_close(out, out_ref, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(a, a_ref, rtol=1e-10, atol=1e-10)
    for name, expected in gradients_ref.items():
        assert (gradients[name] - expected).abs().max() <= 1e-10 * max(1, expected.abs().max()), name
    for ours_buffer, expected in zip(ours.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours_buffer, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_groups_in_one_pass_equal_one_pass_each(training):
    together, apart = build(training), build(training)
    x, audio = inputs(3, 2, 4, clips=4)
    weight = torch.randn(x.shape, dtype=x.dtype)
    out, a = together(x, audio, 3, groups=2)
    parts = [apart(xs, audios, 3) for xs, audios in zip(x.chunk(2), audio.chunk(2), strict=True)]
    expected = torch.cat([out for out, _ in parts])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a, torch.cat([a for _, a in parts]), rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad((y * weight).sum(), [x, audio, *m.parameters()])
        for y, m in ((out, together), (expected, apart))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(together.buffers(), apart.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gathered_statistics_are_those_of_the_whole_batch():
    shared, whole = build(training=True), build(training=True)
    shared.gather = lambda x: torch.stack([x, x])  # another process with the same clips
    x, audio = inputs(3, 2, 4)
    torch.testing.assert_close(shared(x, audio, 3)[0], whole(x.repeat(2, 1, 1, 1), audio.repeat(2, 1), 3)[0][:6])
    for ours, expected in zip(shared.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_running_statistics_over_several_steps():
    ours = build(training=True)
    reference = QuadraticTPAVI.like(ours)
    for _ in range(4):
        batch = inputs(5, 2, 3)
        ours(*batch, 5)
        reference(*batch, 5)
    torch.testing.assert_close(ours.batch_norm.running_var, reference.batch_norm.running_var, rtol=1e-10, atol=1e-10)
    assert ours.batch_norm.num_batches_tracked == 4


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradcheck(training):
    fusion = build(training, channels=4)
    x, audio = inputs(2, 2, 1, channels=4)
    assert torch.autograd.gradcheck(lambda x, a, *_: fusion(x, a, 2), (x, audio, *fusion.parameters()))


def test_starts_as_the_normalised_map():
    fusion = TPAVI(8)
    x, audio = inputs(5, 3, 4, dtype=torch.float32)
    expected = fusion.layer_norm(l2_normalize(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    torch.testing.assert_close(fusion(x, audio, 5)[0], expected)


def test_clips_do_not_see_each_other():
    fusion = build(training=False)
    x, audio = inputs(5, 3, 4, clips=3)
    together, _ = fusion(x, audio, 5)
    alone = torch.cat([fusion(x[i : i + 5], audio[i : i + 5], 5)[0] for i in (0, 5, 10)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_bfloat16_autocast_is_close(training):
    fusion = build(training, dtype=torch.float32)
    x, audio = (t.detach() for t in inputs(5, 6, 4, dtype=torch.float32))
    expected, _ = fusion(x, audio, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, a = fusion(x.bfloat16(), audio.bfloat16(), 5)
    assert out.isfinite().all() and a.isfinite().all()
    assert (out.float() - expected).norm() < 0.02 * expected.norm()


def test_silent_audio_and_blank_map_stay_finite():
    fusion = build(training=True, dtype=torch.float32)
    x, audio = torch.zeros(5, 8, 3, 4, requires_grad=True), torch.zeros(5, 8, requires_grad=True)
    out, _ = fusion(x, audio, 5)
    out.sum().backward()
    assert all(t.isfinite().all() for t in (out, x.grad, audio.grad))
