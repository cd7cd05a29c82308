"""Time of each part of a training step, alone, forward and backward: in the reference form and in ours."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avslib.losses import objective
from benchmarks import reference_model
from benchmarks.candidates import OURS, REFERENCE, Candidate, audio_network, build_model, candidates, dress
from benchmarks.ceilings import ceilings, demand
from benchmarks.record import BenchSettings, Row
from benchmarks.timing import interleave, ratios, spread
from benchmarks.work import Batch, TrainStep, make_batch, make_optimizer, prefill_state

LARGEST_GPU_BATCH = 4


def section_parts(settings: BenchSettings) -> list[Row]:
    """Each part on the inputs that it has in a step: one clip on a CPU, up to four on a GPU, in float32."""
    clips = 1 if settings.device == "cpu" else min(settings.batch, LARGEST_GPU_BATCH)
    known = {c.name: c for c in candidates(settings, training=True)}
    parts = {name: _parts(known[name], clips, settings) for name in (REFERENCE, OURS)}
    runs = {f"{form}/{name}": run for form, found in parts.items() for name, run in found.items()}
    seconds = interleave(runs, settings.rounds)
    needs = {name: demand(run) for name, run in runs.items()}
    rates = {name: spread(x).median for name, x in ceilings(settings.device, settings.quick).items()}
    totals = {form: sum(spread(seconds[f"{form}/{name}"]).median for name in found) for form, found in parts.items()}
    rows = []
    for name in parts[REFERENCE]:
        # attention as one operation hides its products from the counter; there are as many
        flops = needs[f"{REFERENCE}/{name}"][0] if name == "backbone" else None
        for form in parts:
            key = f"{form}/{name}"
            if key not in runs:
                rows.append(Row(case=name, name=form, batch=clips, notes="not in the step: cached"))
                continue
            found, products, traffic = spread(seconds[key]), flops or needs[key][0], needs[key][1]
            rows.append(
                Row(
                    case=name,
                    name=form,
                    batch=clips,
                    seconds=found,
                    ratio=ratios(seconds[f"{REFERENCE}/{name}"], seconds[key]) if form == OURS else None,
                    flops=products,
                    traffic_bytes=traffic,
                    matmul_share=products / found.median / rates["float32"],
                    memory_share=traffic / found.median / rates["memory"],
                    values={"of the parts' sum": round(found.median / totals[form], 4)},
                )
            )
    return rows


def _parts(candidate: Candidate, clips: int, settings: BenchSettings) -> dict[str, Callable[[], None]]:
    """Name of each part -> its forward and backward pass."""
    reference, audio = candidate.form == "reference", audio_network(settings)
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
    plain = reference_model
    loss = plain.reference_objective if reference else objective
    decode = plain.plain_decoder if reference else lambda decoder, x: decoder(x)

    def forward_backward(run: Callable[[], Any]) -> Callable[[], None]:
        return lambda: _forward_backward(
            run, candidate, settings.device, [module, features, projected, maps, output, fused]
        )

    found = {
        "backbone": forward_backward(lambda: module.backbone(batch.image)),
        "latent encoders": forward_backward(
            lambda: [
                module.prior.encode(batch.image, batch.audio, None),
                module.posterior.encode(batch.image, batch.audio, batch.mask),
            ]
        ),
        "necks": forward_backward(lambda: [branch.neck(features) for branch in branches]),
        "fusion": forward_backward(lambda: _fuse(module, maps, projected, settings.frames, reference)),
        "decoders": forward_backward(lambda: [decode(b.decoder, x) for b, x in zip(branches, fused, strict=True)]),
        "losses": forward_backward(lambda: loss(output, batch.mask, module.config, batch.noise)["loss"]),
        "optimiser": lambda: _step(optimizer),
    }
    return ({"audio network": lambda: _listen(audio, batch)} if reference else {}) | found


def leaves(value: Any) -> Any:
    """A copy with every tensor detached, and requiring a gradient where it is one of numbers; containers are kept."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.is_floating_point())
    if isinstance(value, Mapping):
        return {k: leaves(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(leaves(v) for v in value)
    if dataclasses.is_dataclass(value):
        return type(value)(**{f.name: leaves(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, nn.Module):
        return list(value.parameters())
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [x for v in value for x in _tensors(v)] if isinstance(value, Sequence) and not isinstance(value, str) else []


def _forward_backward(run: Callable[[], Any], candidate: Candidate, device: str, leaf_values: list[Any]) -> None:
    with candidate.precision(device):
        out = [x for x in _tensors(run()) if x.requires_grad]
        torch.autograd.backward(out, [torch.ones_like(x) for x in out])
    for leaf in _tensors(leaf_values):
        leaf.grad = None


def _fuse(module: nn.Module, maps: list[list[Tensor]], audio: Tensor, frames: int, reference: bool) -> list[Tensor]:
    """All levels of both branches: one after the other in the reference, together in ours."""
    if reference:
        return [f(x, audio, frames)[0] for levels in maps for f, x in zip(module.fusion, levels, strict=True)]
    audio = torch.cat([audio] * len(maps))
    return [f(torch.cat(x), audio, frames, len(maps))[0] for f, *x in zip(module.fusion, *maps, strict=True)]


def _listen(audio: nn.Module, batch: Batch) -> None:
    with torch.no_grad():
        audio(batch.patches)


def _step(optimizer: torch.optim.Optimizer) -> None:
    """A step on gradients of 0; they stay, so that only the step is timed from the second call on."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
