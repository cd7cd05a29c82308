"""What a sweep shows while it runs: one table, drawn in a terminal, in a notebook, or as plain lines."""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.table import Table

from avslib.training.state import HISTORY

FINISHED = ("done", "done before", "failed")


@dataclass
class RunStatus:
    """How far one run is.

    Attributes:
        folder: its work folder, where ``history.csv`` grows.
        steps: optimiser steps in all.
        state: waiting, running, done, done before, or failed.
        began: ``time.monotonic()`` when this sweep gave it to a worker.
        seconds: that the run itself took in this sweep, once it has ended.
        note: scores of a finished run, the error of a failed one.
    """

    task: str
    method: str
    seed: int
    folder: Path
    steps: int
    state: str = "waiting"
    step: int = 0
    val_j: float | None = None
    began: float = 0.0
    seconds: float = 0.0
    note: str = ""

    def look(self) -> None:
        """Read from the run's history how far it is."""
        if self.state == "running":
            self.step, val_j = read_progress(self.folder / HISTORY)
            self.val_j = self.val_j if val_j is None else val_j


def read_progress(path: Path) -> tuple[int, float | None]:
    """The last step in a ``history.csv`` that may be growing, and the last J on val; (0, None) where there is none."""
    step, val_j = 0, None
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                step = int(row["step"])
                val_j = float(row["val_J"]) if row.get("val_J") else val_j
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the last line is half-written, or nothing is there yet
    return step, val_j


def expected_seconds(runs: Sequence[RunStatus], workers: int, now: float) -> float | None:
    """Seconds until the last run ends, from the mean of those that ended and how far the others are; None: unknown."""
    ended = [run.seconds for run in runs if run.state == "done"]
    running = [(now - run.began, min(run.step / max(run.steps, 1), 1.0)) for run in runs if run.state == "running"]
    ended = ended or [seconds / share for seconds, share in running if share > 0]
    if not ended:
        return None
    mean = sum(ended) / len(ended)
    left = sum(run.state == "waiting" for run in runs) * mean
    left += sum(max(mean - seconds, 0) for seconds, _ in running)
    return left / max(workers, 1)


def status_table(runs: Sequence[RunStatus], workers: int = 1, elapsed: float = 0.0, now: float | None = None) -> Table:
    """One row a task and method: seeds done, running (with steps) and failed, the last J on val, and time."""
    now = time.monotonic() if now is None else now
    count = {state: sum(run.state == state for run in runs) for state in (*FINISHED, "running", "waiting")}
    left = expected_seconds(runs, workers, now)
    parts = [f"{count['done'] + count['done before']} of {len(runs)} done"]
    parts += [f"{count['done before']} of them before"] if count["done before"] else []
    parts += [f"{count['running']} running"] if count["running"] else []
    parts += [f"{count['failed']} failed"] if count["failed"] else []
    parts += [f"{_clock(elapsed)} so far"]
    parts += [f"about {_clock(left)} to go"] if left is not None and sum(map(count.get, ("running", "waiting"))) else []
    view = Table(caption=", ".join(parts), caption_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("Task", "Method", "Done", "Running", "Failed", "Val J", "Time"):
        view.add_column(name, justify="right" if name in ("Val J", "Time") else "left", overflow="fold")
    groups: dict[tuple[str, str], list[RunStatus]] = {}
    for run in runs:
        groups.setdefault((run.task, run.method), []).append(run)
    for (task, method), group in sorted(groups.items(), key=lambda item: item[0][0] != "s4"):
        done = sum(run.state in ("done", "done before") for run in group)
        running = [f"seed {run.seed}: {run.step}/{run.steps}" for run in group if run.state == "running"]
        failed = [f"seed {run.seed}" for run in group if run.state == "failed"]
        known = [run.val_j for run in group if run.val_j is not None]
        spent = sum(now - run.began if run.state == "running" else run.seconds for run in group)
        view.add_row(
            task.upper(),
            method,
            f"{done}/{len(group)}",
            ", ".join(running),
            ", ".join(failed),
            f"{known[-1]:.3f}" if known else "",
            _clock(spent) if spent else "",
        )
    return view


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Board:
    """Shows runs as they go: ``with Board(runs, console) as board: ... board.draw()``.

    A terminal gets a table that redraws itself every second, a notebook an ``ipywidgets.HTML`` with the same table
    (`widget`), anything else a line for every run that ends. Without `progress` nothing is shown.
    """

    def __init__(self, runs: Sequence[RunStatus], console: Console, progress: bool = True) -> None:
        self.runs, self.console, self.workers = runs, console, 1
        self.widget: Any = None
        self._live: Any = None
        self._began = time.monotonic()
        self._shown: set[int] = set()
        self._lines = progress and not console.is_terminal
        if progress and console.is_jupyter:
            self._lines = not self._open_widget()
        elif progress and console.is_terminal:
            from rich.live import Live

            self._live = Live(console=console, get_renderable=self.table, refresh_per_second=1)

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.draw()
        if self._live:
            self._live.stop()

    def table(self) -> Table:
        """The table as it is now."""
        for run in self.runs:
            run.look()
        return status_table(self.runs, self.workers, time.monotonic() - self._began)

    def draw(self) -> None:
        """Bring what is shown up to date; a terminal does so by itself."""
        if self.widget is not None:
            self.widget.value = html(self.table())
        if self._lines:
            for number, run in enumerate(self.runs):
                if run.state in ("done", "failed") and number not in self._shown:
                    self._shown.add(number)
                    ended = sum(r.state in FINISHED for r in self.runs)
                    label = f"{ended}/{len(self.runs)} {run.task}, {run.method}, seed {run.seed}"
                    told = "failed: " if run.state == "failed" else ""
                    line = f"{label}: {told}{run.note} ({_clock(run.seconds)})"
                    self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _open_widget(self) -> bool:
        try:
            import ipywidgets
            from IPython.display import display
        except ImportError:
            return False
        self.widget = ipywidgets.HTML(html(self.table()))
        display(self.widget)
        return True


def html(view: Table, width: int = 110) -> str:
    """A table as an HTML fragment."""
    console = Console(record=True, width=width, file=io.StringIO(), force_jupyter=False)
    console.print(view)
    return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.3'>{code}</pre>")
