"""Where the runs of a sweep are executed: in this process, or by Dask in worker processes here or on a cluster."""

import importlib.util
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import psutil
from rich.console import Console

from avslib.core.errors import InstallError, SweepError, UsageError
from avslib.study.sweep.grid import Grid, Job

PATIENCE = 20.0  # seconds that a scheduler and its first worker have to answer; a queue (slurm) may take any time


def check_executor(executor: str) -> None:
    """Raise an AvsError for an unknown executor, or one whose packages are not installed."""
    address, _, port = executor.rpartition(":")
    if executor not in ("serial", "local", "slurm") and not (address.startswith("dask://") and port.isdigit()):
        raise UsageError(f"executor {executor!r}: expected local, serial, dask://HOST:PORT or slurm")
    package = "dask_jobqueue" if executor == "slurm" else "distributed"
    if executor != "serial" and importlib.util.find_spec(package) is None:
        raise InstallError(f"executor {executor}: needs {package}; install avslib[sweep] by pip, or use serial")


def execute(
    executor: str, todo: Sequence[Job], call: Callable[[Job], Any], grid: Grid, processes: int | None, console: Console
) -> Iterator[tuple[Job, Callable[[], Any]]]:
    """Run ``call(job)`` for every job; yields each job as it ends, and a function that returns or raises its result.

    `processes`: how many at once; None: what cores and memory allow. Raises AvsError when nobody answers.
    """
    if executor == "serial":
        yield from ((job, partial(call, job)) for job in todo)
        return
    import dask
    from distributed import Client, LocalCluster, as_completed

    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.scheduler.worker-saturation": 1.0,
        # in place of Dask's own, which has malloc return every free page: a training step takes half as long again
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": grid.threads},
        # it samples the stack a hundred times per second, and torch's is deep
        "distributed.worker.profile.enabled": False,
    }
    with dask.config.set(settings), ExitStack() as stack:
        cluster: Any = f"tcp://{executor.removeprefix('dask://')}"
        if executor == "local":
            options = {"dashboard_address": "127.0.0.1:0", "memory_limit": 0, "silence_logs": logging.CRITICAL}
            number = processes or process_count(grid, len(todo))
            cluster = stack.enter_context(LocalCluster(n_workers=number, threads_per_worker=1, **options))
        elif executor == "slurm":
            before = signal.getsignal(signal.SIGINT)
            from dask_jobqueue import SLURMCluster

            signal.signal(signal.SIGINT, before)  # its import makes Ctrl-C a silent exit of the whole process
            options = {"cores": grid.threads, "processes": 1, "memory": f"{grid.memory_gb}GB"} | grid.slurm
            cluster = stack.enter_context(SLURMCluster(**options))
            number = processes or len(todo)
            cluster.adapt(minimum_jobs=number, maximum_jobs=number)  # unlike scale(), it replaces jobs that died
        try:
            client = stack.enter_context(Client(cluster, timeout=PATIENCE))
            console.print(f"waiting for workers; dashboard: {client.dashboard_link}", soft_wrap=True)
            client.wait_for_workers(1, timeout=None if executor == "slurm" else PATIENCE)
        except OSError:  # a TimeoutError is one
            raise SweepError(f"{executor}: no answer; start a `dask scheduler` and a `dask worker` for it") from None
        if executor == "local":
            client.run(_ignore_interrupt)
        # keys of one group: the scheduler holds back what cannot run yet, so a worker that dies takes one run with it
        keys = [(f"sweep-{time.time_ns()}", job.id) for job in todo]
        # an interrupted run resumes from its saved state, so a second try is worth it
        futures = dict(zip(client.map(call, todo, key=keys, retries=1), todo, strict=True))
        for future in as_completed(futures):
            if future.cancelled():
                raise SweepError(f"{executor}: lost the scheduler; start it and repeat the command")
            yield futures[future], future.result


def _ignore_interrupt() -> None:
    # Ctrl-C reaches every process of a terminal, and the sweep ends its workers itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def process_count(grid: Grid, jobs: int) -> int:
    """How many runs at once: no more than cores, available memory and jobs allow, and at least one."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT  # of the container

    free = min(psutil.virtual_memory().available, MEMORY_LIMIT)
    return max(1, min(CPU_COUNT // grid.threads, int(free / (grid.memory_gb * 10**9)), jobs))
