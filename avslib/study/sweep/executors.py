"""Where the runs of a sweep are executed: in this process, in worker processes here, or on a cluster, all by Dask."""

import importlib.util
import logging
import shutil
import signal
import threading
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

# (job, None): it starts; (job, what `run_job` returned, or the exception that kept it from returning); (None, None):
# a moment has passed
Event = tuple[Job | None, dict[str, Any] | BaseException | None]

GB = 10**9
# seconds without any worker before a sweep gives up; a queue (slurm) may take any time
PATIENCE = 120.0
# seconds that a scheduler has to answer
CONNECT = 20.0
MARKER = ".sweep"
INSTALL = 'install it by `python -m pip install "avslib[sweep]"`'


def check_executor(executor: str, processes: int | None = None) -> None:
    """Refuse an executor that there is none of, or that cannot work here.

    Raises:
        AvsError: unknown name, missing package, or no ``sbatch`` for slurm.
    """
    known = executor in ("serial", "local", "slurm") or executor.removeprefix("dask://").rpartition(":")[2].isdigit()
    if not known or (":" in executor and not executor.startswith("dask://")):
        raise UsageError(f"executor {executor!r}: expected local, serial, dask://HOST:PORT or slurm")
    if processes is not None and processes < 1:
        raise UsageError(f"processes is {processes}; expected a number from 1 on")
    if executor != "serial" and importlib.util.find_spec("distributed") is None:
        raise InstallError(f"executor {executor}: needs Dask's distributed; {INSTALL}, or use serial")
    if executor == "slurm":
        if importlib.util.find_spec("dask_jobqueue") is None:
            raise InstallError(f"executor slurm: needs dask-jobqueue; {INSTALL}")
        if shutil.which("sbatch") is None:
            raise InstallError(
                "executor slurm: there is no sbatch command here; start it on a login node of the cluster"
            )


def execute(
    executor: str,
    todo: Sequence[Job],
    call: Callable[[Job], dict[str, Any]],
    *,
    grid: Grid,
    root: Path,
    work: Path,
    processes: int | None = None,
    console: Console | None = None,
    started: Callable[[int], None] = lambda workers: None,
) -> Iterator[Event]:
    """Execute ``call(job)`` for every job, in order as far as there are workers, and tell what happens.

    Args:
        executor: serial, local, dask://HOST:PORT or slurm.
        call: `run_job` with its folders; sent to workers by pickle.
        root: folder of the data, which every worker must see; so must it see `work`.
        processes: how many at once, in place of what cores and memory allow.
        started: told how many work at once.

    Raises:
        AvsError: no scheduler or no worker answers, or a worker does not see the data.
    """
    check_executor(executor, processes)
    console = console or Console(quiet=True)
    if executor == "serial":
        started(1)
        for job in todo:
            yield job, None
            yield job, call(job)
        return
    with _client(executor, grid, len(todo), processes, console) as (client, replace):
        _see_the_same(client, root, work)
        yield from _run(client, todo, call, executor, replace, started)


def process_count(threads: int, memory_gb: float, jobs: int) -> int:
    """How many runs at once: no more than cores, free memory and jobs allow, and at least one."""
    from dask.system import CPU_COUNT

    return max(1, min(CPU_COUNT // threads, int(_free_memory() / (memory_gb * GB)), jobs))


def _free_memory() -> int:
    """Bytes; a container's limit counts."""
    from distributed.system import MEMORY_LIMIT

    return min(psutil.virtual_memory().available, MEMORY_LIMIT)


@contextmanager
def _client(executor: str, grid: Grid, jobs: int, processes: int | None, console: Console) -> Iterator[tuple]:
    """A Dask client with its workers, and what starts lost ones again where nothing else does (slurm), else None."""
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(_quiet_logs())
        if executor.startswith("dask://"):
            address = "tcp://" + executor.removeprefix("dask://")
            try:
                client = stack.enter_context(Client(address, timeout=CONNECT))
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError:
                raise SweepError(
                    f"{executor}: the scheduler has no workers; start some by `dask worker {address} --nthreads 1`"
                ) from None
            except OSError as error:
                raise SweepError(
                    f"{executor}: no scheduler answers there ({error.__class__.__name__}); start one by "
                    "`dask scheduler`"
                ) from None
            yield client, None
            return
        stack.enter_context(
            dask.config.set(
                {
                    # a run goes on from its saved state, so that a second try is worth it, and a third is not
                    "distributed.scheduler.allowed-failures": 1,
                    # a worker that paused or spilled would wait for ever; too large a one is stopped instead
                    "distributed.worker.memory.target": False,
                    "distributed.worker.memory.spill": False,
                    "distributed.worker.memory.pause": False,
                    # Dask has malloc give back every free page, which makes a training step half as long again
                    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": grid.threads},
                    # samples the stack a hundred times a second; torch's is deep
                    "distributed.worker.profile.enabled": False,
                }
            )
        )
        cluster = stack.enter_context(_closing((_slurm if executor == "slurm" else _local)(grid, jobs, processes)))
        client = stack.enter_context(Client(cluster))
        if importlib.util.find_spec("bokeh") and cluster.dashboard_link:
            console.print(f"Dask dashboard: {cluster.dashboard_link}", soft_wrap=True)
        if executor == "local":
            client.register_plugin(_ignore_interrupt(), name="ignore-interrupt")
            yield client, None
            return
        submit = partial(_submit, cluster, processes or jobs)
        submit()
        console.print(f"slurm: {processes or jobs} jobs are queued; waiting for the first one to start")
        client.wait_for_workers(1)
        yield client, submit


@contextmanager
def _closing(cluster: Any) -> Iterator[Any]:
    try:
        yield cluster
    finally:
        try:
            cluster.close()
        except AssertionError:  # Dask expects that every job had begun; one that sbatch refused had not
            cluster.shutdown_on_close = False


def _local(grid: Grid, jobs: int, processes: int | None) -> Any:
    from distributed import LocalCluster

    number = processes or process_count(grid.threads, grid.memory_gb, jobs)
    try:
        return LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            # what is there is shared out, so that one run that grows is stopped before the machine is full
            memory_limit=max(int(grid.memory_gb * GB), _free_memory() // number),
            dashboard_address="127.0.0.1:0" if importlib.util.find_spec("bokeh") else None,
            env={"OMP_NUM_THREADS": str(grid.threads)},
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError:
        raise SweepError(
            "executor local: the worker processes do not start; a script must call sweep() under `if "
            "__name__ == '__main__':`, and serial needs no workers"
        ) from None


def _slurm(grid: Grid, jobs: int, processes: int | None) -> Any:
    before = signal.getsignal(signal.SIGINT)
    from dask_jobqueue import SLURMCluster

    # its import makes Ctrl-C a silent exit of the whole process
    signal.signal(signal.SIGINT, before)
    options = {"cores": grid.threads, "processes": 1, "memory": f"{grid.memory_gb}GB"} | grid.slurm
    try:
        return SLURMCluster(**options)
    except (TypeError, ValueError) as error:
        raise SweepError(f"grid {grid.name}, slurm: {error}; see dask_jobqueue.SLURMCluster for the options") from None


def _submit(cluster: Any, number: int) -> None:
    """Have so many jobs in the queue; those that died or ran out of time are submitted again."""
    # as cluster.scale(number), which keeps what sbatch says to itself
    while len(cluster.worker_spec) < number:
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(cluster._correct_state)
    except RuntimeError as error:
        told = " ".join(str(error).partition("stderr:")[2].split()) or str(error)
        raise SweepError(f"executor slurm: sbatch refuses the job ({told}); correct slurm: in the grid") from None


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """What Dask logs about lost workers is told by the sweep itself, in one line."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _ignore_interrupt() -> Any:
    """A plugin of workers here: Ctrl-C in a terminal reaches every process, and the sweep ends its workers itself."""
    from distributed import WorkerPlugin

    class IgnoreInterrupt(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return IgnoreInterrupt()


def missing_here(root: str, marker: str) -> str:
    """What this process does not see: "the data folder ..." or "the work folder ..."; "" when it sees both."""
    for path, what in ((root, "data"), (marker, "work")):
        if not Path(path).exists():
            return f"the {what} folder {path if what == 'data' else Path(path).parent}"
    return ""


def _see_the_same(client: Any, root: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    marker = work / MARKER
    marker.touch()
    try:
        found = client.run(missing_here, str(root), str(marker))
    except Exception as error:  # whatever unpickling and importing may raise over there
        raise SweepError(
            f"the workers cannot run avslib ({type(error).__name__}: {error}); install the same version there"
        ) from None
    finally:
        marker.unlink(missing_ok=True)
    for address, missing in found.items():
        if missing:
            raise SweepError(
                f"worker {address} does not see {missing}; every worker must see data, work folder and "
                "results under the same paths"
            )


def _run(
    client: Any, todo: Sequence[Job], call: Callable, executor: str, replace: Callable | None, started: Callable
) -> Iterator[Event]:
    from distributed import wait

    waiting, running, seen = deque(todo), {}, time.monotonic()
    while waiting or running:
        try:
            workers = len(client.nthreads())
        except Exception as error:  # Dask raises its own, OSError, TimeoutError, ...
            raise SweepError(
                f"{executor}: the scheduler is gone ({type(error).__name__}); start it and give the same "
                "command again: finished runs are kept"
            ) from None
        started(workers)
        seen = time.monotonic() if workers else seen
        if replace is not None:
            replace()
        elif time.monotonic() - seen > PATIENCE:
            raise SweepError(
                f"{executor}: no worker for {PATIENCE:.0f} s; start workers and give the same command "
                "again: finished runs are kept"
            )
        # no more than can run: a worker that dies takes no waiting job with it, and the order is kept
        while waiting and len(running) < workers:
            job = waiting.popleft()
            running[client.submit(call, job, key=f"{job.id}-{time.monotonic_ns()}", pure=False)] = job
            yield job, None
        with suppress(TimeoutError):
            if running:
                wait(list(running), timeout=1, return_when="FIRST_COMPLETED")
            else:
                time.sleep(0.5)
        for future in [future for future in running if future.done()]:
            yield running.pop(future), _outcome(future)
        yield None, None


def _outcome(future: Any) -> dict[str, Any] | BaseException:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return WorkerError(
            f"the worker process died {error.allowed_failures + 1} times at this run, for want of "
            "memory (see memory_gb) or by a crash in native code"
        )
    except BaseException as error:  # CancelledError is one of those
        if isinstance(error, KeyboardInterrupt):
            raise
        return error
