"""Where the runs of a sweep are executed: in this process, or by Dask in worker processes here or on a cluster."""

import importlib.util
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from avslib.core.errors import InstallError, SweepError, UsageError, WorkerError
from avslib.study.sweep.grid import Grid, Job

GB = 10**9
PATIENCE = 120.0  # seconds without any worker before a sweep gives up; a queue (slurm) may take any time
CONNECT = 20.0  # seconds that a scheduler has to answer
SETTINGS = {
    # an interrupted run resumes from its saved state, so a second try is worth it; a third is not
    "distributed.scheduler.allowed-failures": 1,
    # a worker that paused or spilled would wait forever; one that grows too large is stopped instead
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # it samples the stack a hundred times per second, and torch's is deep
    "distributed.worker.profile.enabled": False,
}


def check_executor(executor: str, processes: int | None = None) -> None:
    """Raise an AvsError for an unknown executor, or one whose packages are not installed."""
    address, _, port = executor.rpartition(":")
    if executor not in ("serial", "local", "slurm") and not (address.startswith("dask://") and port.isdigit()):
        raise UsageError(f"executor {executor!r}: expected local, serial, dask://HOST:PORT or slurm")
    if processes is not None and processes < 1:
        raise UsageError(f"processes is {processes}; expected at least 1")
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
    from distributed import CancelledError, KilledWorker, wait

    with _client(executor, grid, len(todo), processes, console) as (client, requeue):
        _await_worker(client, executor, requeue)
        for folder in folders:
            if blind := [worker for worker, seen in client.run(os.path.isdir, str(folder)).items() if not seen]:
                raise SweepError(
                    f"worker {blind[0]} does not see {folder}; all need the same data, work and out folders"
                )
        waiting, running = deque(todo), {}
        while waiting or running:
            _await_worker(client, executor, requeue)
            # no more than can run: a worker that dies takes no waiting job with it, and the order is kept
            while waiting and len(running) < len(client.nthreads()):
                job = waiting.popleft()
                running[client.submit(call, job, key=f"{job.id}-{time.monotonic_ns()}")] = job
            try:
                wait(list(running), timeout=1, return_when="FIRST_COMPLETED")
            except TimeoutError:
                continue
            except (CancelledError, OSError):
                raise SweepError(f"{executor}: lost the scheduler; start it and repeat the command") from None
            for future in [future for future in running if future.done()]:
                error = future.exception()
                if isinstance(error, KilledWorker):
                    died = f"the worker process died {error.allowed_failures + 1} times in this run"
                    error = WorkerError(f"{died}: out of memory (see memory_gb) or a crash in native code")
                yield running.pop(future), error or future.result()


def process_count(threads: int, memory_gb: float, jobs: int) -> int:
    """How many runs at once: no more than cores, free memory and jobs allow, and at least one."""
    from dask.system import CPU_COUNT

    return max(1, min(CPU_COUNT // threads, int(_free_memory() / (memory_gb * GB)), jobs))


def _free_memory() -> int:
    """Bytes; the limit of a container counts."""
    from distributed.system import MEMORY_LIMIT

    return min(psutil.virtual_memory().available, MEMORY_LIMIT)


@contextmanager
def _client(executor: str, grid: Grid, jobs: int, processes: int | None, console: Console) -> Iterator[tuple]:
    """A Dask client, and a function that submits the lost jobs of a queue again."""
    import dask
    from distributed import Client, LocalCluster

    logger, requeue = logging.getLogger("distributed"), lambda: None
    with ExitStack() as stack:
        # the sweep itself reports a lost worker, in one line
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        # in place of Dask's own, which has malloc return every free page: a training step takes half as long again
        environment = {"distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": grid.threads}}
        stack.enter_context(dask.config.set(SETTINGS | environment))
        if executor == "local":
            number = processes or process_count(grid.threads, grid.memory_gb, jobs)
            # free memory is shared out, so one run that grows is stopped before the machine is full
            memory = max(int(grid.memory_gb * GB), _free_memory() // number)
            options = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
            cluster = LocalCluster(n_workers=number, threads_per_worker=1, memory_limit=memory, **options)
            stack.callback(cluster.close)
        elif executor == "slurm":
            cluster, number = _slurm(grid), processes or jobs
            stack.callback(suppress(AssertionError)(cluster.close))  # it expects that sbatch accepted every job
            requeue = lambda: _submit(cluster, number)  # noqa: E731
        else:
            cluster = f"tcp://{executor.removeprefix('dask://')}"
        try:
            client = stack.enter_context(Client(cluster, timeout=CONNECT))
        except OSError:
            raise SweepError(f"{executor}: no scheduler answers there; start one with `dask scheduler`") from None
        console.print(f"Dask dashboard: {client.dashboard_link}", soft_wrap=True)
        yield client, requeue


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
    cluster.shutdown_on_close = False  # once is enough
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


def _await_worker(client: Any, executor: str, requeue: Callable[[], None]) -> None:
    while True:
        requeue()
        try:
            return client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            if executor != "slurm":
                hint = "start some with `dask worker ADDRESS --nthreads 1` and repeat the command"
                raise SweepError(f"{executor}: no workers for {PATIENCE:.0f} s; {hint}") from None
        except OSError:
            raise SweepError(f"{executor}: lost the scheduler; start it and repeat the command") from None
