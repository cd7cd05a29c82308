"""Whole training steps and inference: every candidate on the same weights, clips and noise, in interleaved rounds."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avslib.core.errors import MemoryLimitError
from benchmarks.candidates import (
    OURS,
    REFERENCE,
    Candidate,
    audio_network,
    build_model,
    candidates,
    dress,
    plain_attention,
    share_parameters,
)
from benchmarks.ceilings import ceilings, demand
from benchmarks.memory import SHARE, Measured, available_memory, batches_for_line, estimate_peaks, measure
from benchmarks.record import BenchSettings, Row
from benchmarks.timing import fit_line, interleave, ratios, spread
from benchmarks.work import Inference, TrainStep, make_batch, make_optimizer, prefill_state


def section_train(settings: BenchSettings) -> list[Row]:
    """A training step: time, peak memory, error, FLOPs and traffic of every candidate."""
    return _section("train", f"training step, batch {settings.batch}", settings.batch, settings)


def section_inference(settings: BenchSettings) -> list[Row]:
    """Inference of one clip; on a GPU, which one clip does not fill, of a batch as well."""
    sizes = sorted({1, settings.batch}) if settings.device == "cuda" else [1]
    return [row for n in sizes for row in _section("inference", f"inference, batch {n}", n, settings)]


@dataclass
class _Known:
    """What is known of a candidate before the rows are made."""

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    errors: dict[str, float] = field(default_factory=dict)
    flops: float | None = None
    traffic: float | None = None
    points: list[int] = field(default_factory=list)


def _section(kind: str, case: str, clips: int, settings: BenchSettings) -> list[Row]:
    found = candidates(settings, training=kind == "train")
    known = {c.name: _Known() for c in found}
    ours = next(c for c in found if c.name == OURS)
    references = [c for c in found if c.form == "reference"]
    large = {c.name: points for c in references if (points := _too_large(kind, c, clips, settings))}
    if len(large) == len(references) and (points := _too_large(kind, ours, clips, settings)):
        raise MemoryLimitError(
            f"avs bench: {case} of {settings.backbone} does not fit into {SHARE:.0%} of the available memory; "
            f"choose a smaller --batch, such as {points[-1]}"
        )
    for candidate in references:
        if points := large.get(candidate.name):
            known[candidate.name] = _extrapolate(kind, candidate, clips, points, settings)
    fits = [c for c in found if c.name not in large]
    for candidate in fits:
        known[candidate.name].peak = measure(kind, candidate, settings, clips).peak
    _demand(kind, found, known, clips, settings)
    if ours.against in large:  # one clip fits
        _compare(_work(kind, [c for c in found if c.name in (ours.against, OURS)], 1, settings), known)
    _time(kind, fits, known, clips, settings)
    return [_row(case, c, known, clips, settings) for c in found]


def _too_large(kind: str, candidate: Candidate, clips: int, settings: BenchSettings) -> list[int]:
    """Batches to extrapolate from where `clips` will not fit beside the other candidates' weights; else nothing."""
    if clips <= 2:  # from which the line is made
        return []
    weights = sum(p.numel() for p in build_model(settings).parameters()) * 4
    # in the rounds two layouts of the weights and three optimisers' moments stay in memory, and gradients to compare
    budget = SHARE * available_memory(settings.device) - (5 * weights if kind == "train" else weights)
    peaks = estimate_peaks(kind, candidate, settings)
    return [] if peaks.at(clips) <= budget else batches_for_line(peaks, budget, clips)


def _extrapolate(kind: str, candidate: Candidate, clips: int, points: list[int], settings: BenchSettings) -> _Known:
    found: list[Measured] = [measure(kind, candidate, settings, n, settings.rounds + 1) for n in points]
    rounds = [fit_line(points, list(seconds)).at(clips) for seconds in zip(*(m.seconds for m in found), strict=True)]
    return _Known(rounds, round(fit_line(points, [m.peak for m in found]).at(clips)), points=points)


def _work(kind: str, found: list[Candidate], clips: int, settings: BenchSettings) -> dict[str, TrainStep | Inference]:
    """The candidates' work on shared weights: one set in each memory layout, one optimiser for each set and kind."""
    audio, base = audio_network(settings), build_model(settings).train(kind == "train")
    batch = make_batch(settings, base.config, audio, clips)
    shared: dict[bool, dict] = {}
    optimizers: dict[tuple, torch.optim.Optimizer] = {}
    work: dict[str, TrainStep | Inference] = {}
    for candidate in found:
        module = dress(copy.deepcopy(base), candidate, audio)
        share_parameters(module, shared.setdefault(candidate.channels_last, {}))
        if kind == "inference":
            work[candidate.name] = Inference(module, candidate, batch, settings)
            continue
        key = candidate.form, candidate.channels_last
        if key not in optimizers:
            optimizers[key] = make_optimizer(module.parameters(), candidate)
            prefill_state(optimizers[key])
        work[candidate.name] = TrainStep(module, candidate, batch, settings, optimizers[key])
    return work


def _demand(kind: str, found: list[Candidate], known: dict[str, _Known], clips: int, settings: BenchSettings) -> None:
    """FLOPs and traffic of the reference and of ours, counted on one clip: both grow with the clips."""
    audio, base = audio_network(settings), build_model(settings).train(kind == "train")
    batch = make_batch(settings, base.config, audio, 1)
    for name in (REFERENCE, OURS):
        candidate = next(c for c in found if c.name == name)
        module = dress(plain_attention(base), candidate, audio)
        if kind == "inference":
            flops, traffic = demand(Inference(module, candidate, batch, settings))
        else:
            step = TrainStep(module, candidate, batch, settings)
            flops, traffic = demand(lambda step=step: step.forward()[1]["loss"].backward())
        known[name].flops, known[name].traffic = flops * clips, traffic * clips
    for candidate in found:  # options change neither, as far as products go; checkpointing runs some of them again
        if candidate.form == "ours" and not candidate.checkpointing:
            known[candidate.name].flops = known[OURS].flops


def _time(kind: str, fits: list[Candidate], known: dict[str, _Known], clips: int, settings: BenchSettings) -> None:
    work = _work(kind, fits, clips, settings)
    _compare(work, known)
    seconds = interleave(work, settings.rounds if kind == "train" else 3 * settings.rounds, warmup=0)
    for name, found in seconds.items():
        known[name].seconds = found


def _compare(work: dict[str, TrainStep | Inference], known: dict[str, _Known]) -> None:
    """Each candidate's error against ours; ours has that of the float32 reference. It also warms the candidates up."""
    look = _look_train if isinstance(work[OURS], TrainStep) else _look_inference
    ours, strict = look(work[OURS]), work[OURS].candidate.against
    for name, run in work.items():
        if name != OURS:
            known[name].errors = _relative(look(run), ours)
    if strict in work:
        known[OURS].errors = dict(known[strict].errors)


def _look_train(step: TrainStep) -> dict[str, Tensor]:
    """Loss, logits and gradients of a step that moves no weight."""
    output, losses = step.forward()
    with step.candidate.precision(step.settings.device):
        losses["loss"].backward()
    gradient = [(n, p.grad) for n, p in step.module.named_parameters() if p.grad is not None]
    found = {
        "loss": losses["loss"].detach().float(),
        "logits": output.logits.detach().float(),
        "gradient": torch.cat([g.flatten().float() for _, g in sorted(gradient, key=lambda pair: pair[0])]),
    }
    step.module.zero_grad(set_to_none=True)
    return found


def _look_inference(run: Inference) -> dict[str, Tensor]:
    logits = run().float()
    return {"logits": logits, "probability": logits.sigmoid()}


def _relative(found: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, float]:
    """||found - ours|| / ||ours||, quantity by quantity."""
    return {k: float((found[k] - v).norm() / v.norm().clamp(min=1e-30)) for k, v in ours.items()}


def _row(case: str, c: Candidate, known: dict[str, _Known], clips: int, settings: BenchSettings) -> Row:
    k, against = known[c.name], known[c.against]
    rates = {name: spread(x).median for name, x in ceilings(settings.device, settings.quick).items()}
    seconds = spread(k.seconds)
    precision = "bfloat16" if c.bf16 else "tf32" if c.tf32 == "all" and settings.device == "cuda" else "float32"
    # an extrapolated reference was not timed in the same rounds, and may have fewer
    steps = against.seconds
    if len(steps) != len(k.seconds):
        steps = [spread(steps).median] * len(k.seconds)
    return Row(
        case=case,
        name=c.name,
        batch=clips,
        seconds=seconds,
        clips_per_second=clips / seconds.median,
        ratio=None if c.against == c.name or c.name == REFERENCE else ratios(steps, k.seconds),
        peak_bytes=k.peak,
        peak_ratio=against.peak / k.peak if c.form == "ours" and k.peak and against.peak else None,
        flops=k.flops,
        traffic_bytes=k.traffic,
        matmul_share=k.flops / seconds.median / rates[precision] if k.flops else None,
        memory_share=k.traffic / seconds.median / rates["memory"] if k.traffic else None,
        errors=k.errors,
        extrapolated_from=k.points,
        values={} if c.against == REFERENCE else {"against": c.against},
    )
