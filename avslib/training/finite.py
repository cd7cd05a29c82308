"""A loss that is not finite ends a training, or its step is skipped; the batch that it came from is kept."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.core.errors import NonFiniteError
from avslib.core.files import atomic_path
from avslib.training.distributed import gather_processes, rank
from avslib.training.faults import SKIPPED, Faults

NONFINITE = "nonfinite_{rank}.pt"


class FiniteWatch:
    """Remembers the latest batches with their loss, but does not read it: the host would wait for the device each step.

    Args:
        keep: batches, at least as many as steps between two calls of `require`.
    """

    def __init__(self, keep: int):
        self.recent: deque[tuple[int, Mapping[str, Any], Tensor]] = deque(maxlen=keep)

    def see(self, step: int, batch: Mapping[str, Any], loss: Tensor) -> None:
        """Note the batch of a step as the loader gave it, on the host."""
        # a copy, unless the loader made one in pinned memory: its workers' shared memory is scarce in containers
        kept = {k: v.clone() if isinstance(v, Tensor) and not v.is_pinned() else v for k, v in batch.items()}
        self.recent.append((step, kept, loss.detach()))

    def require(self, parts: Mapping[str, Tensor | float], step: int, out: Path) -> None:
        """Return where all `parts` are finite.

        Raises:
            AvsError: one is not. The first batch whose own loss is not finite is in ``nonfinite_RANK.pt`` in `out`:
                step, clips, and its tensors by name.
        """
        bad = next((name for name, value in parts.items() if not math.isfinite(value)), None)
        if bad is None:
            return
        saved = self.keep(out)
        raise NonFiniteError(
            f"step {step}: {bad} is not finite; lower train.lr or set train.clip_grad.{saved} "
            f"The last saved state is in {out}"
        )

    def keep(self, out: Path, latest: bool = False) -> str:
        """Write the first remembered batch whose loss is not finite and say so, or nothing where all are.

        Args:
            latest: write the latest one in that case: its gradients are not finite.
        """
        first = next((seen for seen in self.recent if not math.isfinite(seen[2])), self.recent[-1] if latest else None)
        if first is None:
            return ""
        path, (step, batch, _) = out / NONFINITE.format(rank=rank()), first
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        # through a stream of Python's, which tells when the disk is full
        with atomic_path(path) as part, open(part, "wb") as stream:
            torch.save({"step": step, "clips": list(batch["name"]), "batch": tensors}, stream)
        return f" The batch of step {step}, where it began, is in {path}."


def all_finite(loss: Float[Tensor, ""], parameters: Iterable[nn.Parameter] = ()) -> bool:
    """Whether the loss and the gradients are finite in all processes. The host waits for the device."""
    finite = loss.detach().isfinite()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        finite = finite & nn.utils.get_total_norm(gradients).isfinite()
    return bool(gather_processes(finite.float()).min())


def skip_step(step: int, most: int, faults: Faults, watch: FiniteWatch, out: Path) -> None:
    """Note a skipped step, the first one with its batch; all processes do it together.

    Raises:
        NonFiniteError: more than `most` in a row.
    """
    if not faults.skipped(0, step):
        watch.keep(out, latest=True)
    faults.note(step, SKIPPED, "its loss or gradient is not finite")
    faults.agree()
    if len(faults.skipped(step - most, step)) > most:
        raise NonFiniteError(
            f"step {step}: {most + 1} steps in a row had a loss or gradient that is not finite, and train.max_skipped "
            f"is {most}; lower train.lr or set train.clip_grad. The batch of the first one is in {out}"
        )
