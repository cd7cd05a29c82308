"""The main job, end to end: build Mini-AVS, train, score against baselines, print tables, draw pictures."""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from avslib.config import Config, load_config
from avslib.core.files import atomic_path
from avslib.data.mini.build import build_mini
from avslib.data.mini.compose import TASKS
from avslib.study.plots import comparison_bars, curves_figure, frames_of, outlined_frames, save_figure
from avslib.study.records import RECORD, RunRecord, load_records, run_id
from avslib.study.results import summarise, table
from avslib.study.run import method_name, publish, run
from avslib.training.evaluate import predict_batches
from avslib.training.loop import BEST
from avslib.training.setup import open_split
from avslib.training.state import HISTORY
from avslib.weights.checkpoints import SHIPPED, load_checkpoint

# the checkpoint that each arm (with audio or without) starts from; a task's two saw the same clips equally often
START = {
    "s4": {True: "mini-s4", False: "mini-s4-without-audio"},
    "ms3": {True: "mini-ms3", False: "mini-ms3-without-audio"},
}
# MS3 is trained as its checkpoints were: on random seconds, each of which the fusion sees by itself
CHANGES: dict[str, dict[str, Any]] = {
    "s4": {},
    "ms3": {
        "model.fusion_span": "second",
        "data.train_frames": 1,
        "train.batch_size": 16,
        "train.epochs": 2,
        "train.keep": "last",
    },
}


def demo(
    seeds: tuple[int, ...] = (0,),
    out: str | Path = "build/demo/results",
    work: str | Path = "build/demo",
    *,
    tasks: Sequence[str] = TASKS,
    progress: bool = True,
    console: Console | None = None,
) -> list[RunRecord]:
    """Run the main job; records, tables and pictures go to `out`, data and checkpoints to `work`.

    For each task (S4, MS3) and seed the full model and the same network without audio are fine-tuned from the shipped
    checkpoints and scored on ``test`` and ``test_unseen``, beside the full model with sounds exchanged between clips,
    the outlines of all objects in view, and on MS3 of those that sound somewhere in the clip. An interrupted demo
    resumes; runs that are finished in `work` are kept.
    """
    out, work, console = Path(out), Path(work), console or Console(quiet=True)
    start = time.perf_counter()
    console.print(f"[bold]1. Mini-AVS[/bold]: composing clips from real photographs and sounds into {work / 'data'}")
    build_mini(work / "data", "small", seed=0, progress=progress)
    spent = {"composing": time.perf_counter() - start}

    console.print(
        "[bold]2. Training[/bold] starts from the small checkpoints that this package trained and ships "
        f"({', '.join(name for arms in START.values() for name in arms.values())}; run records beside them) and "
        "fine-tunes every weight"
    )
    records = []
    for task, seed, audio in itertools.product(tasks, seeds, (True, False)):
        changes = {"data.root": str(work / "data"), "data.task": task, "train.seed": seed} | CHANGES[task]
        config = load_config("demo", changes | {"model.use_audio": audio, "train.init_from": START[task][audio]})
        # named after the configuration: a finished run in it is this one
        folder = work / "runs" / run_id("mini", task, method_name(config), seed, config.model_dump(mode="json"))
        console.print(f"   {task.upper()}, {method_name(config)}, seed {seed}")
        if (folder / RECORD).is_file():
            console.print(f"   kept from an earlier demo; remove {folder} to train it again")
            (record,) = load_records(folder)
        else:
            began = time.perf_counter()
            notes = f"fine-tuned from the shipped checkpoint {START[task][audio]}"
            record = run(config, folder, resume=True, progress=progress, console=console, notes=notes)
            part = f"training and scoring {task.upper()}"
            spent[part] = spent.get(part, 0) + time.perf_counter() - began
        records.append(publish(record, out / "runs" / record.id))
        if audio and seed == seeds[0]:
            draw_clips(folder / BEST, config, out / f"contact_sheet_{task}.png")
            save_figure(curves_figure(folder / HISTORY), out / f"learning_curves_{task}.png")
    # most of the learning was done before: its curves belong beside the short ones
    for arms in map(START.__getitem__, tasks):
        save_figure(curves_figure(SHIPPED / arms[True] / HISTORY), out / f"learning_curves_{arms[True]}.png")

    console.print("[bold]3. Scores[/bold]")
    records.sort(key=lambda record: record.id)
    for task in tasks:
        console.print(table(records, task, "mini", "rich"))
        with atomic_path(out / f"table_{task}.md") as path:
            path.write_text(table(records, task, "mini", "md"), encoding="utf-8")
        comparison_bars(summarise(records, task), out / f"comparison_{task}.png")
    total = time.perf_counter() - start
    spent["pictures and tables"] = total - sum(spent.values())
    parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in spent.items())
    console.print(f"{out}: tables, pictures and run records; {total / 60:.1f} minutes: {parts}", markup=False)
    return records


def draw_clips(checkpoint: str | Path, config: Config, path: str | Path) -> Path:
    """Contact sheet of six clips from all over the test split: truth and prediction outlined on every frame."""
    dataset, model = open_split(config, "test"), load_checkpoint(checkpoint)
    # classes and cases repeat every 12 and 10 clips: a stride prime to both shows different ones
    chosen = list(dict.fromkeys((1 + 19 * i) % len(dataset) for i in range(6)))
    shown = torch.utils.data.Subset(dataset, chosen)
    items = []
    predicted = predict_batches(model, shown, frames=dataset.frames, batch_size=1)
    for index, (rows, logits) in zip(chosen, predicted, strict=True):
        clip = dataset.clips[index]
        title = f"{clip.name}, sounding: {clip.category}" if clip.category else clip.name
        items.append((title, frames_of(rows), rows["mask"][:, 0].numpy(), logits.sigmoid()[:, 0].numpy()))
    return save_figure(outlined_frames(items), path, palette=True)
