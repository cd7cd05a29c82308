"""What a training run keeps on disk while it lasts: the state that --resume continues from, and the history."""

import csv
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from avslib.config import Config
from avslib.core.errors import OutputError, RunStateError
from avslib.core.files import LOCK, atomic_path, flush_to_disk, report_full_disk
from avslib.training.distributed import world_size

OnRow = Callable[[Mapping[str, float]], None]
Log = Callable[[dict[str, float], int], None]
STATE, HISTORY, RECORD = "state.pt", "history.csv", "run.json"
# a resumed run may change these: they change no step, or they are the way out of what ended the run
FREE: Any = {
    "preset": True,
    "data": {"workers", "timeout", "max_corrupt", "cache"},
    "train": {"checkpoint_every", "tensorboard", "checkpointing"},
}


@dataclass
class RunState:
    """How far a run is."""

    step: int = 0  # batches done; the weights change after every train.accumulate-th
    best_epoch: int = 0  # from 0
    best_j: float = -1.0  # on val
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the loss parts since the last row of the history
    processes: int = field(default_factory=world_size)
    corrupt: dict[str, str] = field(default_factory=dict)  # why train clips that were left out cannot be read, by name

    def count(self, losses: Mapping[str, Tensor]) -> None:
        """A step is done, with these loss parts."""
        self.step += 1
        self.sums = {name: self.sums.get(name, 0) + value.detach() for name, value in losses.items()}

    def share(self) -> dict[str, Tensor]:
        """The sums, as means over the processes from here on: those of the whole batch."""
        self.sums = reduce(self.sums, "mean")
        return self.sums

    def row(self, steps: int) -> dict[str, float]:
        """The mean of each loss part over the last `steps`, for a row of the history; the sums start over."""
        means = {name: float(value) / steps for name, value in self.share().items()}
        self.sums = {}
        return means

    def save(
        self,
        out: Path,
        config: Config,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: GradScaler | None = None,
        earlier: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write ``state.pt``: this, the configuration, weights, optimiser, mean codes of earlier steps and, with
        fp16, the gradients' scale."""
        state = {
            "config": config.model_dump(mode="json"),
            "run": asdict(self),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "earlier": dict(earlier or {}),
        }
        if (out / HISTORY).is_file():  # the state must never be ahead of it
            flush_to_disk(out / HISTORY)
        # through a Python stream, which reports a full disk; torch's own writer does not
        with atomic_path(out / STATE) as path, open(path, "wb") as stream:
            torch.save(state, stream)

    @classmethod
    def open(cls, out: Path, config: Config, resume: bool) -> tuple["RunState", dict[str, Any] | None]:
        """A fresh state, or the one in `out` with the weights and optimiser to load. Raises AvsError if `out` is not
        empty and `resume` is off, or its state is damaged, or of a different config or number of processes."""
        if out.is_file():
            raise OutputError(f"{out}: is a file; choose a folder with --out")
        if not resume and any(path.name != LOCK for path in out.glob("*")):
            raise OutputError(f"{out}: the folder is not empty; choose a new one with --out, or add --resume")
        if not (out / STATE).is_file():
            if (out / RECORD).is_file():
                raise OutputError(f"{out}: holds a finished run and no state to resume; choose a new folder with --out")
            return cls(), None
        run, saved = _read_state(out / STATE)
        wanted, defaults = (c.model_dump(mode="json", exclude=FREE) for c in (config, Config.model_validate({})))
        for section, values in wanted.items():
            earlier = defaults[section] | saved["config"].get(section, {})  # a field of a later version: its default
            for name in [name for name, value in values.items() if earlier[name] != value]:
                why = f"was trained with a different config ({section}.{name} differs); resume with the same one"
                raise RunStateError(f"{out}: {why}, or choose a new folder with --out")
        if run.processes != world_size():
            why = f"was trained by {run.processes} process(es), and now there are {world_size()}"
            raise RunStateError(f"{out}: {why}: a step would be a different batch; resume with the same number")
        return run, saved


@dataclass
class Trained:
    """The checkpoint that ``train.keep`` keeps, its epoch (from 0) and J on val, the seconds of training, and a note
    for the record about corrupt clips (empty if there were none)."""

    checkpoint: Path
    best_epoch: int
    best_j: float
    seconds: float
    survived: str = ""


def _read_state(path: Path) -> tuple[RunState, dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load does not look at the checksums that torch.save writes: it would load any numbers
            if broken := archive.testzip():
                raise zipfile.BadZipFile(broken)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if missing := {"config", "model", "optimizer", "scaler"} - state.keys():
            raise KeyError(*missing)
        return RunState(**state["run"]), state
    except Exception as error:  # zipfile and torch raise many kinds for a damaged file
        raise RunStateError(
            f"{path}: damaged ({type(error).__name__}); copy it again, or delete it: --resume then starts this run "
            "from its first step"
        ) from None


class History:
    """history.csv: a row every few steps and one per epoch. Rows after the resumed step are dropped, and damaged ones
    with a warning that names their lines. Only the first process writes (`write`); each new row then goes to `on_row`,
    and to `log` with its losses as ``train/NAME`` and its scores as ``val/NAME``, for TensorBoard."""

    LOSSES = ("seg_prior", "seg_posterior", "match_prior", "match_posterior", "kl_sv", "kl_sa")
    SCORES = ("divergence_c", "mi", "orthogonality", "val_J", "val_F", "seg_samples")
    FIELDS = ("step", "epoch", "lr", "loss", *LOSSES, *SCORES)

    def __init__(self, path: Path, step: int, write: bool = True, on_row: OnRow | None = None, log: Log | None = None):
        self.path, self.write, self.on_row, self.log = path, write, on_row, log
        if not write:
            return
        text = path.read_text(encoding="utf-8", errors="replace") if step and path.is_file() else ""
        rows = text.split("\n")[1:-1]  # after the last line break: nothing, or half a row if the process was killed
        whole = re.compile(rf"(\d+)(,[-+.\dafein]*){{{len(self.FIELDS) - 1}}}")
        if damaged := [str(line) for line, row in enumerate(rows, 2) if not whole.fullmatch(row)]:
            warnings.warn(f"{path}: dropped damaged rows: line {', '.join(damaged)}", stacklevel=2)
        kept = [row for row in rows if (found := whole.fullmatch(row)) and int(found[1]) <= step]
        with atomic_path(path) as part:
            part.write_text("\n".join([",".join(self.FIELDS), *kept, ""]), encoding="utf-8", newline="\n")

    def add(self, **values: Any) -> None:
        """Append a row; it is on disk when this returns."""
        if not self.write:
            return
        text = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
        with report_full_disk(self.path), open(self.path, "a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self.FIELDS, lineterminator="\n").writerow(text)
        if self.log:
            scalars = {f"train/{k}".replace("train/val_", "val/"): v for k, v in values.items()}
            del scalars["train/step"], scalars["train/epoch"]
            self.log(scalars, values["step"])
        if self.on_row:
            self.on_row(values)
