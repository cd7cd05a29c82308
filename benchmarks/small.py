"""The fusion alone and the metrics alone."""

import torch
from torch import Tensor

from avslib.metrics import FScore, MeanIoU, frame_scores
from benchmarks import reference_metrics
from benchmarks.candidates import OURS, REFERENCE, Candidate
from benchmarks.ceilings import ceilings, demand
from benchmarks.memory import measure
from benchmarks.record import BenchSettings, Row
from benchmarks.timing import interleave, ratios, spread
from benchmarks.work import FusionStep, fusion_side

SMALL_ROUNDS = 3


def section_fusion(settings: BenchSettings) -> list[Row]:
    """The fusion of the finest level, forward and backward, one clip; compared in float64 as well."""
    side = fusion_side(settings)
    forms = {name: Candidate(name, name) for name in (REFERENCE, OURS)}
    peaks = {name: measure("fusion", c, settings, 1).peak for name, c in forms.items()}
    wide = [FusionStep(name, settings, torch.float64)() for name in (OURS, REFERENCE)]
    errors = _errors(*wide)
    del wide
    runs = {name: FusionStep(name, settings) for name in forms}
    seconds = interleave(runs, SMALL_ROUNDS * settings.rounds, repeats={OURS: 5})
    needs = {name: demand(run) for name, run in runs.items()}
    rates = {name: spread(x).median for name, x in ceilings(settings.device, settings.quick).items()}
    rows = []
    for name in forms:
        found, (flops, traffic) = spread(seconds[name]), needs[name]
        ours = name == OURS
        rows.append(
            Row(
                case=f"fusion at {side}x{side}, forward + backward",
                name=name,
                batch=1,
                seconds=found,
                clips_per_second=1 / found.median,
                ratio=ratios(seconds[REFERENCE], seconds[name]) if ours else None,
                peak_bytes=peaks[name],
                peak_ratio=peaks[REFERENCE] / max(peaks[OURS], 1) if ours else None,
                flops=flops,
                traffic_bytes=traffic,
                matmul_share=flops / found.median / rates["float32"],
                memory_share=traffic / found.median / rates["memory"],
                errors=errors if ours else {},
            )
        )
    return rows


def section_metrics(settings: BenchSettings) -> list[Row]:
    """J and F over 320 masks, updated as an evaluation does, by four clips; the figures must be identical."""
    count, side, step = (20, 32, 20) if settings.quick else (320, 224, 20)
    generator = torch.Generator().manual_seed(settings.seed)
    mask = torch.zeros(count, 1, side, side)
    mask[:, :, side // 4 : side // 2, side // 3 : 3 * side // 4] = 1
    mask[:: count // 4] = 0
    logits = (3 * torch.randn(mask.shape, generator=generator) + 2 * mask).to(settings.device)
    mask, plain = mask.to(settings.device), reference_metrics

    def ours() -> tuple[float, float]:
        j, f = MeanIoU().to(settings.device), FScore().to(settings.device)
        for x, y in zip(logits.split(step), mask.split(step), strict=True):
            scores = frame_scores(x, y)
            j.update(x, y, scores)
            f.update(x, y, scores)
        return j.compute().item(), f.compute().item()

    results: dict[str, tuple[float, float]] = {}
    runs = {
        REFERENCE: lambda: results.update(
            {REFERENCE: (plain.reference_j(logits, mask), plain.reference_f(logits, mask))}
        ),
        OURS: lambda: results.update({OURS: ours()}),
    }
    seconds = interleave(runs, settings.rounds, repeats={OURS: 3})
    error = max(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(results[OURS], results[REFERENCE], strict=True))
    rows = []
    for name in runs:
        j, f = results[name]
        rows.append(
            Row(
                case=f"J and F of {count} masks of {side}x{side}",
                name=name,
                seconds=spread(seconds[name]),
                ratio=ratios(seconds[REFERENCE], seconds[name]) if name == OURS else None,
                errors={"J, F": error} if name == OURS else {},
                values={"J": j, "F": f},
            )
        )
    return rows


def _errors(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> dict[str, float]:
    """||found - expected|| / ||expected|| of the map, and the largest of the gradients.

    A gradient that is 0 but for rounding (of a bias that the batch norm takes out again) is held against all of them.
    """
    (out, *gradients), (out_expected, *gradients_expected) = found, expected
    floor = 1e-4 * torch.cat(gradients_expected).norm()
    worst = max((a - b).norm() / b.norm().clamp(min=floor) for a, b in zip(gradients, gradients_expected, strict=True))
    return {
        "map, float64": float((out - out_expected).norm() / out_expected.norm()),
        "gradients, float64": float(worst),
    }
