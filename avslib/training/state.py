"""What a training run keeps on disk while it lasts: the state that --resume goes on from, and the history."""

import csv
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avslib.config import Config
from avslib.core.errors import OutputError, RunStateError
from avslib.core.files import atomic_path, flush_to_disk, report_full_disk
from avslib.core.locks import LOCK
from avslib.study.records import RECORD
from avslib.training.distributed import world_size

STATE, HISTORY = "state.pt", "history.csv"
# a resumed run may have others: they change no step, or they are the way out of what ended the run
FREE = (
    "data.workers",
    "data.timeout",
    "data.max_corrupt",
    "data.cache",
    "train.checkpoint_every",
    "train.tensorboard",
    "train.checkpointing",
    "train.micro_batch",
    "train.nonfinite",
    "train.max_skipped",
)


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        step: optimiser steps done.
        best_epoch, best_j: the epoch (from 0) with the best J on val, and that J.
        seconds: time spent in earlier processes of the same run.
        sums: loss parts summed since the last row of the history.
        processes: how many train together.
        faults: what the run survived, see `avslib.training.faults`.
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
        state = {
            "config": config.model_dump(mode="json"),
            "run": asdict(self),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
        }
        if (out / HISTORY).is_file():  # the state must never be ahead of it
            flush_to_disk(out / HISTORY)
        # through a stream of Python's, which tells when the disk is full; torch's own writer does not
        with atomic_path(out / STATE) as path, open(path, "wb") as stream:
            torch.save(state, stream)

    @classmethod
    def open(cls, out: Path, config: Config, resume: bool) -> tuple["RunState", dict | None]:
        """A fresh state, or the one in `out` with the weights and optimiser to load.

        Raises:
            AvsError: `out` holds a run and `resume` is off, holds other files, a damaged state, another config, or a
                run of another number of processes.
        """
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out}: is a file; choose a folder with --out")
        if not (out / STATE).is_file():
            if not resume and out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
                raise OutputError(f"{out}: the folder is not empty; choose a new one with --out")
            if (out / RECORD).is_file():
                raise OutputError(
                    f"{out}: holds the record of a finished run, and no state to go on from; choose a new folder with "
                    "--out"
                )
            return cls(), None
        if not resume:
            raise OutputError(
                f"{out}: holds a run already; go on with it by --resume, or choose a new folder with --out"
            )
        state = _read_state(out / STATE)
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


def _read_state(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load does not look at the checksums that torch.save writes: it would load any numbers
            if broken := archive.testzip():
                raise zipfile.BadZipFile(broken)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if missing := {"config", "run", "model", "optimizer"} - state.keys():
            raise KeyError(*missing)
        return state
    except Exception as error:  # zipfile and torch raise many kinds for a damaged file
        raise RunStateError(
            f"{path}: damaged ({type(error).__name__}); copy it again, or remove it: --resume then starts this run "
            "from its first step"
        ) from None


def _first_difference(saved: dict, wanted: dict, prefix: str = "") -> str | None:
    for key, value in wanted.items():
        if isinstance(value, dict):
            inner = _first_difference(saved.get(key) or {}, value, f"{prefix}{key}.")
            if inner:
                return inner
        elif saved.get(key) != value and prefix + key not in FREE:
            return prefix + key
    return None


def _whole_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a history; a damaged one is left out with a warning, since a log is no reason to end a training."""
    with open(path, newline="", encoding="utf-8", errors="replace") as stream:
        rows = list(csv.DictReader(stream, quoting=csv.QUOTE_NONE))
    whole = [row for row in rows if _is_whole(row)]
    if len(whole) < len(rows):
        warnings.warn(f"{path}: {len(rows) - len(whole)} damaged rows are left out", stacklevel=4)
    return whole


def _is_whole(row: Mapping[Any, Any]) -> bool:
    """Whether these are numbers, none of them missing at the end."""
    try:
        [float(text) for text in row.values() if text != ""]
        return row["step"].isdecimal()
    except (TypeError, ValueError, KeyError):
        return False


class History:
    """history.csv: a row every few steps and one an epoch; rows after the resumed step are dropped.

    `on_row` is told each new row after it is written; where `write` is off nothing is written or told.
    """

    FIELDS = (
        "step",
        "epoch",
        "lr",
        "loss",
        "seg_prior",
        "seg_posterior",
        "match_prior",
        "match_posterior",
        "kl_sv",
        "kl_sa",
        "divergence_c",
        "mi",
        "orthogonality",
        "val_J",
        "val_F",
    )

    def __init__(
        self, path: Path, step: int, write: bool = True, on_row: Callable[[Mapping[str, float]], None] | None = None
    ):
        self.path, self.write, self.on_row = path, write, on_row
        if not write:
            return
        kept = []
        if step and path.is_file():
            kept = [row for row in _whole_rows(path) if int(row["step"]) <= step]
        with atomic_path(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.FIELDS, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)

    def add(self, **values: float) -> None:
        """Append a row; it is on disk when this returns."""
        if self.write:
            text = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
            with report_full_disk(self.path), open(self.path, "a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, self.FIELDS, restval="", lineterminator="\n").writerow(text)
            if self.on_row:
                self.on_row(values)
