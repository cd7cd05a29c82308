"""On a GPU: the same numbers as on the CPU, and a step that never makes the host wait. Run by ``pytest -m gpu``.

With ``--device cpu`` the same tests run without a GPU. That tries the tests and says nothing about a GPU.
"""

import contextlib
import copy
import importlib.util
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch

from avslib import load_checkpoint
from avslib.config import load_config
from avslib.losses import objective
from avslib.metrics import frame_scores
from avslib.models import ECMVAE
from avslib.models.latent import POSTERIOR, PRIOR
from avslib.training.evaluate import evaluate
from avslib.training.setup import open_split
from avslib.training.state import STATE
from avslib.weights.speed_options import apply_speed_options
from benchmarks.record import BenchSettings
from benchmarks.run import SECTIONS, bench
from tests.helpers.tiny import TINY
from tests.unit.models.test_models import SMALL, batch, stir

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def device(request):
    name = request.config.getoption("--device")
    assert name == "cpu" or torch.cuda.is_available(), "pytest -m gpu needs a CUDA device, and this machine has none"
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield name
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


def build(preset):
    torch.manual_seed(0)
    return stir(ECMVAE(load_config(preset, SMALL))).train()


def inputs(rows=10, device="cpu"):
    generator = torch.Generator().manual_seed(3)
    annotated = torch.tensor([True, False, False, False, False] * (rows // 5))
    eps = {name: torch.randn(2 if name in POSTERIOR else rows, 4, generator=generator) for name in (*PRIOR, *POSTERIOR)}
    eps |= {name: torch.randn(2, 4, generator=generator) for name in ("js_prior", "js_posterior")}
    return [x.to(device) for x in batch(rows)], annotated, {name: x.to(device) for name, x in eps.items()}


def train(model, device, steps, dtype, annotate=True, **options):
    """Loss of every step, and the weights afterwards."""
    model = apply_speed_options(copy.deepcopy(model).to(device, dtype), **options)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    (image, audio, mask), annotated, noise = inputs(device=device)
    image, audio, mask = (x.to(dtype) for x in (image, audio, mask))
    if not annotate:
        annotated, noise = None, {k: v[:1].expand(10, 4) for k, v in noise.items()}
    losses = []
    for _ in range(steps):
        output = model(image, audio, mask, noise=noise, annotated=annotated)
        loss = objective(output, mask, model.config, noise)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    return torch.stack(losses).cpu(), model


@pytest.mark.parametrize("preset", ["paper", "mini"])
@pytest.mark.parametrize("annotate", [True, False], ids=["s4", "ms3"])
def test_training_agrees_with_the_cpu(device, preset, annotate):
    model = build(preset)
    here, ours = train(model, device, 5, torch.float64, annotate)
    there, expected = train(model, "cpu", 5, torch.float64, annotate)
    torch.testing.assert_close(here, there, rtol=1e-8, atol=1e-10)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name].cpu(), value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("options", [{"checkpointing": True}, {"channels_last": False}], ids=lambda o: next(iter(o)))
def test_float32_and_options_agree_with_the_cpu(device, options):
    model = build("mini")
    torch.testing.assert_close(
        train(model, device, 2, torch.float32, **options)[0],
        train(model, "cpu", 2, torch.float32)[0],
        rtol=1e-3,
        atol=1e-4,
    )


TRAINING = """
import sys
from avslib.config import load_config
from avslib.training.loop import train
train(load_config("mini", sys.argv[2:]), sys.argv[1], progress=False)
"""


def test_deterministic_training_repeats_to_the_bit(mini_data, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    values = [f"{name}={value}" for name, value in TINY.items()]
    values += [f"data.root={mini_data}", "train.deterministic=true", "train.eval_samples=2"]
    states = []
    for name in ("a", "b"):  # processes of their own, since cuBLAS must not have been in use before
        command = [sys.executable, "-c", TRAINING, str(tmp_path / name), *values]
        subprocess.run(command, check=True, env=environment, timeout=600)
        states.append(torch.load(tmp_path / name / STATE, weights_only=True, map_location="cpu"))
    first, second = (state["model"] for state in states)
    assert states[0]["run"]["best_j"] == states[1]["run"]["best_j"]
    assert all(torch.equal(first[name], second[name]) for name in first)


@contextlib.contextmanager
def waiting_is_an_error(device):
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_a_step_never_makes_the_host_wait(device):
    model = build("mini").to(device)
    (image, audio, mask), annotated, _ = inputs(device=device)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for warm in (True, False):
        with contextlib.nullcontext() if warm else waiting_is_an_error(device):
            output = model(image, audio, mask, noise=generator, annotated=annotated)
            objective(output, mask, model.config, generator)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def test_metrics_are_counted_on_the_device(device):
    _, _, mask = batch(10)
    logits = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)) + mask
    there, here = frame_scores(logits, mask), frame_scores(logits.to(device), mask.to(device))
    assert here.iou.device.type == device and torch.equal(here.counted.cpu(), there.counted)
    # a sigmoid may round otherwise: a pixel may pass a threshold there and not here
    torch.testing.assert_close(here.iou.cpu(), there.iou, rtol=0, atol=2 / mask[0].numel())
    torch.testing.assert_close(here.curve.cpu(), there.curve, rtol=0, atol=0.01)


def test_a_shipped_checkpoint_scores_the_same(device, mini_data):
    found = []
    for place in (device, "cpu"):
        model = load_checkpoint("mini-s4", place)
        data = open_split(model.config.replace({"data.root": str(mini_data)}), "test", progress=False)
        found.append(evaluate(model, data))
    assert found[0].metrics == pytest.approx(found[1].metrics, abs=0.005)
    assert found[0].clips == pytest.approx(found[1].clips, abs=0.02)


def test_a_shipped_checkpoint_predicts_the_same(device, monkeypatch):
    if not importlib.util.find_spec("av"):  # no video is read here
        monkeypatch.setitem(sys.modules, "av", mock.MagicMock())
    from avslib.predict import Predictor

    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (5, 3, 128, 128), generator=generator, dtype=torch.uint8)
    sound = torch.randn(5 * 16000, generator=generator) / 10
    predictors = [Predictor.from_checkpoint("mini-s4", place) for place in (device, "cpu")]
    for k in (0, 2):
        maps = [p.samples(image, p.embed(sound), k) if k else p(image, p.embed(sound)) for p in predictors]
        torch.testing.assert_close(*maps, rtol=0, atol=1e-3)


def test_bench_measures_the_device(device):
    record = bench(BenchSettings(device=device, backbone="resnet18", batch=2, rounds=1, quick=True))
    assert set(record.sections) == set(SECTIONS)
    assert all(row.peak_bytes > 0 for row in record.sections["train"])
    if device == "cuda":
        assert record.environment["gpus"]
