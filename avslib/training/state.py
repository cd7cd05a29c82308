"""What a training run keeps on disk while it lasts: the state that --resume continues from, and the history."""

import csv
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from avslib.config import Config
from avslib.core.errors import OutputError, ProcessesError, RunStateError
from avslib.core.files import LOCK, atomic_path, flush_to_disk, report_full_disk
from avslib.training.distributed import gather_objects, mean_over_processes, together, world_size

STATE, HISTORY, RECORD = "state.pt", "history.csv", "run.json"
OnRow = Callable[[Mapping[str, float]], None]
# a resumed run may change these: they change no step, or they are the way out of what ended the run
FREE = (
    "data.workers",
    "data.timeout",
    "data.max_corrupt",
    "data.cache",
    "train.checkpoint_every",
    "train.tensorboard",
    "train.checkpointing",
)


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        step: batches done; the weights change after every ``train.accumulate``-th.
        best_epoch, best_j: the epoch (from 0) with the best J on val, and that J.
        seconds: time spent so far.
        sums: loss parts summed since the last row of the history.
        processes: how many train together.
        corrupt: why each train clip that was left out could not be read, by name.
    """

    step: int = 0
    best_epoch: int = 0
    best_j: float = -1.0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)
    processes: int = field(default_factory=world_size)
    corrupt: dict[str, str] = field(default_factory=dict)

    def count(self, losses: Mapping[str, Tensor]) -> None:
        """A step is done, with these loss parts."""
        self.step += 1
        self.sums = {name: self.sums.get(name, 0) + value.detach() for name, value in losses.items()}

    def share(self) -> dict[str, Tensor]:
        """The sums, as means over the processes from here on: those of the whole batch."""
        if self.sums:
            means = mean_over_processes(torch.stack([*self.sums.values()])).unbind()
            self.sums = dict(zip(self.sums, means, strict=True))
        return self.sums

    def row(self, steps: int) -> dict[str, float]:
        """The mean of each loss part over the last `steps`, for a row of the history; the sums start over."""
        means = {name: float(value) / steps for name, value in self.share().items()}
        self.sums = {}
        return means

    def save(
        self, out: Path, config: Config, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None
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
        # through a Python stream, which reports a full disk; torch's own writer does not
        with atomic_path(out / STATE) as path, open(path, "wb") as stream:
            torch.save(state, stream)

    @classmethod
    def open(cls, out: Path, config: Config, resume: bool) -> tuple["RunState", dict[str, Any] | None]:
        """A fresh state, or the one in `out` with the weights and optimiser to load.

        Raises:
            AvsError: `out` holds a run and `resume` is off, other files, a damaged state, or a run with a different
                config or number of processes.
        """
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out}: is a file; choose a folder with --out")
        if not (out / STATE).is_file():
            if not resume and out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
                raise OutputError(f"{out}: the folder is not empty; choose a new one with --out")
            if (out / RECORD).is_file():
                raise OutputError(
                    f"{out}: holds the record of a finished run, and no state to resume; choose a new folder with --out"
                )
            return cls(), None
        if not resume:
            raise OutputError(
                f"{out}: already holds a run; continue it with --resume, or choose a new folder with --out"
            )
        state = _read_state(out / STATE)
        if differing := _first_difference(state["config"], config.model_dump(mode="json")):
            raise RunStateError(
                f"{out}: was trained with a different config ({differing} differs); resume with the same one, "
                "or choose a new folder with --out"
            )
        known = {f.name for f in fields(cls)}
        run = cls(**{"processes": 1} | {name: value for name, value in state["run"].items() if name in known})
        if run.processes != world_size():
            raise RunStateError(
                f"{out}: was trained by {run.processes} process(es), and now there are {world_size()}: a step would be "
                "a different batch; resume with the same number"
            )
        return run, state


def open_state(out: Path, config: Config, resume: bool) -> tuple[RunState, dict[str, Any] | None]:
    """As `RunState.open`, in all processes together."""
    state, saved = together(lambda: RunState.open(out, config, resume))
    if len(set(gather_objects(state.step))) > 1:
        raise ProcessesError(f"{out}: the processes find different states there; choose a folder on a shared disk")
    return state, saved


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
            f"{path}: damaged ({type(error).__name__}); copy it again, or delete it: --resume then starts this run "
            "from its first step"
        ) from None


def _first_difference(saved: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first field that a resumed run may not change; one that a later version added was at its default."""
    for section, defaults in Config.model_validate({}).model_dump(mode="json", exclude={"preset"}).items():
        earlier = defaults | saved.get(section, {})
        for name, value in wanted[section].items():
            if earlier[name] != value and f"{section}.{name}" not in FREE:
                return f"{section}.{name}"
    return None


class History:
    """history.csv: a row every few steps and one per epoch; rows after the resumed step are dropped.

    Args:
        write: off in all processes but the first.
        on_row: called with each new row after it is written.
        log: likewise, with its losses as ``train/NAME`` and its scores as ``val/NAME``, for TensorBoard.
    """

    LOSSES = ("seg_prior", "seg_posterior", "match_prior", "match_posterior", "kl_sv", "kl_sa")
    FIELDS = ("step", "epoch", "lr", "loss", *LOSSES, "divergence_c", "mi", "orthogonality", "val_J", "val_F")

    def __init__(
        self,
        path: Path,
        step: int,
        write: bool = True,
        on_row: OnRow | None = None,
        log: Callable[[dict[str, float], int], None] | None = None,
    ):
        self.path, self.write, self.on_row, self.log = path, write, on_row, log
        if not write:
            return
        text = path.read_text(encoding="utf-8", errors="replace") if step and path.is_file() else ""
        # a process that was killed may have left half a row
        rows = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        kept = [row for row in rows if (number := row.partition(",")[0]).isdecimal() and int(number) <= step]
        with atomic_path(path) as part:
            part.write_text(",".join(self.FIELDS) + "\n" + "".join(kept), encoding="utf-8", newline="\n")

    def add(self, **values: Any) -> None:
        """Append a row; it is on disk when this returns."""
        if not self.write:
            return
        text = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
        with report_full_disk(self.path), open(self.path, "a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self.FIELDS, restval="", lineterminator="\n").writerow(text)
        if self.log:
            named = {
                f"train/{k}".replace("train/val_", "val/"): v for k, v in values.items() if k not in ("step", "epoch")
            }
            self.log(named, values["step"])
        if self.on_row:
            self.on_row(values)
