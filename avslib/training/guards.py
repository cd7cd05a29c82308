"""What ends a training early: SIGTERM, a loss that is not finite, too many corrupt clips, memory, dead data workers."""

import math
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size
from rich.console import Console
from torch import Tensor

from avslib.config import Config
from avslib.core.errors import MemoryLimitError, NonFiniteError, Preempted, WorkerError
from avslib.core.files import atomic_path
from avslib.data.loading import corrupt_clips, too_many
from avslib.training.distributed import gather_objects, rank, world_size

P = TypeVar("P", float, Tensor)
NONFINITE = "nonfinite_{rank}.pt"
CORRUPT_CLIPS = "corrupt_clips.txt"
# what libraries below torch say when memory runs out, beyond what accelerate looks for
MEMORY_WORDS = ("out of memory", "allocate memory", "ALLOC_FAILED", "could not create a primitive", "create a memory")


class StopRequest:
    """Whether the system has asked this process to end (`requested`)."""

    requested = False
    ends = False

    def agreed(self, ask: bool) -> bool:
        """Whether to end after this step. Several processes agree on it only if `ask`, since asking all takes time."""
        if ask or world_size() == 1:
            self.ends = any(gather_objects(self.requested))
        return self.ends

    def end(self, out: Path, step: int) -> None:
        """Raise `Preempted` if that was agreed on; the state must be saved."""
        if self.ends:
            raise Preempted(f"{out}: SIGTERM after step {step}; the state is saved, continue with --resume")


@contextmanager
def on_sigterm() -> Iterator[StopRequest]:
    """Note the first SIGTERM instead of dying from it (SLURM, Colab and spot machines send it before they take the
    machine back); a second one acts as usual. Python handles signals only in the main thread."""
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


class FiniteLoss:
    """Keeps the last `keep` batches with their losses, but reads them only when asked, to not wait for the device."""

    def __init__(self, out: Path, keep: int):
        self.out = out
        self.recent: deque[tuple[int, Mapping[str, Any], Tensor]] = deque(maxlen=keep)

    def see(self, step: int, batch: Mapping[str, Any], loss: Tensor) -> None:
        """Note the batch of a step as the loader gave it."""
        # a copy, unless it is in pinned memory: the workers' shared memory is scarce in containers
        kept = {k: v.clone() if isinstance(v, Tensor) and not v.is_pinned() else v for k, v in batch.items()}
        self.recent.append((step, kept, loss.detach()))

    def require(self, parts: dict[str, P], step: int) -> dict[str, P]:
        """Return `parts` if all are finite.

        Raises:
            NonFiniteError: one is not; ``nonfinite_RANK.pt`` gets the first batch whose loss is not finite.
        """
        bad = next((name for name, value in parts.items() if not math.isfinite(value)), None)
        if bad is None:
            return parts
        sentence = f"step {step}: {bad} is not finite; lower train.lr or set train.clip_grad."
        for began, batch, loss in self.recent:
            if math.isfinite(loss):
                continue
            path = self.out / NONFINITE.format(rank=rank())
            tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
            # through a Python stream, which reports a full disk
            with atomic_path(path) as part, open(part, "wb") as stream:
                torch.save({"step": began, "clips": list(batch["name"]), "batch": tensors}, stream)
            sentence += f" The batch of step {began}, where it began, is in {path}."
            break
        raise NonFiniteError(f"{sentence} The last saved state is in {self.out}")


class CorruptClips:
    """Names the train clips that cannot be read, up to ``data.max_corrupt``; others take their places.

    Args:
        known: why each cannot be read, by name; new ones are added in place.
        out: gets ``corrupt_clips.txt``, a list that ``data.skip`` takes.
    """

    def __init__(self, known: dict[str, str], config: Config, out: Path, console: Console):
        self.known, self.limit, self.out, self.console = known, config.data.max_corrupt, out, console
        self.new: dict[str, str] = {}

    def see(self, batch: Mapping[str, Any], ask: bool) -> None:
        """Report the corrupt clips of a batch; several processes do it together, and only if `ask`.

        Raises:
            BadClipsError: there are more than ``data.max_corrupt``.
        """
        self.new |= corrupt_clips(batch)
        if not ask and world_size() > 1:
            return
        found = {name: why for part in gather_objects(self.new) for name, why in part.items() if name not in self.known}
        self.new = {}
        if not found:
            return
        if len(self.known | found) > self.limit:
            raise too_many(self.known | found, self.limit)
        self.known |= found
        for name, why in found.items():
            self.console.print(f"clip {name!r} cannot be read, another takes its place ({why})", markup=False)
        if rank() == 0:
            with atomic_path(self.out / CORRUPT_CLIPS) as part:
                lines = "".join(f"# {' '.join(why.split())}\n{name}\n" for name, why in self.known.items())
                part.write_text(lines, encoding="utf-8")

    def note(self) -> str:
        """How many there were, for the run record."""
        return f"corrupt train clips left out: {len(self.known)}" if self.known else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    words = isinstance(error, RuntimeError) and any(word in str(error) for word in MEMORY_WORDS)
    return words or isinstance(error, MemoryError) or should_reduce_batch_size(error)


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Raise one sentence where memory runs out, or a data worker dies or hangs, during `what`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if re.match(r"DataLoader (worker|timed out)|Pin memory thread", first):
            raise WorkerError(
                f"{what}: a data worker died or did not answer ({first}); usually memory ran out: lower data.workers, "
                "or raise data.timeout for a slow disk, then continue with --resume"
            ) from error
        if is_out_of_memory(error):
            raise MemoryLimitError(
                f"{what}: out of memory ({first}); lower train.batch_size and raise train.accumulate in return, "
                "lower train.eval_batch_size, or set train.checkpointing=true"
            ) from error
        raise
