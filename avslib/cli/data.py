"""`avs data`: build Mini-AVS, check a folder, bring videos into shape, pack clips for streaming."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from avslib.cli.options import Quiet, Task, Workers, console, require_beside, say
from avslib.core.errors import OutputError

app = typer.Typer(help="Build Mini-AVS; check, prepare or pack a folder in AVSBench layout.", no_args_is_help=True)


@app.command("build-mini")
def build_mini_command(
    out: Annotated[Path, typer.Option(help="New folder for the build.")] = Path("build/data/mini-small"),
    size: Annotated[
        Literal["small", "full", "ms3", "listening", "ambiguous"],
        typer.Option(help="small: under a minute; full: several GB; ms3, listening, ambiguous: clips of the studies."),
    ] = "small",
    seed: Annotated[int, typer.Option(help="Varies the compositions, not which assets are held out for tests.")] = 0,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Compose Mini-AVS from real photographs and sounds, in AVSBench's folder layout."""
    from avslib.data.mini.build import build_mini

    manifest = build_mini(out, size, seed, workers=workers, progress=not quiet, verify=True)
    clips = " and ".join(f"{sum(n.values())} {task.upper()}" for task, n in manifest["counts"].items())
    say(f"{out}: {clips} clips, size {size}, seed {seed}")


@app.command("check")
def check_command(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with Single-source/ and/or Multi-sources/.")],
    deep: Annotated[bool, typer.Option(help="Read every file, not only the names.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    fix_list: Annotated[Path | None, typer.Option(help="Write a list of faulty clips, for -o data.skip=FILE.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw a few clips of each task with masks into this PNG.")] = None,
    quiet: Quiet = False,
) -> None:
    """Check a data folder. Exit code 0: no fault; 1: usable, with warnings; 2: not usable."""
    from avslib.data.check import check

    for path in (fix_list, sheet):
        if path and path.exists():
            raise OutputError(f"{path}: already exists; name another file, or remove it first")
    report = check(root, deep=deep, progress=not quiet and not json)
    print(report.to_json()) if json else console.print(report)
    if fix_list:
        report.write_fix_list(fix_list)
        if not json:
            say(f"{fix_list}: {len(report.bad_clips)} clips to leave out")
    if sheet:
        from avslib.study.plots import data_sheet

        data_sheet(root, sheet, skip=report.bad_clips)
    raise typer.Exit(report.exit_code)


@app.command("convert-audio")
def convert_audio_command(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with AVSBench's log-mel pickles.")],
    quiet: Quiet = False,
) -> None:
    """Convert the log-mel pickles to safetensors beside them, once; unsafe pickles are rejected and listed."""
    from avslib.data.pickles import convert_audio

    done, refused = convert_audio(root, progress=not quiet)
    for sentence in refused:
        say(f"refused: {sentence}")
    say(f"{root}: {done} pickles converted, {len(refused)} refused")
    raise typer.Exit(1 if refused else 0)


@app.command("prepare")
def prepare_command(
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="Folder of videos, a video, or a csv beside them.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to fill; existing clips are kept.")],
    task: Task = "s4",
    csv: Annotated[Path | None, typer.Option(help="Clips to cut, as the task's csv; default: all, end to end.")] = None,
    split: Annotated[str, typer.Option(help="Split of the clips, unless the csv names one.")] = "test",
    masks: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder laid out like gt_masks; masks are copied.")
    ] = None,
    size: Annotated[int, typer.Option(min=0, help="Side of the frames in pixels; 0: as in the video.")] = 224,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of threads; default: one for each CPU.")] = None,
    quiet: Quiet = False,
) -> None:
    """Cut videos into clips of 5 s in AVSBench's layout. Exit code 0: all; 1: some failed or lack masks; 2: none."""
    from avslib.video.prepare import prepare

    result = prepare(videos, out, task, csv, split=split, masks=masks, size=size, workers=workers, progress=not quiet)
    for clip, reason in list(result.failed.items())[:10]:
        say(f"failed: {clip}: {reason}")
    counts = f"{len(result.made)} clips made, {len(result.there)} were there, {len(result.failed)} failed"
    counts += f", {len(result.unmasked)} have no masks" * bool(result.unmasked)
    say(f"{result.folder}: {counts}; all of them in {result.log}")
    raise typer.Exit(result.exit_code)


@app.command("pack")
def pack_command(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder in AVSBench layout.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the shards and index.json.")],
    task: Task = "s4",
    split: Annotated[list[str] | None, typer.Option(help="May be repeated; default: all splits of the csv.")] = None,
    shard_mb: Annotated[float, typer.Option(min=0.1, max=1000, help="Size of a shard in MB.")] = 128,
    skip: Annotated[Path | None, typer.Option(help="File with names of clips to leave out, one on each line.")] = None,
    masks: Annotated[bool, typer.Option(help="--no-masks: for clips that have none.")] = True,
    measure: Annotated[bool, typer.Option(help="Then compare the speed of reading, packed and loose.")] = False,
    quiet: Quiet = False,
) -> None:
    """Pack clips into checksummed WebDataset shards, from which -o data.packed=OUT streams the train split."""
    from avslib.data.avsbench import read_skip_list
    from avslib.data.packed import pack

    if measure:
        require_beside("benchmarks", "avs data pack --measure")
    options = {"shard_mb": shard_mb, "skip": read_skip_list(skip) if skip else (), "masks": masks}
    index = pack(root, out, task, split, **options, progress=not quiet)
    for name, found in index.splits.items():
        size = sum(shard.bytes for shard in found.shards) / 1e6
        say(f"{out}: {name}: {len(found.names)} clips in {len(found.shards)} shards, {size:.1f} MB")
    if measure:
        from benchmarks.command import packed_sentence

        say(packed_sentence(root, task, out))
