"""`avs data`: build Mini-AVS, check a folder, bring videos into shape, pack clips for streaming."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from avslib.core.errors import OutputError

app = typer.Typer(
    help="Build Mini-AVS, check or prepare a folder in AVSBench layout, pack it for streaming.", no_args_is_help=True
)
console = Console()

Task = Literal["s4", "ms3"]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@app.command("build-mini")
def build_mini_command(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not hold anything else.")] = Path(
        "build/data/mini-small"
    ),
    size: Annotated[
        Literal["small", "full"], typer.Option(help="small: under a minute; full: minutes, several GB.")
    ] = "small",
    seed: Annotated[
        int, typer.Option(help="Varies the compositions, never which assets are held out for the tests.")
    ] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one for each CPU.")] = None,
    quiet: Quiet = False,
) -> None:
    """Compose Mini-AVS from real photographs and sounds, in AVSBench's folder layout."""
    from avslib.data.mini.build import build_mini

    manifest = build_mini(out, size, seed, workers=workers, progress=not quiet, verify=True)
    counts = {task: sum(splits.values()) for task, splits in manifest["counts"].items()}
    console.print(
        f"{out}: {counts['s4']} S4 and {counts['ms3']} MS3 clips, size {size}, seed {seed}",
        soft_wrap=True,
        markup=False,
    )


@app.command("check")
def check_command(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with Single-source/ and/or Multi-sources/.")],
    deep: Annotated[bool, typer.Option(help="Read every file, not only the names.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    fix_list: Annotated[
        Path | None, typer.Option(help="Write the clips with faults there; -o data.skip=FILE leaves them out.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw frames and masks of a few clips of each task into this PNG.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Check a data folder: exit code 0 sound, 1 usable with warnings, 2 not usable."""
    from avslib.data.check import check

    for path in (fix_list, sheet):
        if path and path.exists():
            raise OutputError(f"{path}: is there already; name another file, or remove it first")
    report = check(root, deep=deep, progress=not quiet and not json)
    print(report.to_json()) if json else console.print(report)
    if fix_list:
        report.write_fix_list(fix_list)
        if not json:
            console.print(f"{fix_list}: {len(report.bad_clips)} clips to leave out", soft_wrap=True, markup=False)
    if sheet:
        from avslib.study.plots import data_sheet

        data_sheet(root, sheet, skip=report.bad_clips)
    raise typer.Exit(report.exit_code)


@app.command("convert-audio")
def convert_audio_command(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with AVSBench's log-mel pickles.")],
    quiet: Quiet = False,
) -> None:
    """Keep the log-mel pickles as safetensors beside them, once; what a pickle should not hold is refused by name."""
    from avslib.data.pickles import convert_audio

    done, refused = convert_audio(root, progress=not quiet)
    for sentence in refused:
        console.print(f"refused: {sentence}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"{root}: {done} pickles converted, {len(refused)} refused", soft_wrap=True, markup=False)
    raise typer.Exit(1 if refused else 0)


@app.command("prepare")
def prepare_command(
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="Folder of videos, a video, or a csv beside them.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to fill; what is there already is kept.")],
    task: Annotated[Task, typer.Option(help="Layout: s4 (with categories) or ms3.")] = "s4",
    csv: Annotated[
        Path | None,
        typer.Option(help="Table of the clips in the form of the task's csv; without one, videos are cut end to end."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the clips where no csv says it.")] = "test",
    masks: Annotated[Path | None, typer.Option(help="Folder laid out as gt_masks, copied for the clips made.")] = None,
    size: Annotated[int, typer.Option(min=0, help="Side of the frames in pixels; 0: as in the video.")] = 224,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one for each CPU.")] = None,
    quiet: Quiet = False,
) -> None:
    """Cut videos into clips of 5 s in AVSBench's layout: exit code 0 all made, 1 some failed, 2 none could be."""
    from avslib.video.prepare import prepare

    result = prepare(videos, out, task, csv, split=split, masks=masks, size=size, workers=workers, progress=not quiet)
    for clip, reason in list(result.failed.items())[:10]:
        console.print(f"failed: {clip}: {reason}", highlight=False, markup=False, soft_wrap=True)
    counts = f"{len(result.made)} clips made, {len(result.there)} were there, {len(result.failed)} failed"
    console.print(f"{result.folder}: {counts}; all of them in {result.log}", soft_wrap=True, markup=False)
    raise typer.Exit(result.exit_code)


@app.command("pack")
def pack_command(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder in AVSBench layout.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the shards and index.json.")],
    task: Annotated[Task, typer.Option(help="s4 or ms3.")] = "s4",
    split: Annotated[
        list[str] | None, typer.Option(help="May be given several times; default: all splits of the csv.")
    ] = None,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard in MB.")] = 128,
    skip: Annotated[Path | None, typer.Option(help="File with the names of clips to leave out, one a line.")] = None,
    masks: Annotated[bool, typer.Option(help="--no-masks packs clips that have none.")] = True,
    measure: Annotated[
        bool, typer.Option(help="Then read the largest split from the loose and the packed files in turn.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Pack clips into checksummed WebDataset shards, from which -o data.packed=OUT streams the train split."""
    from avslib.data.avsbench import read_skip_list
    from avslib.data.packed import pack

    skipped = read_skip_list(skip) if skip else ()
    index = pack(root, out, task, split, shard_mb=shard_mb, skip=skipped, masks=masks, progress=not quiet)
    for name, found in index.splits.items():
        size = sum(shard.bytes for shard in found.shards) / 1e6
        text = f"{out}: {name}: {len(found.names)} clips in {len(found.shards)} shards, {size:.1f} MB"
        console.print(text, soft_wrap=True)
    if measure:
        from benchmarks.pack_speed import compare

        name = max(index.splits, key=lambda name: len(index.splits[name].names))
        speeds = compare(root, out, task, name, skip=skipped, masks=masks)
        console.print(
            f"{name}, clips/s: loose {speeds.loose:.1f}, packed {speeds.packed:.1f}, "
            f"packed / loose {speeds.ratio:.2f}; files alone, not decoded: {speeds.files_ratio:.2f}",
            highlight=False,
            soft_wrap=True,
        )
