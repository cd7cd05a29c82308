"""The main job, end to end: build Mini-AVS, train, score beside honest baselines, print tables, draw pictures."""

import time
from pathlib import Path

import torch
from rich.console import Console

from avslib.config import Config, load_config
from avslib.core.errors import OutputError
from avslib.core.files import atomic_path
from avslib.data.mini.build import build_mini
from avslib.study.plots import comparison_bars, contact_sheet, learning_curves
from avslib.study.records import RECORD, RunRecord, config_hash, load_records, portable
from avslib.study.results import summarise, table
from avslib.study.run import method_name, publish, run
from avslib.training.evaluate import predict_batches
from avslib.training.loop import BEST
from avslib.training.setup import open_split
from avslib.training.state import HISTORY
from avslib.weights.checkpoints import SHIPPED, load_checkpoint

# the checkpoint that each arm starts from; both were trained by this package for the same time on the same clips
START = {True: "mini-s4", False: "mini-s4-without-audio"}
# MS3's train split is half as large: both tasks see equally many clips
EPOCHS = {"s4": 1, "ms3": 2}


def demo(
    seeds: tuple[int, ...] = (0,),
    out: str | Path = "results/demo",
    work: str | Path = "build/demo",
    *,
    progress: bool = True,
    console: Console | None = None,
) -> list[RunRecord]:
    """Run the main job; records, tables and pictures go to `out`, data and checkpoints to `work`.

    For each task (S4, MS3) and seed the full model and the same network without audio are fine-tuned from the shipped
    checkpoints and scored on ``test`` and ``test_unseen``, beside the full model with sounds exchanged between clips
    and the outlines of all objects in view. An interrupted demo goes on where it was; runs that are
    finished in `work` are kept.
    """
    out, work, console = Path(out), Path(work), console or Console(quiet=True)
    start = time.perf_counter()
    data = work / "data"
    console.print(f"[bold]1. Mini-AVS[/bold]: composing clips from real photographs and sounds into {data}")
    build_mini(data, "small", seed=0, progress=progress)
    console.print(
        "[bold]2. Training[/bold] starts from the small checkpoints that this package trained and ships "
        f"({', '.join(START.values())}; run records beside them) and fine-tunes every weight"
    )
    records = []
    for task in ("s4", "ms3"):
        for seed in seeds:
            for audio in (True, False):
                config = load_config(
                    "demo",
                    {
                        "data.root": str(data),
                        "data.task": task,
                        "train.seed": seed,
                        "train.epochs": EPOCHS[task],
                        "model.use_audio": audio,
                        "train.init_from": START[audio],
                    },
                )
                folder = work / "runs" / f"{task}-{method_name(config)}-seed{seed}"
                console.print(f"   {task.upper()}, {method_name(config)}, seed {seed}")
                record = _finished(folder, config)
                if record:
                    console.print(f"   kept from an earlier demo; without {folder} it is trained anew")
                else:
                    record = run(
                        config,
                        folder,
                        resume=True,
                        progress=progress,
                        console=console,
                        notes=f"fine-tuned from the shipped checkpoint {START[audio]}",
                    )
                publish(folder, out / "runs" / record.id)
                records.append(record)
                if audio and seed == seeds[0]:
                    draw_clips(folder / BEST, config, out / f"contact_sheet_{task}.png")
                    learning_curves(folder / HISTORY, out / f"learning_curves_{task}.png")
    kept = [r for r in load_records(out / "runs") if r.id in {record.id for record in records}]
    console.print("[bold]3. Scores[/bold]")
    # most of the learning was done before: its curve belongs beside the short ones
    learning_curves(SHIPPED / START[True] / HISTORY, out / f"learning_curves_{START[True]}.png")
    for task in ("s4", "ms3"):
        console.print(table(kept, task, "mini", "rich"))
        with atomic_path(out / f"table_{task}.md") as path:
            path.write_text(table(kept, task, "mini", "md"), encoding="utf-8")
        comparison_bars(summarise(kept, task), out / f"comparison_{task}.png")
    console.print(
        f"{out}: tables, pictures and run records; {(time.perf_counter() - start) / 60:.1f} minutes in all",
        markup=False,
    )
    return kept


def draw_clips(checkpoint: str | Path, config: Config, path: str | Path, split: str = "test", clips: int = 6) -> Path:
    """Contact sheet of clips from all over a split: truth and prediction outlined on every frame."""
    dataset = open_split(config, split)
    model = load_checkpoint(checkpoint)
    # classes and cases repeat every 12 and 10 clips: a stride prime to both shows different ones
    chosen = list(dict.fromkeys((1 + 19 * i) % len(dataset) for i in range(clips)))
    shown = torch.utils.data.Subset(dataset, chosen)
    items = []
    for index, (rows, logits) in zip(
        chosen, predict_batches(model, shown, frames=dataset.frames, batch_size=1), strict=True
    ):
        clip = dataset.clips[index]
        size = rows["mask"].shape[-2:]
        image = torch.nn.functional.interpolate(rows["image"].float(), size, mode="bilinear", align_corners=False)
        title = f"{clip.name}, sounding: {clip.category}" if clip.category else clip.name
        items.append(
            (
                title,
                image.round().byte().permute(0, 2, 3, 1).numpy(),
                rows["mask"][:, 0].numpy(),
                logits.sigmoid()[:, 0].numpy(),
            )
        )
    return contact_sheet(items, path)


def _finished(folder: Path, config: Config) -> RunRecord | None:
    """The record of this very run in its scratch folder, if it was finished there.

    Raises OutputError where the folder holds another run.
    """
    if not (folder / RECORD).is_file():
        return None
    (record,) = load_records(folder)
    if record.config_hash != config_hash(portable(config.model_dump(mode="json"))):
        raise OutputError(f"{folder}: holds another run; name another folder by --work, or remove it first")
    return record
