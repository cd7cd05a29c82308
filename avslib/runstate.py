"""What a training run keeps on disk while it lasts: the state that --resume goes on from, and the history."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from avslib.config import Config
from avslib.distributed import world_size
from avslib.errors import OutputError, RunStateError
from avslib.files import atomic_path

__all__ = ["HISTORY", "STATE", "History", "RunState"]

STATE, HISTORY = "state.pt", "history.csv"
# a resumed run may have others: they change no step, or they are the way out of what ended the run
FREE = ("data.workers", "data.timeout", "data.max_corrupt", "data.cache", "train.checkpoint_every",
        "train.checkpointing", "train.micro_batch", "train.nonfinite", "train.max_skipped")  # fmt: skip


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        step: optimiser steps done.
        best_epoch, best_j: the epoch (from 0) with the best J on val, and that J.
        seconds: time spent in earlier processes of the same run.
        sums: loss parts summed since the last row of the history.
        processes: how many train together.
        faults: what the run survived, see `avslib.faults`.
        micro_batch: clips that go through the network at once, where memory did not hold more (``auto``).
    """

    step: int = 0
    best_epoch: int = 0
    best_j: float = -1.0
    seconds: float = 0.0
    sums: dict[str, Tensor | float] = field(default_factory=dict)
    processes: int = field(default_factory=world_size)
    faults: list[dict[str, str | int]] = field(default_factory=list)
    micro_batch: int | None = None

    def save(
        self,
        out: Path,
        config: Config,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Write ``state.pt``: this, the configuration, weights, optimiser and, with fp16, the gradients' scale."""
        state = {"config": config.model_dump(mode="json"), "run": asdict(self), "model": model.state_dict(),
                 "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None}  # fmt: skip
        with atomic_path(out / STATE) as path:
            torch.save(state, path)

    @classmethod
    def open(cls, out: Path, config: Config, resume: bool) -> tuple["RunState", dict | None]:
        """A fresh state, or the one in `out` with the weights and optimiser to load.

        Raises:
            AvsError: `out` holds a run and `resume` is off, holds other files, a damaged state, another config, or a
                run of another number of processes.
        """
        if not (out / STATE).is_file():
            if out.exists() and any(out.iterdir()) and not resume:
                raise OutputError(f"{out}: the folder is not empty; choose a new one with --out")
            return cls(), None
        if not resume:
            raise OutputError(
                f"{out}: holds a run already; go on with it by --resume, or choose a new folder with --out"
            )
        try:
            state = torch.load(out / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise RunStateError(f"{out / STATE}: damaged ({type(error).__name__}); remove it to start again") from None
        # fields that a later version added were at their defaults
        earlier = Config().model_dump(mode="json")
        earlier |= {k: earlier.get(k, {}) | v if isinstance(v, dict) else v for k, v in state["config"].items()}
        differing = _first_difference(earlier, config.model_dump(mode="json"))
        if differing:
            raise RunStateError(
                f"{out}: was trained with another config ({differing} differs); resume with the same one, "
                "or choose a new folder with --out"
            )
        run = cls(**{"processes": 1} | state["run"])
        if run.processes != world_size():
            raise RunStateError(
                f"{out}: was trained by {run.processes} process(es), and now there are {world_size()}; a step would "
                "be another batch: resume with as many"
            )
        return run, state


def _first_difference(saved: dict, wanted: dict, prefix: str = "") -> str | None:
    for key, value in wanted.items():
        if isinstance(value, dict):
            inner = _first_difference(saved.get(key) or {}, value, f"{prefix}{key}.")
            if inner:
                return inner
        elif saved.get(key) != value and prefix + key not in FREE:
            return prefix + key
    return None


class History:
    """history.csv: a row every few steps and one an epoch; rows after the resumed step are dropped.

    `on_row` is told each new row after it is written; where `write` is off nothing is written or told.
    """

    FIELDS = ("step", "epoch", "lr", "loss", "seg_prior", "seg_posterior", "match_prior", "match_posterior", "kl_sv",
              "kl_sa", "divergence_c", "mi", "orthogonality", "val_J", "val_F")  # fmt: skip

    def __init__(
        self,
        path: Path,
        step: int,
        write: bool = True,
        on_row: Callable[[Mapping[str, float]], None] | None = None,
    ):
        self.path, self.write, self.on_row = path, write, on_row
        if not write:
            return
        kept = []
        if step and path.is_file():
            with open(path, newline="", encoding="utf-8") as stream:
                kept = [row for row in csv.DictReader(stream) if row["step"].isdigit() and int(row["step"]) <= step]
        with atomic_path(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)

    def add(self, **values: float) -> None:
        """Append a row; it is on disk when this returns."""
        if self.write:
            text = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
            with open(self.path, "a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, self.FIELDS, restval="", lineterminator="\n").writerow(text)
            if self.on_row:
                self.on_row(values)
