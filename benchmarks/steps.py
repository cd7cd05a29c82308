"""Whole training steps and inference: every candidate on the same weights, clips and noise, in interleaved rounds."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from avslib.core.errors import MemoryLimitError
from benchmarks.candidates import (
    Candidate,
    audio_network,
    build_model,
    candidates,
    dress,
    plain_attention,
    share_parameters,
)
from benchmarks.ceilings import demand
from benchmarks.memory import Measured, available_memory, measure
from benchmarks.record import BenchSettings, Row
from benchmarks.timing import OURS, REFERENCE, compared, interleave, line
from benchmarks.work import Inference, TrainStep, make_batch, make_optimizer, prefill_state

SHARE = 0.85  # of the available memory


def section_train(settings: BenchSettings) -> list[Row]:
    """A training step: time, peak memory, error, FLOPs and traffic of every candidate."""
    return _section("train", f"training step, batch {settings.batch}", settings.batch, settings)


def section_inference(settings: BenchSettings) -> list[Row]:
    """Inference of one clip; on a GPU, which one clip does not fill, of a batch as well."""
    sizes = sorted({1, settings.batch}) if settings.device == "cuda" else [1]
    return [row for n in sizes for row in _section("inference", f"inference, batch {n}", n, settings)]


def _section(kind: str, case: str, clips: int, settings: BenchSettings) -> list[Row]:
    found = {c.name: c for c in candidates(settings, training=kind == "train")}
    references = [c for c in found.values() if c.form == "reference"]
    large = {c.name: batches for c in references if (batches := _smaller_batches(kind, c, clips, settings))}
    if large and (batches := _smaller_batches(kind, found[OURS], clips, settings)):
        raise MemoryLimitError(
            f"avs bench: {case} of {settings.backbone} does not fit into {SHARE:.0%} of the available memory; "
            f"choose a smaller --batch, such as {batches[-1]}"
        )
    fits = [c for c in found.values() if c.name not in large]
    peaks = {c.name: measure(kind, c, settings, clips).peak for c in fits}
    lines = {
        name: through_points(clips, {n: measure(kind, found[name], settings, n, settings.rounds + 1) for n in batches})
        for name, batches in large.items()
    }
    strict = found[OURS].against
    errors = _errors(_work(kind, [found[strict], found[OURS]], 1, settings), strict) if strict in large else {}
    work = _work(kind, fits, clips, settings)
    errors |= _errors(work, strict)
    timed = interleave(work, settings.rounds if kind == "train" else 3 * settings.rounds, warmup=False)
    seconds = timed | {name: point.seconds for name, point in lines.items()}
    return compared(
        case,
        {name: seconds[name] for name in found},
        settings,
        clips=clips,
        peaks=peaks | {name: point.peak for name, point in lines.items()},
        needs=step_demand(kind, found, clips, settings),
        precision={name: c.products(settings.device) for name, c in found.items()},
        against={name: c.against for name, c in found.items()},
        errors=errors,
        extrapolated_from=large,
        values={name: {"against": c.against} for name, c in found.items() if c.against != REFERENCE},
    )


def _smaller_batches(kind: str, candidate: Candidate, clips: int, settings: BenchSettings) -> list[int]:
    """A third, two thirds and all of the largest batch that fits, where `clips` do not; else nothing."""
    if clips <= 2:
        return []
    weights = sum(p.numel() for p in build_model(settings).parameters()) * 4
    # in the rounds, two layouts of the weights, the moments of three optimisers and gradients stay in memory
    budget = SHARE * available_memory(settings.device) - (5 * weights if kind == "train" else weights)
    slope, intercept, _ = line([1, 2], [measure(kind, candidate, settings, n).peak for n in (1, 2)])
    if intercept + slope * clips <= budget:
        return []
    largest = max(1, min(clips, int((budget - intercept) / slope)))
    return sorted({max(1, largest // 3), max(1, 2 * largest // 3), largest})


def through_points(clips: int, known: dict[int, Measured]) -> Measured:
    """Seconds of each round and peak bytes at so many clips, by straight lines through the batches `known`."""

    def at_clips(values: Iterable[float]) -> float:
        slope, intercept, _ = line(list(known), list(values))
        return intercept + slope * clips

    rounds = [at_clips(values) for values in zip(*(m.seconds for m in known.values()), strict=True)]
    return Measured(round(at_clips(m.peak for m in known.values())), rounds)


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


def step_demand(
    kind: str, found: dict[str, Candidate], clips: int, settings: BenchSettings
) -> dict[str, tuple[float, float | None]]:
    """FLOPs and traffic of the reference and of ours, counted on one clip, since both grow with the clips."""
    audio, base = audio_network(settings), build_model(settings).train(kind == "train")
    batch, needs = make_batch(settings, base.config, audio, 1), {}
    for name in (REFERENCE, OURS):
        module = dress(plain_attention(base), found[name], audio)
        run = Inference(module, found[name], batch, settings)
        if kind == "train":
            run = TrainStep(module, found[name], batch, settings).backward
        flops, traffic = demand(run)
        needs[name] = flops * clips, traffic * clips
    # options change no products; checkpointing computes some of them twice
    same = [n for n, c in found.items() if c.form == OURS and not c.checkpointing and n != OURS]
    return needs | dict.fromkeys(same, (needs[OURS][0], None))


def _errors(work: dict[str, TrainStep | Inference], strict: str) -> dict[str, dict[str, float]]:
    """||found - ours|| / ||ours|| of each candidate; ours has that of the float32 reference. It also warms them up."""
    ours = _look(work[OURS])
    others = {name: _look(run) for name, run in work.items() if name != OURS}
    found = {name: {k: _relative(v, ours[k]) for k, v in look.items()} for name, look in others.items()}
    return found | ({OURS: dict(found[strict])} if strict in found else {})


def _look(run: TrainStep | Inference) -> dict[str, Tensor]:
    """Loss, logits and gradients of a step that moves no weight; or logits and probabilities."""
    if isinstance(run, Inference):
        logits = run().float()
        return {"logits": logits, "probability": logits.sigmoid()}
    output, losses = run.backward()
    gradients = sorted((n, p.grad.flatten().float()) for n, p in run.module.named_parameters() if p.grad is not None)
    run.module.zero_grad(set_to_none=True)
    found = {"loss": losses["loss"], "logits": output.logits, "gradient": torch.cat([g for _, g in gradients])}
    return {name: value.detach().float() for name, value in found.items()}


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))
