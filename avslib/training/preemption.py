"""Ending a training when the system takes the machine back: SLURM, Colab and spot machines send SIGTERM before."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StopRequest:
    """Whether the system has asked to end."""

    requested: bool = False


@contextmanager
def on_sigterm() -> Iterator[StopRequest]:
    """Note the first SIGTERM in place of dying of it; a second one acts as it would have before.

    Outside the main thread, where Python lets nobody handle signals, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(*_: object) -> None:
        request.requested = True
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
