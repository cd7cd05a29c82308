"""avs bench: the reference forms equal ours, rounds and lines are counted right, records are kept, the command runs."""

import copy
import json

import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from avslib.cli import app
from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.losses import objective
from avslib.metrics import FScore, MeanIoU
from benchmarks import reference_metrics, reference_model, steps
from benchmarks.candidates import QUICK, Candidate, bench_config, build_model, candidates, share_parameters
from benchmarks.ceilings import demand
from benchmarks.memory import Measured, measure
from benchmarks.record import (
    BenchRecord,
    BenchSettings,
    Row,
    new_bench_record,
    read_bench_record,
    spread,
    write_bench_record,
)
from benchmarks.report import columns, markdown_page, targets_markdown, verdicts
from benchmarks.run import bench
from benchmarks.timing import OURS, REFERENCE, compared, interleave, line
from benchmarks.work import make_optimizer

SETTINGS = BenchSettings(backbone="test_efficientnet", batch=2, rounds=1, quick=True)


class SmallEar(torch.nn.Module):
    """Stands in for VGGish: patches to 128 numbers."""

    def forward(self, patches):
        return patches.flatten(1)[:, :128].relu()


# ---- reference forms


def step_inputs(config, rows=10):
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(rows, 1, 64, 64, dtype=torch.double)
    mask[..., 8:40, 16:48] = 1
    names = ("vs", "as", "vac", "vs_y", "as_y", "vac_y", "js_prior", "js_posterior")
    noise = {name: torch.randn(rows, config.model.latent_dim, generator=generator).double() for name in names}
    image, patches = (torch.randn(rows, *s, generator=generator).double() for s in ((3, 64, 64), (1, 96, 64)))
    return image, patches, mask, noise


@pytest.mark.parametrize("backbone", ["resnet18", "pvt_v2_b0"])
def test_the_model_equals_its_reference(backbone):
    ours = build_model(SETTINGS.model_copy(update={"backbone": backbone})).double()
    module, ear = reference_model, SmallEar()
    reference = module.ReferenceECMVAE(copy.deepcopy(ours), ear)
    image, patches, mask, noise = step_inputs(ours.config)
    found = ours(image, ear(patches), mask, noise=noise)
    expected = reference(image, patches, mask, noise=noise)
    objective(found, mask, ours.config, noise=noise)["loss"].backward()
    module.reference_objective(expected, mask, ours.config, noise)["loss"].backward()
    for name in ("logits", "logits_posterior"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-8, atol=1e-8)
    gradients = {name: p.grad.flatten() for name, p in ours.named_parameters()}
    scale = max(g.norm() for g in gradients.values())
    assert gradients.keys() == dict(reference.named_parameters()).keys()
    for name, p in reference.named_parameters():
        assert (p.grad.flatten() - gradients[name]).norm() <= 1e-8 * max(p.grad.norm(), 1e-3 * scale), name
    for name, value in reference.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], value, rtol=1e-8, atol=1e-8)


def test_the_reference_equals_ours_in_inference_and_leaves_the_posterior_out():
    ours = build_model(SETTINGS).double().eval()
    reference = reference_model.ReferenceECMVAE(copy.deepcopy(ours), SmallEar())
    image, patches, *_ = step_inputs(ours.config)
    reference.posterior.neck = None
    with torch.no_grad():
        found, expected = ours(image, SmallEar()(patches)), reference(image, patches)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-8, atol=1e-8)


def test_metrics_equal_the_loop_over_thresholds():
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(12, 1, 16, 16, generator=generator) > 0.7).float()
    mask[5] = 0
    logits = 3 * torch.randn(mask.shape, generator=generator) + mask
    j, f, plain = MeanIoU(), FScore(), reference_metrics
    j.update(logits, mask)
    f.update(logits, mask)
    assert j.compute().item() == pytest.approx(plain.reference_j(logits, mask), rel=1e-14)
    assert f.compute().item() == pytest.approx(plain.reference_f(logits, mask), rel=1e-14)


def test_candidates_share_one_set_of_weights():
    first, second, shared = build_model(SETTINGS), build_model(SETTINGS), {}
    for model in (first, second):
        share_parameters(model, shared)
    assert all(a is b for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_backbone_mini_is_all_of_preset_mini():
    settings, mini = BenchSettings(backbone="mini"), load_config("mini")
    found = bench_config(settings)
    assert settings.image_size == mini.model.image_size == 128
    assert found.loss == mini.loss
    assert found.model == mini.model.model_copy(update={"pretrained": False, "audio_encoder": "vggish"})


def test_a_gpu_holds_float32_against_float32():
    found = {c.name: c for c in candidates(BenchSettings(device="cuda"), training=True)}
    assert found[found[OURS].against].tf32 == found[OURS].tf32 == "none"
    assert found["ours, bf16"].against == REFERENCE and found[REFERENCE].tf32 == "convolutions"


def test_fused_adam_moves_the_weights_as_the_plain_one():
    moved = []
    for form in ("reference", "ours"):
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3).double()
        optimizer = make_optimizer(layer.parameters(), Candidate(form, form))
        for k in range(3):
            layer(torch.arange(5.0).double() + k).square().sum().backward()
            optimizer.step()
        moved.append(layer.weight.detach().clone())
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-12, atol=1e-14)


# ---- timing


def test_rounds_are_interleaved_and_alternate():
    order = []
    costs = {"a": 4, "b": 1}
    runs = {name: lambda name=name: order.append(name) or costs[name] for name in costs}

    def measure_calls(run, number):
        return sum(run() for _ in range(number)) / number

    seconds = interleave(runs, 2, repeats={"b": 2}, measure=measure_calls)
    assert "".join(order) == "ab" + "abb" + "bba"
    assert seconds == {"a": [4, 4], "b": [1, 1]}


def test_ratios_are_taken_round_by_round():
    seconds = {REFERENCE: [10, 40, 90], OURS: [1, 2, 3]}  # a machine that slows down
    reference, ours = compared("step", seconds, SETTINGS)
    assert (ours.ratio.median, ours.ratio.smallest, ours.ratio.largest) == (20, 10, 30) and reference.ratio is None
    assert spread([5.0]).lower == spread([5.0]).upper == 5


def test_a_line_extrapolates():
    slope, intercept, r_squared = line([1, 2, 3], [7.1, 11.9, 17.0])
    assert intercept + 4 * slope == pytest.approx(21.9) and r_squared > 0.999
    assert line([2], [10.0])[:2] == (5, 0)


def test_peak_memory_counts_one_candidate_alone():
    peaks = [measure("fusion", Candidate(name, name), BenchSettings(), 1).peak for name in (OURS, REFERENCE)]
    assert 20e6 < peaks[0] < 400e6 and 1.5e9 < peaks[1] < 4e9


def test_a_depthwise_convolution_costs_three_times_its_forward_pass():
    conv, x = torch.nn.Conv2d(8, 8, 3, groups=8, bias=False), torch.randn(2, 8, 6, 6, requires_grad=True)
    flops, traffic = demand(lambda: conv(x).sum().backward())
    assert flops == 3 * 2 * 2 * 8 * 4 * 4 * 9
    assert traffic >= 4 * 3 * (x.numel() + conv.weight.numel() + 2 * 8 * 16)


def test_what_does_not_fit_is_extrapolated(monkeypatch):
    ran = []

    def fake(kind, candidate, settings, clips, runs=1):
        assert clips <= 3 or candidate.form == "ours"
        ran.append((candidate.name, clips, runs))
        return Measured(clips * 10**12 if candidate.form == "reference" else clips * 10**9, [10.0 * clips] * (runs - 1))

    monkeypatch.setattr(steps, "measure", fake)
    monkeypatch.setattr(steps, "available_memory", lambda device: 4 * 10**12)
    rows = {row.name: row for row in steps.section_train(SETTINGS.model_copy(update={"batch": 4}))}
    reference, ours = rows[REFERENCE], rows[OURS]
    assert (REFERENCE, 3, 2) in ran and reference.extrapolated_from == [1, 2, 3] and not ours.extrapolated_from
    assert reference.seconds.median == pytest.approx(40) and reference.peak_bytes == pytest.approx(4 * 10**12)
    assert ours.ratio.median == pytest.approx(40 / ours.seconds.median) and ours.errors["loss"] < 1e-5
    monkeypatch.setattr(steps, "available_memory", lambda device: 2 * 10**9)
    with pytest.raises(AvsError, match=r"does not fit.*smaller --batch, such as 1"):
        steps.section_train(SETTINGS.model_copy(update={"batch": 4}))


# ---- records and reports


def record(**changes):
    rows = [
        Row(case="step", name=REFERENCE, seconds=spread([2.0, 3.0]), batch=4, extrapolated_from=[1, 2, 3]),
        Row(
            case="step",
            name=OURS,
            seconds=spread([1.0, 1.0]),
            batch=4,
            ratio=spread([2, 3]),
            peak_ratio=2.1,
            errors={"loss": 1e-7},
            peak_bytes=10**9,
        ),
    ]
    return new_bench_record(BenchSettings(**changes), {"train": rows}, 1.0)


def test_a_record_names_a_folder_without_its_place():
    assert record(data="/somewhere/else/mini").settings.data == "mini"


def test_a_record_comes_back_as_it_was(tmp_path):
    written = record()
    assert read_bench_record(write_bench_record(tmp_path / "a" / "b.json", written)) == written
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    "edit, sentence",
    [
        (lambda v: v["sections"]["train"][0].update(batch=8), "record was edited"),
        (lambda v: v.update(note="x"), "note: Extra inputs"),
        (lambda v: v["sections"]["train"][1].update(speed=3), "sections.train.1.speed: Extra inputs"),
        (lambda v: v.update(version=2), "version"),
    ],
)
def test_an_edited_record_is_refused(tmp_path, edit, sentence):
    values = json.loads(record().model_dump_json())
    edit(values)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(values))
    with pytest.raises(AvsError, match=sentence):
        read_bench_record(path)


def test_rows_hold_finite_numbers_only():
    with pytest.raises(ValidationError):
        Row(case="a", name="b", clips_per_second=float("nan"))


def test_targets_are_met_or_not():
    found = {(v.target.measure, v.target.options): v.met for v in _verdicts(record(backbone="resnet50"))}
    assert found == {("ratio", False): False, ("peak_ratio", False): True}
    assert {v.met for v in _verdicts(record(backbone="pvt_v2_b5"))} == {True}
    assert not _verdicts(record(quick=True))


def test_each_target_is_shown_once_from_the_record_with_the_most_rounds():
    """A second record of one part, here with torch.compile, repeats targets of the first."""
    few, many = record(rounds=1, compile=True), record(rounds=3)
    many.sections["train"][1].ratio = spread([3.5])
    for records in ([few, many], [many, few]):
        text = targets_markdown(records)
        assert text.count("train: times as fast") == 1 and "| 3.5 |" in text and "| 2.5 |" not in text
    assert targets_markdown([few, record(backbone="pvt_v2_b5")]).count("train: times less peak memory >= 2") == 2


def _verdicts(made: BenchRecord):
    return verdicts(made.settings, made.sections)


def test_pages_say_what_was_extrapolated():
    page = markdown_page([record()])
    assert "extrapolated from batches 1, 2, 3" in page and "not met" in page and "2.5 (2 to 3)" in page
    headings, cells = columns(record().sections["train"])
    assert "clips/s" not in headings and len(cells) == 2


# ---- the command


def test_the_command_prints_a_record_alone(tmp_path):
    options = ["bench", "--quick", "--json", "--rounds", "1", "--batch", "1", "--backbone", "test_efficientnet"]
    result = CliRunner().invoke(app, [*options, "--out", str(tmp_path)], catch_exceptions=False)
    made = BenchRecord.model_validate_json(result.stdout)
    assert made == read_bench_record(tmp_path / "cpu-test_efficientnet-b1-quick.json")
    assert {"ceilings", "fusion", "metrics", "inference", "train", "parts"} <= made.sections.keys()
    rows = {row.name: row for row in made.sections["train"]}
    assert {REFERENCE, OURS, "ours, bf16", "ours, checkpointing"} <= rows.keys()
    assert rows[OURS].errors["loss"] < 1e-5 and rows["ours, bf16"].errors["loss"] < 0.05
    assert rows[OURS].ratio.median == pytest.approx(rows[REFERENCE].seconds.median / rows[OURS].seconds.median)
    assert made.settings.image_size == 64 and QUICK["model.image_size"] == 64


@pytest.mark.parametrize(
    "settings, parts, sentence",
    [
        (SETTINGS, ["speed"], "--part speed: unknown part; choose from ceilings"),
        pytest.param(
            BenchSettings(device="cuda"),
            [],
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has one"),
        ),
    ],
)
def test_bad_input_is_one_sentence(settings, parts, sentence):
    with pytest.raises(AvsError, match=sentence):
        bench(settings, parts)


def test_compile_needs_a_compiler(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(AvsError, match=r"--compile: torch.compile needs a C\+\+ compiler"):
        bench(SETTINGS.model_copy(update={"compile": True}), ["metrics"])
