"""`avs train`, `avs eval` and `avs config`: train a model, score a checkpoint, show a configuration."""

from math import isnan, nan
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from avslib.cli.options import CHECKPOINT, BFloat16, Data, Device, Overrides, Quiet, Splits, Task, console, say

DETERMINISTIC = "Use deterministic operations only, so that a run on a GPU repeats exactly too."


def train_command(
    data: Data,
    task: Task = "s4",
    preset: Annotated[str, typer.Option(help="Name of a preset (paper, mini, demo), or a YAML file.")] = "mini",
    override: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Short for -o train.seed=SEED.")] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help=DETERMINISTIC)] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: results/runs/<id>.")] = None,
    resume: Annotated[bool, typer.Option(help="Resume an interrupted run, or start one if there is none.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model, score its best checkpoint on val and the test splits, and write a run record."""
    from avslib.config import load_config
    from avslib.study.run import run

    own = {"data.root": str(data), "data.task": task, "train.seed": seed, "train.deterministic": deterministic or None}
    given = {name: value for name, value in own.items() if value is not None}
    config = load_config(preset, override or []).replace(given)
    record = run(config, out, resume=resume, progress=not quiet, console=console)
    _print_metrics(record.metrics, record.baselines)
    say(f"run record: {record.path}")


def eval_command(
    data: Data,
    checkpoint: Annotated[str, typer.Option(help=CHECKPOINT)],
    task: Task = "s4",
    split: Splits = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips per step; does not affect the scores.")] = 4,
    device: Device = "auto",
    bf16: BFloat16 = False,
    quiet: Quiet = False,
) -> None:
    """Score a checkpoint: J, F over the whole set, and F_legacy, F per test batch as published scripts compute it."""
    from avslib.study.results import published_row
    from avslib.study.run import dataset_info, score
    from avslib.weights.checkpoints import load_checkpoint
    from avslib.weights.speed_options import apply_speed_options

    model = apply_speed_options(load_checkpoint(checkpoint, device), bf16=bf16)
    changes = {"data.root": str(data), "data.task": task, "train.eval_batch_size": batch}
    config = model.config.replace(changes | {"data.max_clips": None, "data.skip": None})  # all clips are scored
    metrics, baselines = {}, {}
    for name in split or ["test"]:
        for baseline, scores in score(model, config, name, progress=not quiet).items():
            (baselines.setdefault(baseline, {}) if baseline else metrics)[name] = scores.metrics
    published = dataset_info(data, task)[0] == "avsbench" and "test" in metrics
    _print_metrics(metrics, baselines, published_row(config, task) if published else None)


def config_command(
    preset: Annotated[str, typer.Argument(help="Name of a preset, or a YAML file.")] = "paper",
    override: Overrides = None,
) -> None:
    """Print a resolved configuration, with the meaning of every field."""
    from avslib.config import load_config

    config = load_config(preset, override or [])
    for section, part in list(config)[1:]:  # the first is the preset's name
        console.print(f"[bold]{section}:[/bold]")
        for name, info in type(part).model_fields.items():
            console.print(f"  {name}: {getattr(part, name)!r}", highlight=False, markup=False, end="")
            console.print(f"  # {info.description}", style="dim", highlight=False, markup=False)


def _print_metrics(metrics: dict, baselines: dict, paper: dict | None = None) -> None:
    """Scores from 0 to 1; the published row, in percent, beside ours where there is one. Whether a model follows the
    sound stands in a table of its own, where frames without a sounding object or labels say so."""
    from avslib.study.results import ABOUT_LISTENING, LISTENING

    rows = [
        (label, split, {name: nan if value is None else value for name, value in values.items()})  # None in a record
        for label, by in {"model": metrics, **baselines}.items()
        for split, values in by.items()
    ]
    names = [name for name in rows[0][2] if name not in LISTENING]
    defined = [name for name in LISTENING if any(not isnan(values.get(name, nan)) for *_, values in rows)]
    for columns in [names, defined] if "J_empty" in defined else [names]:
        view = Table("method", "split", *(LISTENING.get(name, name) for name in columns))
        for label, split, values in rows:
            view.add_row(label, split, *("" if isnan(v := values.get(name, nan)) else f"{v:.3f}" for name in columns))
        if paper and columns is names:
            cells = [f"{float(paper[n]) / 100:.3f}" if n in paper else "" for n in columns]
            view.add_row(f"published ({paper['source']})", "", *cells)
        console.print(view)
    if "J_empty" in defined:
        console.print(ABOUT_LISTENING, highlight=False)
