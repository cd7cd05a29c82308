"""What a training survives: counted, told, kept in its state and written to ``faults.csv``."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from avslib.core.files import atomic_path
from avslib.data.corrupt import corrupt_clips, too_many
from avslib.training.distributed import gather_objects, world_size

FAULTS = "faults.csv"
CLIP, SKIPPED, WORKERS, MEMORY = "corrupt clip", "skipped step", "new workers", "out of memory"
Fault = dict[str, str | int]


class Faults:
    """The faults of a run so far, in order, each a mapping with step, kind, clip and reason.

    Args:
        rows: those of the state that a run goes on from; they are added to in place.
        out: the run's folder; None writes nothing.
        max_corrupt: clips that may be corrupt.
    """

    FIELDS = ("step", "kind", "clip", "reason")

    def __init__(self, rows: list[Fault], out: Path | None, console: Console, max_corrupt: int = 0):
        self.rows, self.out, self.console, self.max_corrupt = rows, out, console, max_corrupt
        self._new: list[Fault] = []
        if out is not None and (rows or (out / FAULTS).exists()):
            self._write()

    def note(self, step: int, kind: str, reason: str, clip: str = "") -> None:
        """A fault that this process saw after `step` steps. Raises as `agree` does."""
        self._new.append({"step": step, "kind": kind, "clip": clip, "reason": reason})
        if world_size() == 1:
            self.agree()

    def see_clips(self, step: int, batch: Mapping[str, Any]) -> None:
        """The clips that could not be read for a batch. Raises as `agree` does."""
        for clip, why in corrupt_clips(batch).items():
            self.note(step, CLIP, why, clip)

    def agree(self) -> None:
        """Let all processes know of the faults of each, tell and write them; all call it at the same step.

        Raises:
            BadClipsError: more clips are corrupt than may be; those of before are kept, the last ones are not.
        """
        found = [fault for part in gather_objects(self._new) for fault in part]
        self._new = []
        if not found:
            return
        corrupt, fresh = self.corrupt, []
        for fault in found:
            if fault not in fresh and fault["clip"] not in corrupt:
                fresh.append(fault)
                corrupt |= {fault["clip"]: fault["reason"]} if fault["kind"] == CLIP else {}
        if len(corrupt) > max(self.max_corrupt, len(self.corrupt)):
            raise too_many(corrupt, self.max_corrupt)
        self.rows += fresh
        for fault in fresh:
            self.console.print(f"step {fault['step']}: {_sentence(fault)}", markup=False, highlight=False)
        if self.out is not None and fresh:
            self._write()

    @property
    def corrupt(self) -> dict[str, str]:
        """Why each corrupt clip could not be read."""
        return {fault["clip"]: fault["reason"] for fault in self.rows if fault["kind"] == CLIP}

    def skipped(self, first: int, last: int) -> list[int]:
        """The steps from `first` to `last` that were skipped."""
        return [f["step"] for f in self.rows if f["kind"] == SKIPPED and first <= f["step"] <= last]

    def summary(self) -> str:
        """How many of each kind, such as "survived 2 corrupt clip, 1 skipped step"; empty where there are none."""
        kinds = [fault["kind"] for fault in self.rows]
        counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
        return f"survived {', '.join(counts)}" if counts else ""

    def _write(self) -> None:
        with atomic_path(self.out / FAULTS) as part, open(part, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def _sentence(fault: Mapping[str, str | int]) -> str:
    if fault["kind"] == CLIP:
        return f"clip {fault['clip']!r} cannot be read, another one takes its place ({fault['reason']})"
    return f"{fault['kind']}: {fault['reason']}"
