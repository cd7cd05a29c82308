"""`avs`: the command line over the same functions that Python users call."""

import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from avslib.cli import ablate, bench, data, doctor_command, notebooks, robustness, table, weights
from avslib.cli.data import Quiet, Task
from avslib.cli.last_resort import told
from avslib.cli.logs import show_logs

app = typer.Typer(
    help="ECMVAE for audio-visual segmentation: build data, train, score, print tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.add_typer(notebooks.app, name="notebooks")
app.command("ablate")(ablate.ablate_command)
app.command("bench")(bench.bench_command)
app.command("doctor")(doctor_command.doctor_command)
app.command("robustness")(robustness.robustness_command)
app.command("table")(table.table_command)
console = Console()

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="SECTION.FIELD=VALUE",
        help="Set a field of the configuration; may be given several times. `avs config` lists the fields.",
    ),
]
BFloat16 = Annotated[
    bool, typer.Option("--bf16", help="Compute in bfloat16: faster on hardware that has it, about 3 digits a product.")
]


@app.callback()
def common_options(
    verbose: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            help="Say on stderr what is read, kept and decided, and print the traceback of an error; -vv says more.",
        ),
    ] = 0,
) -> None:
    """ECMVAE for audio-visual segmentation: build data, train, score, print tables."""
    show_logs(verbose)


@app.command("train")
def train_command(
    data: Annotated[Path, typer.Option(help="Folder in AVSBench layout (a Mini-AVS build is one).")],
    task: Annotated[Task, typer.Option(help="s4: single source; ms3: several sources.")] = "s4",
    preset: Annotated[str, typer.Option(help="Name of a preset (paper, mini, demo), or a YAML file.")] = "mini",
    override: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Short for -o train.seed=SEED.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Short for -o train.deterministic=true: the same bits on a GPU too.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: results/runs/<id>.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with an interrupted run; starts one where there is none.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model, score its best checkpoint on val and the test splits, and write a run record."""
    from avslib.config import load_config
    from avslib.study.run import default_out, run

    config = load_config(preset, override or []).replace({"data.root": str(data), "data.task": task})
    config = config if seed is None else config.replace({"train.seed": seed})
    config = config.replace({"train.deterministic": True}) if deterministic else config
    out = out or default_out(config)
    record = run(config, out, resume=resume, progress=not quiet, console=console)
    _print_metrics(record.metrics, record.baselines)
    console.print(f"run record: {record.path}", markup=False)


@app.command("eval")
def eval_command(
    data: Annotated[Path, typer.Option(help="Folder in AVSBench layout.")],
    checkpoint: Annotated[
        str, typer.Option(help="Checkpoint folder or file of `avs train`, or the name of a shipped one.")
    ],
    task: Annotated[Task, typer.Option(help="s4 or ms3.")] = "s4",
    split: Annotated[
        list[str] | None, typer.Option(help="val, test or test_unseen; may be given several times.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips a step; changes no figure.")] = 4,
    bf16: BFloat16 = False,
    quiet: Quiet = False,
) -> None:
    """Score a checkpoint: J, F over the whole set, and F as published evaluations batch it."""
    from avslib.study.results import published_row
    from avslib.study.run import dataset_info, score
    from avslib.weights.checkpoints import load_checkpoint
    from avslib.weights.speed_options import apply_speed_options

    model = apply_speed_options(load_checkpoint(checkpoint), bf16=bf16)
    config = model.config.replace(
        {"data.root": str(data), "data.task": task, "train.eval_batch_size": batch, "data.max_clips": None}
    )
    metrics, baselines = {}, {}
    for name in split or ["test"]:
        for baseline, scores in score(model, config, name, progress=not quiet).items():
            (baselines.setdefault(baseline, {}) if baseline else metrics)[name] = scores.metrics
    kind, _ = dataset_info(data, task)
    paper = published_row(config, task) if kind == "avsbench" and "test" in metrics else None
    _print_metrics(metrics, baselines, paper)


@app.command("predict")
def predict_command(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file with sound.")],
    checkpoint: Annotated[
        str, typer.Option(help="Checkpoint folder or file of `avs train`, or the name of a shipped one.")
    ] = "mini-s4",
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: build/predict/<name>.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Take the sound from this file.")] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="0: the mean code; K: K codes drawn from the prior, and maps of uncertainty.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    fps: Annotated[str, typer.Option(help="Masks a second: 1 to the video's own rate, or native.")] = "1",
    size: Annotated[
        int | None, typer.Option(help="Side that the network runs at, a multiple of 32; default: as it was trained.")
    ] = None,
    overlap: Annotated[
        int, typer.Option(min=0, help="Seconds that neighbouring windows share; there, their results are averaged.")
    ] = 0,
    masks: Annotated[
        Literal["png", "npz", "rle"], typer.Option(help="A picture a mask, or one file: arrays, COCO run lengths.")
    ] = "png",
    overlay: Annotated[Literal["mp4"], typer.Option(help="Form of the overlay.")] = "mp4",
    no_overlay: Annotated[bool, typer.Option("--no-overlay", help="Write no overlay.")] = False,
    bf16: BFloat16 = False,
    quiet: Quiet = False,
) -> None:
    """Segment a video of your own: overlay.mp4 with sound, masks, strip.png, and predictions.json by the second."""
    from avslib.video.files import write_prediction
    from avslib.video.predictor import Predictor

    out = out or Path("build/predict") / video.stem
    predictor = Predictor.from_checkpoint(checkpoint, bf16=bf16)
    rows = write_prediction(
        predictor,
        video,
        out,
        audio,
        samples,
        seed,
        fps,
        size,
        overlap,
        progress=not quiet,
        masks=masks,
        overlay=not no_overlay,
    )
    seen = sum(row["area"] > 0 for row in rows)
    files = "masks, strip.png and predictions.json" if no_overlay else "overlay.mp4, masks, strip.png, predictions.json"
    console.print(f"{out}: {files}; {len(rows)} s, a mask in {seen} of them", markup=False)


@app.command("config")
def config_command(
    preset: Annotated[str, typer.Argument(help="Name of a preset, or a YAML file.")] = "paper",
    override: Overrides = None,
) -> None:
    """Show a resolved configuration with what every field means."""
    from avslib.config import load_config

    config = load_config(preset, override or [])
    for section in ("model", "loss", "data", "train"):
        part = getattr(config, section)
        console.print(f"[bold]{section}:[/bold]")
        for name, info in type(part).model_fields.items():
            console.print(f"  {name}: {getattr(part, name)!r}", highlight=False, markup=False, end="")
            console.print(f"  [dim]# {info.description}[/dim]", highlight=False)


@app.command("demo")
def demo_command(
    seed: Annotated[
        list[int] | None, typer.Option(help="Training seed; several give mean and sd in the table.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Records, tables and pictures.")] = Path("results/demo"),
    work: Annotated[Path, typer.Option(help="Data and checkpoints.")] = Path("build/demo"),
    quiet: Quiet = False,
) -> None:
    """The main job: build Mini-AVS, train the full ECMVAE on S4 and MS3, score, print the table, draw the pictures."""
    from avslib.study.demo import demo

    demo(seeds=tuple(seed or [0]), out=out, work=work, progress=not quiet, console=console)


def _print_metrics(metrics: dict, baselines: dict, paper: dict | None = None) -> None:
    """Scores from 0 to 1; the published row, in percent, beside ours where there is one."""
    from rich.table import Table

    names = list(next(iter(metrics.values())))
    view = Table("method", "split", *names)
    for label, splits in {"model": metrics, **baselines}.items():
        for split, values in splits.items():
            view.add_row(label, split, *(f"{values[n]:.3f}" for n in names))
    if paper:
        cells = [f"{float(paper[n]) / 100:.3f}" if n in paper else "" for n in names]
        view.add_row(f"published ({paper['source']})", "", *cells)
    console.print(view)


def main() -> None:
    """Entry point: an error becomes one sentence with its code on stderr, and its exit code (2 for bad input)."""
    if hasattr(sys.stdout, "reconfigure"):  # in a locale such as C, a letter that it lacks must not end the command
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    if arguments[:2] == ["notebooks", "run"]:
        arguments = notebooks.join_pairs(arguments)
    try:
        app(arguments, prog_name="avs")
    except Exception as error:
        if logging.getLogger("avslib").isEnabledFor(logging.INFO):
            traceback.print_exc()
        sentence = told(error)
        print(f"avs: {sentence} [{sentence.code}]", file=sys.stderr)
        sys.exit(sentence.exit_code)
