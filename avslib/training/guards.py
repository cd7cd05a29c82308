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
from accelerate.utils import gather_object
from rich.console import Console
from torch import Tensor

from avslib.config import Config
from avslib.core.errors import NO_MEMORY, ConfigError, MemoryLimitError, NonFiniteError, Preempted, WorkerError
from avslib.core.files import atomic_path
from avslib.data.loading import corrupt_clips, too_many
from avslib.training.distributed import rank, world_size

P = TypeVar("P", float, Tensor)
CORRUPT_CLIPS = "corrupt_clips.txt"
WORKER = r"DataLoader (worker|timed out)|Pin memory thread"


class StopOnSigterm:
    """In its block, the first SIGTERM only sets `requested`; a second one acts as usual. SLURM, Colab and spot machines
    send one before they take the machine back. (Python handles signals only in the main thread.)"""

    requested = ends = False

    def __enter__(self) -> "StopOnSigterm":
        self.before = signal.getsignal(signal.SIGTERM)
        self._handle(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle(self.before)

    def _note(self, *_: object) -> None:
        self.requested = True
        self._handle(self.before)

    def _handle(self, handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def agreed(self, ask: bool) -> bool:
        """Whether to end after this step. Several processes agree on it only if `ask`, since asking all takes time."""
        if ask or world_size() == 1:
            self.ends = any(gather_object([self.requested]))
        return self.ends

    def end(self, out: Path, step: int) -> None:
        """Raise `Preempted` if that was agreed on; the state must be saved."""
        if self.ends:
            raise Preempted(f"{out}: SIGTERM after step {step}; the state is saved, continue with --resume")


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
        """Return `parts` if all are finite. Raises NonFiniteError if not; ``nonfinite_RANK.pt`` then holds the first
        batch whose loss was not finite."""
        bad = [name for name, value in parts.items() if not math.isfinite(value)]
        if not bad:
            return parts
        sentence = f"step {step}: {bad[0]} is not finite; lower train.lr or set train.clip_grad."
        for began, batch, _ in [seen for seen in self.recent if not math.isfinite(seen[2])][:1]:
            path = self.out / f"nonfinite_{rank()}.pt"
            tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
            # through a Python stream, which reports a full disk
            with atomic_path(path) as part, open(part, "wb") as stream:
                torch.save({"step": began, "clips": list(batch["name"]), "batch": tensors}, stream)
            sentence += f" The batch of step {began}, where it began, is in {path}."
        raise NonFiniteError(f"{sentence} The last saved state is in {self.out}")


class CorruptClips:
    """Names the train clips that cannot be read, up to ``data.max_corrupt``; others take their places.

    `known` says why each cannot be read, and gets new ones in place; ``corrupt_clips.txt`` in `out` is a list that
    ``data.skip`` takes."""

    def __init__(self, known: dict[str, str], config: Config, out: Path, console: Console):
        self.known, self.limit, self.out, self.console = known, config.data.max_corrupt, out, console
        self.new: dict[str, str] = {}

    def see(self, batch: Mapping[str, Any], ask: bool) -> None:
        """Report the corrupt clips of a batch; several processes do it together, and only if `ask`. Raises
        BadClipsError if there are more than ``data.max_corrupt``."""
        self.new |= corrupt_clips(batch)
        if not ask and world_size() > 1:
            return
        found = {k: why for part in gather_object([self.new]) for k, why in part.items() if k not in self.known}
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


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Raise one sentence where, during `what`, memory runs out, a data worker dies or hangs, or an operation has no
    deterministic form."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        if re.match(WORKER, text):
            advice = "usually memory ran out: lower data.workers, or raise data.timeout for a slow disk; then --resume"
            raise WorkerError(f"{what}: a data worker died or did not answer ({text}); {advice}") from error
        if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
            advice = "lower train.batch_size and raise train.accumulate, or set train.checkpointing=true"
            raise MemoryLimitError(f"{what}: out of memory ({text}); {advice}") from error
        if match := re.search(r"(\S+) does not have a deterministic implementation", text):
            advice = "choose a different model.backbone, or leave out train.deterministic"
            raise ConfigError(f"{what}: {match[1]} has no deterministic form on this device; {advice}") from error
        raise
