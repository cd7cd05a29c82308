"""A loss that is not finite ends a training, with the batch that it came from kept for inspection."""

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avslib.distributed import rank
from avslib.errors import NonFiniteError
from avslib.files import atomic_path

__all__ = ["NONFINITE", "FiniteWatch"]

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
        first = next(((n, batch) for n, batch, loss in self.recent if not math.isfinite(loss)), None)
        saved = ""
        if first is not None:
            path = out / NONFINITE.format(rank=rank())
            tensors = {name: value for name, value in first[1].items() if isinstance(value, Tensor)}
            with atomic_path(path) as part:
                torch.save({"step": first[0], "clips": list(first[1]["name"]), "batch": tensors}, part)
            saved = f" The batch of step {first[0]}, where it began, is in {path}."
        raise NonFiniteError(
            f"step {step}: {bad} is not finite; lower train.lr or set train.clip_grad.{saved} "
            f"The last saved state is in {out}"
        )
