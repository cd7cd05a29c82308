"""Data workers that die or hang are started again, from the batch that is due.

A worker dies when the system runs out of memory and kills it, and hangs on a disk that does not answer. Loaders give
the same batches from any step on, so that nothing is read twice or left out.
"""

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from avslib.core.errors import WorkerError

RESTARTS = 3  # in one pass over the data
TIMEOUT = 600  # seconds
_END = object()

logger = logging.getLogger(__name__)


def lasting(
    loader: DataLoader,
    first: int = 0,
    *,
    restarts: int = RESTARTS,
    on_restart: Callable[[str], None] = lambda reason: None,
) -> Iterator[Any]:
    """Batches of one pass over `loader` from number `first` on, whatever happens to its workers.

    Args:
        restarts: how often new workers are started.
        on_restart: told each time why.

    Raises:
        WorkerError: they died once more than that.
    """
    done, died = first, 0
    with worker_deaths_kept_back():
        while True:
            reader = skip_first_batches(loader, done) if done else loader
            reason, batches = _dead(reader, None), None
            try:
                batches = None if reason else iter(reader)
                while reason is None:
                    with _deaths.told():
                        batch = next(batches, _END)
                    if batch is _END:
                        return
                    yield batch
                    done += 1
                    reason = _dead(reader, batches)
            except (RuntimeError, MemoryError) as error:
                reason = _reason(error) if loader.num_workers else None
                if reason is None:
                    raise
            _end(reader, batches)
            del reader, batches
            died += 1
            if died > restarts:
                raise WorkerError(
                    f"data workers ended {died} times in one pass, the last time so: {reason}; mostly memory ran out: "
                    f"lower data.workers (now {loader.num_workers}), 0 reads in the training process"
                )
            logger.warning("%s; starting new workers from batch %d", reason, done)
            on_restart(reason)


@contextmanager
def worker_deaths_kept_back() -> Iterator[None]:
    """Let nothing but a loop that waits for a batch hear of workers that died.

    torch raises it out of a signal handler, wherever the program is: in the middle of an optimiser's step, weights
    would be changed by halves.
    """
    _deaths.depth += 1
    try:
        yield
    finally:
        _deaths.depth -= 1
        _deaths.give_back()


class _Deaths:
    """Stands before torch's handler of SIGCHLD."""

    def __init__(self) -> None:
        self.depth, self.waiting, self.handler = 0, False, None

    @contextmanager
    def told(self) -> Iterator[None]:
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False
            self.take_over()

    def take_over(self) -> None:
        """torch sets its handler with the first worker."""
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
            handler = signal.getsignal(signal.SIGCHLD)
            if callable(handler) and handler != self.handle:
                self.handler = handler
                signal.signal(signal.SIGCHLD, self.handle)

    def give_back(self) -> None:
        if self.depth == 0 and self.handler and threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGCHLD) == self.handle:
                signal.signal(signal.SIGCHLD, self.handler)
            self.handler = None

    def handle(self, *arguments: Any) -> None:
        if self.waiting and self.handler:
            self.handler(*arguments)


_deaths = _Deaths()


def _workers(reader: DataLoader, batches: Iterator[Any] | None) -> list[BaseProcess]:
    base = getattr(reader, "base_dataloader", reader)
    return getattr(base._iterator or batches, "_workers", [])


def _dead(reader: DataLoader, batches: Iterator[Any] | None) -> str | None:
    """What happened to a worker, where one died; those that are done end with 0."""
    for worker in _workers(reader, batches):
        if worker.exitcode:
            killed = worker.exitcode < 0
            how = f"was killed ({signal.Signals(-worker.exitcode).name})" if killed else f"ended ({worker.exitcode})"
            return f"data worker {worker.pid} {how}"
    return None


def _reason(error: RuntimeError | MemoryError) -> str | None:
    """What happened to a worker, where that is what torch means by its error."""
    if isinstance(error, MemoryError):
        return "memory ran out in a data worker"
    text = " ".join(str(error).split())
    if match := re.match(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", text):
        signal_name = re.search(r"killed by signal: ([\w ]+)\.", text)
        return f"data worker {match[1]} " + (f"was killed ({signal_name[1]})" if signal_name else "ended")
    if match := re.match(r"DataLoader timed out after (\d+)", text):
        return f"no data worker gave a batch in {match[1]} seconds"
    return "the thread that pins memory ended" if text.startswith("Pin memory thread exited") else None


def _end(reader: DataLoader, batches: Iterator[Any] | None) -> None:
    """End the other workers as well: one that hangs would not heed the loader, and hold up the end of the program."""
    _deaths.take_over()
    for worker in _workers(reader, batches):
        worker.kill()
        worker.join()
    getattr(reader, "base_dataloader", reader)._iterator = None
