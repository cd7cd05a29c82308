"""What a training step spends its time on: the ten most expensive operations, and how long the device was busy."""

import time

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.candidates import candidates
from benchmarks.record import BenchSettings, Row, spread
from benchmarks.timing import OURS
from benchmarks.work import start

TOP, STEPS = 10, 3


def section_profile(settings: BenchSettings) -> list[Row]:
    """The top ten of ours in float32 and in bfloat16, by the time on the device that an operation itself takes.

    The first row of each is the step as a whole: its wall time with the profiler, and the share of it in which the
    device was busy; the rest is the device waiting for the host.
    """
    known = {c.name: c for c in candidates(settings, training=True)}
    return [row for name in (OURS, "ours, bf16") for row in _rows(known[name], settings)]


def _rows(candidate, settings: BenchSettings) -> list[Row]:
    cuda = settings.device == "cuda"
    step = start("train", candidate, settings, settings.batch)
    for _ in range(2):
        step()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as found:
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        if cuda:
            torch.cuda.synchronize()
        wall = (time.perf_counter() - began) / STEPS
    # an operation's kernels are events of their own, which would count twice
    events = [e for e in found.key_averages() if e.device_type == torch.autograd.DeviceType.CPU]
    own = {e.key: (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1e6 / STEPS for e in events}
    busy, calls = sum(own.values()), {e.key: e.count / STEPS for e in events}
    case, name = f"operations of a training step, batch {settings.batch}", candidate.name
    rows = [
        Row(case=case, name=name, batch=settings.batch, seconds=spread([wall]), values={"device busy": busy / wall})
    ]
    for key in sorted(own, key=own.__getitem__, reverse=True)[:TOP]:
        values = {"share of the device's time": own[key] / busy, "calls": calls[key]}
        rows.append(Row(case=case, name=f"{name}: {key}", seconds=spread([own[key]]), values=values))
    return rows
