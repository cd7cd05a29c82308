"""Weak scaling on paper, from a step and the gradients' size; `benchmarks.scaling` states what is assumed."""

from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.candidates import OURS, Candidate, plain_attention
from benchmarks.ceilings import demand
from benchmarks.record import BenchSettings, Row
from benchmarks.scaling import gradient_bytes, project
from benchmarks.timing import interleave, spread
from benchmarks.work import TrainStep, start

# a GPU's sustained rate in training, where none is measured: an assumption, some 5 % of a data sheet's bf16 figure, as
# small kernels reach it
ASSUMED_FLOPS = 50e12


def section_scaling(settings: BenchSettings) -> list[Row]:
    """A row for 1, 2, 4, 8 and 64 processes, each with the batch of `settings`: from the step that is measured here
    and, on a CPU, from the step of a GPU that reaches `ASSUMED_FLOPS`; without and with ``train.sync_batch``."""
    step = start("train", Candidate(OURS), settings, settings.batch)
    steps = {"measured": spread(interleave({"step": step}, settings.rounds)["step"]).median}
    if settings.device == "cpu":
        steps["assumed GPU"] = _flops(step) / ASSUMED_FLOPS
    size = gradient_bytes(step.module)
    norms = sum(isinstance(module, _BatchNorm) for module in step.module.modules())
    return [
        Row(
            case=f"{name} step of {seconds:.3g} s{sync}",
            name=f"{found.processes} processes",
            batch=settings.batch,
            clips_per_second=found.clips_per_second,
            values={
                "efficiency": found.efficiency,
                "sent MB a step": found.sent_bytes / 1e6,
                "exposed ms a step": 1000 * found.exposed_seconds,
            },
        )
        for name, seconds in steps.items()
        for sync, statistics in (("", 0), (", sync_batch", norms))
        for found in project(seconds, settings.batch, size, statistics=statistics)
    ]


def _flops(step: TrainStep) -> float:
    counted = TrainStep(plain_attention(step.module), step.candidate, step.batch, step.settings)
    return demand(lambda: counted.forward()[1]["loss"].backward())[0]
