"""Each part of a training step by itself, the fusion and the metrics, in the reference form and in ours."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from avslib.losses import objective
from avslib.metrics import FScore, MeanIoU, frame_scores
from benchmarks import reference_metrics, reference_model
from benchmarks.candidates import Candidate, audio_network, build_model, candidates, dress
from benchmarks.ceilings import demand
from benchmarks.memory import measure
from benchmarks.record import BenchSettings, Row, spread
from benchmarks.timing import OURS, REFERENCE, compared, interleave
from benchmarks.work import FusionStep, TrainStep, make_batch, make_optimizer, prefill_state

FORMS = (REFERENCE, OURS)
LARGEST_GPU_BATCH = 4


def section_fusion(settings: BenchSettings) -> list[Row]:
    """The fusion of the finest level, forward and backward, one clip; compared in float64 as well."""
    peaks = {name: measure("fusion", Candidate(name, name), settings, 1).peak for name in FORMS}
    found, expected = (FusionStep(name, settings, torch.float64)() for name in (OURS, REFERENCE))
    floor = 1e-4 * torch.cat(expected[1:]).norm()  # a gradient that is 0 except for rounding is held against all
    worst = max((a - b).norm() / b.norm().clamp(min=floor) for a, b in zip(found[1:], expected[1:], strict=True))
    error = float((found[0] - expected[0]).norm() / expected[0].norm())
    errors = {OURS: {"map, float64": error, "gradients, float64": float(worst)}}
    runs = {name: FusionStep(name, settings) for name in FORMS}
    seconds = interleave(runs, 3 * settings.rounds, repeats={OURS: 5})
    needs = {name: demand(run) for name, run in runs.items()}
    case = f"fusion at {runs[OURS].side}x{runs[OURS].side}, forward + backward"
    return compared(case, seconds, settings, clips=1, peaks=peaks, needs=needs, errors=errors)


def section_metrics(settings: BenchSettings) -> list[Row]:
    """J and F of many masks, updated as an evaluation does, four clips at a time; the values must be identical."""
    count, side, step = (20, 32, 20) if settings.quick else (320, 224, 20)
    mask = torch.zeros(count, 1, side, side)
    mask[:, :, side // 4 : side // 2, side // 3 : 3 * side // 4] = 1
    mask[:: count // 4] = 0
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(settings.seed))
    logits, mask = (3 * noise + 2 * mask).to(settings.device), mask.to(settings.device)
    results: dict[str, tuple[float, float]] = {}

    def reference() -> None:
        results[REFERENCE] = reference_metrics.reference_j(logits, mask), reference_metrics.reference_f(logits, mask)

    def ours() -> None:
        j, f = MeanIoU().to(settings.device), FScore().to(settings.device)
        for x, y in zip(logits.split(step), mask.split(step), strict=True):
            scores = frame_scores(x, y)
            j.update(x, y, scores)
            f.update(x, y, scores)
        results[OURS] = j.compute().item(), f.compute().item()

    seconds = interleave({REFERENCE: reference, OURS: ours}, settings.rounds, repeats={OURS: 3})
    error = max(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(results[OURS], results[REFERENCE], strict=True))
    values = {name: {"J": j, "F": f} for name, (j, f) in results.items()}
    case = f"J and F of {count} masks of {side}x{side}"
    return compared(case, seconds, settings, errors={OURS: {"J, F": error}}, values=values)


def section_parts(settings: BenchSettings) -> list[Row]:
    """Each part on the inputs that it has in a step: one clip on a CPU, up to four on a GPU, in float32."""
    clips = 1 if settings.device == "cpu" else min(settings.batch, LARGEST_GPU_BATCH)
    known = {c.name: c for c in candidates(settings, training=True)}
    parts = {form: _parts(known[form], clips, settings) for form in FORMS}
    runs = {f"{form}/{part}": run for form in FORMS for part, run in parts[form].items()}
    seconds = interleave(runs, settings.rounds)
    needs = {name: demand(run) for name, run in runs.items()}
    # attention as one operation hides its products from the counter; there are as many
    needs["ours/backbone"] = needs["reference/backbone"][0], needs["ours/backbone"][1]
    medians = {name: spread(x).median for name, x in seconds.items()}
    sums = {form: sum(medians[f"{form}/{part}"] for part in parts[form]) for form in FORMS}
    rows = []
    for part in parts[REFERENCE]:
        keys = {form: f"{form}/{part}" for form in FORMS if part in parts[form]}
        values = {form: {"of the parts' sum": round(medians[key] / sums[form], 4)} for form, key in keys.items()}
        times, own = ({form: known[key] for form, key in keys.items()} for known in (seconds, needs))
        rows += compared(part, times, settings, clips=clips, needs=own, values=values)
        rows += [Row(case=part, name=f, batch=clips, notes="not in the step: cached") for f in FORMS if f not in keys]
    return rows


def _parts(candidate: Candidate, clips: int, settings: BenchSettings) -> dict[str, Callable[[], None]]:
    """Name of each part -> its forward and backward pass."""
    reference, audio = candidate.form == REFERENCE, audio_network(settings)
    module = build_model(settings).train()
    batch = make_batch(settings, module.config, audio, clips)
    module = dress(module, candidate, audio)
    optimizer = make_optimizer(module.parameters(), candidate)
    prefill_state(optimizer)
    branches = module.prior, module.posterior
    with torch.no_grad(), candidate.precision(settings.device):
        features = leaves(module.backbone(batch.image))
        projected = leaves(module.audio_projection(batch.audio))
        maps = [leaves(branch.neck(features)) for branch in branches]
        output, _ = TrainStep(module, candidate, batch, settings).forward()
        output, fused = leaves(output), [leaves(output.fused[name]) for name in ("prior", "posterior")]
    loss = reference_model.reference_objective if reference else objective
    decode = reference_model.plain_decoder if reference else lambda decoder, x: decoder(x)

    def both_passes(run: Callable[[], Any]) -> Callable[[], None]:
        def passes() -> None:
            with candidate.precision(settings.device):
                out = [x for x in _tensors(run()) if x.requires_grad]
                torch.autograd.backward(out, [torch.ones_like(x) for x in out])
            for leaf in [*module.parameters(), *_tensors([features, projected, maps, output, fused])]:
                leaf.grad = None

        return passes

    def listen() -> None:
        with torch.no_grad():
            audio(batch.patches)

    def step() -> None:
        """On gradients of 0, which stay: from the second call on only the step is timed."""
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()

    found = {
        "backbone": both_passes(lambda: module.backbone(batch.image)),
        "latent encoders": both_passes(
            lambda: [
                module.prior.encode(batch.image, batch.audio, None),
                module.posterior.encode(batch.image, batch.audio, batch.mask),
            ]
        ),
        "necks": both_passes(lambda: [branch.neck(features) for branch in branches]),
        "fusion": both_passes(lambda: _fuse(module, maps, projected, settings.frames, reference)),
        "decoders": both_passes(lambda: [decode(b.decoder, x) for b, x in zip(branches, fused, strict=True)]),
        "losses": both_passes(lambda: loss(output, batch.mask, module.config, batch.noise)["loss"]),
        "optimiser": step,
    }
    return ({"audio network": listen} if reference else {}) | found


def leaves(value: Any) -> Any:
    """A copy with every tensor detached, requiring a gradient if it is floating point; containers are kept."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.is_floating_point())
    if isinstance(value, Mapping):
        return {k: leaves(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(leaves(v) for v in value)
    return dataclasses.replace(value, **leaves(vars(value))) if dataclasses.is_dataclass(value) else value


def _tensors(value: Any) -> list[Tensor]:
    found = tree_leaves(value)
    inside = [x for v in found if dataclasses.is_dataclass(v) for x in _tensors(vars(v))]
    return [v for v in found if isinstance(v, Tensor)] + inside


def _fuse(module: nn.Module, maps: list[list[Tensor]], audio: Tensor, frames: int, reference: bool) -> list[Tensor]:
    """All levels of both branches: one after the other in the reference, together in ours."""
    if reference:
        return [f(x, audio, frames)[0] for levels in maps for f, x in zip(module.fusion, levels, strict=True)]
    audio = torch.cat([audio] * len(maps))
    return [f(torch.cat(x), audio, frames, len(maps))[0] for f, *x in zip(module.fusion, *maps, strict=True)]
