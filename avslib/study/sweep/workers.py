"""Where the runs of a sweep are executed: in this process, or by Dask in worker processes here or on a cluster."""

import importlib.util
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from avslib.core.errors import InstallError, SweepError, UsageError, WorkerError
from avslib.study.sweep.grid import Grid, Job

PATIENCE = 20.0  # seconds that a scheduler and its first worker have to answer; a queue (slurm) may take any time


def check_executor(executor: str) -> None:
    """Raise an AvsError for an unknown executor, or one whose packages are not installed."""
    address, _, port = executor.rpartition(":")
    if executor not in ("serial", "local", "slurm") and not (address.startswith("dask://") and port.isdigit()):
        raise UsageError(f"executor {executor!r}: expected local, serial, dask://HOST:PORT or slurm")
    for package in {"serial": [], "slurm": ["distributed", "dask_jobqueue"]}.get(executor, ["distributed"]):
        if importlib.util.find_spec(package) is None:
            hint = 'install it with `python -m pip install "avslib[sweep]"`, or use serial'
            raise InstallError(f"executor {executor}: needs the package {package}; {hint}")


def execute(
    executor: str,
    todo: Sequence[Job],
    call: Callable[[Job], str],
    grid: Grid,
    folders: Sequence[Path],
    processes: int | None,
    console: Console,
) -> Iterator[tuple[Job, str | BaseException]]:
    """Run ``call(job)`` for every job; yields each job as it ends, with what it returned or why it did not return.

    `call` is sent to workers by pickle. Every worker must see `folders`. `processes`: how many runs at once; None: what
    cores and memory allow. Raises AvsError when no scheduler or worker answers, or a worker does not see a folder.
    """
    if executor == "serial":
        yield from ((job, call(job)) for job in todo)
        return
    from distributed import CancelledError, wait

    with _client(executor, grid, processes, len(todo), console) as (client, requeue):
        for folder in folders:
            if blind := [worker for worker, seen in client.run(os.path.isdir, str(folder)).items() if not seen]:
                raise SweepError(
                    f"worker {blind[0]} does not see {folder}; all need the same data, work and out folders"
                )
        waiting, running = deque(todo), {}
        try:
            while waiting or running:
                requeue()
                # no more than can run: a worker that dies takes no waiting job with it, and the order is kept
                while waiting and len(running) < len(client.nthreads()):
                    job = waiting.popleft()
                    running[client.submit(call, job, key=f"{job.id}-{time.monotonic_ns()}")] = job
                with suppress(TimeoutError):
                    wait(list(running), timeout=1, return_when="FIRST_COMPLETED")
                for future in [future for future in running if future.done()]:
                    yield running.pop(future), _outcome(future)
        except (CancelledError, OSError):
            raise SweepError(f"{executor}: lost the scheduler; start it and repeat the command") from None


def _outcome(future: Any) -> str | BaseException:
    from distributed import KilledWorker

    error = future.exception()
    if isinstance(error, KilledWorker):
        died = f"the worker process died {error.allowed_failures + 1} times in this run"
        return WorkerError(f"{died}: out of memory (see memory_gb) or a crash in native code")
    return error or future.result()


@contextmanager
def _client(executor: str, grid: Grid, processes: int | None, jobs: int, console: Console) -> Iterator[tuple]:
    """A Dask client that has a worker, and a function that submits lost jobs of a queue again."""
    import dask
    from distributed import Client, LocalCluster

    settings = {
        # an interrupted run resumes from its saved state, so a second try is worth it; a third is not
        "distributed.scheduler.allowed-failures": 1,
        # in place of Dask's own, which has malloc return every free page: a training step takes half as long again
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": grid.threads},
        # it samples the stack a hundred times per second, and torch's is deep
        "distributed.worker.profile.enabled": False,
    }
    cluster, requeue = f"tcp://{executor.removeprefix('dask://')}", lambda: None
    logger = logging.getLogger("distributed")
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        # the sweep itself reports a lost worker, in one line
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        if executor == "local":
            number = processes or process_count(grid, jobs)
            options = {"memory_limit": 0, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
            cluster = stack.enter_context(LocalCluster(n_workers=number, threads_per_worker=1, **options))
        elif executor == "slurm":
            cluster = _slurm(grid)
            stack.callback(_close, cluster)
            requeue = partial(_submit, cluster, processes or jobs)
            requeue()
        try:
            client = stack.enter_context(Client(cluster, timeout=PATIENCE))
            console.print(f"waiting for workers; dashboard: {client.dashboard_link}", soft_wrap=True)
            client.wait_for_workers(1, timeout=None if executor == "slurm" else PATIENCE)
        except TimeoutError:
            raise SweepError(f"{executor}: no workers; start some with `dask worker ADDRESS --nthreads 1`") from None
        except OSError:
            raise SweepError(f"{executor}: no scheduler answers there; start one with `dask scheduler`") from None
        if executor == "local":
            client.run(_ignore_interrupt)
        yield client, requeue


def _ignore_interrupt() -> None:
    """In a worker: Ctrl-C reaches every process of a terminal, and the sweep ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def process_count(grid: Grid, jobs: int) -> int:
    """How many runs at once: no more than cores, free memory and jobs allow, and at least one."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT  # of the container

    free = min(psutil.virtual_memory().available, MEMORY_LIMIT)
    return max(1, min(CPU_COUNT // grid.threads, int(free / (grid.memory_gb * 10**9)), jobs))


def _slurm(grid: Grid) -> Any:
    before = signal.getsignal(signal.SIGINT)
    from dask_jobqueue import SLURMCluster

    # its import makes Ctrl-C a silent exit of the whole process
    signal.signal(signal.SIGINT, before)
    options = {"cores": grid.threads, "processes": 1, "memory": f"{grid.memory_gb}GB"} | grid.slurm
    try:
        cluster = SLURMCluster(**options)
    except (TypeError, ValueError) as error:
        raise SweepError(f"grid {grid.name}, slurm: {error}; see dask_jobqueue.SLURMCluster for the options") from None
    cluster.shutdown_on_close = False  # `_close` does it
    return cluster


def _submit(cluster: Any, number: int) -> None:
    """Keep `number` jobs in the queue; those that died or ran out of time are submitted again."""
    # as cluster.scale(number), which hides what sbatch says and leaves lost jobs lost
    while len(cluster.worker_spec) < number:
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(cluster._correct_state)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).partition("stderr:")[2].split()) or str(error)
        raise SweepError(f"executor slurm: sbatch refuses the job ({reason}); correct slurm: in the grid") from None


def _close(cluster: Any) -> None:
    with suppress(AssertionError):  # Dask expects that every job had begun; one that sbatch refused had not
        cluster.close()
