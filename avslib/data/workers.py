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
from typing import Any

from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from avslib.errors import WorkerError

__all__ = ["RESTARTS", "TIMEOUT", "lasting"]

RESTARTS = 3  # in one pass over the data
TIMEOUT = 600  # seconds

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
    while True:
        reader = skip_first_batches(loader, done) if done else loader
        try:
            for batch in reader:
                with _no_news():
                    yield batch
                done += 1
            return
        except RuntimeError as error:
            reason = _reason(error)
            if reason is None:
                raise
        # the other workers of the dead one end with the iterator
        getattr(reader, "base_dataloader", reader)._iterator = None
        died += 1
        if died > restarts:
            raise WorkerError(
                f"data workers ended {died} times in one pass, the last time so: {reason}; mostly memory ran out: "
                f"lower data.workers (now {loader.num_workers}), 0 reads in the training process"
            )
        logger.warning("%s; starting new workers from batch %d", reason, done)
        on_restart(reason)


def _reason(error: RuntimeError) -> str | None:
    """What happened to a worker, where that is what torch means by its RuntimeError."""
    text = " ".join(str(error).split())
    if match := re.match(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", text):
        signal_name = re.search(r"killed by signal: ([\w ]+)\.", text)
        return f"data worker {match[1]} " + (f"was killed ({signal_name[1]})" if signal_name else "ended")
    if match := re.match(r"DataLoader timed out after (\d+)", text):
        return f"no data worker gave a batch in {match[1]} seconds"
    return "the thread that pins memory ended" if text.startswith("Pin memory thread exited") else None


@contextmanager
def _no_news() -> Iterator[None]:
    """Keep the death of a worker back while the batch is used.

    torch raises it out of a signal handler, wherever the program is: in the middle of an optimiser's step, weights
    would be changed by halves.
    """
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    late: list[tuple] = []
    signal.signal(signal.SIGCHLD, lambda *arguments: late.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
    if late:
        handler(*late[0])
