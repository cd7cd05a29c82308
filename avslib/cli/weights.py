"""`avs weights`: released weights as checkpoints of this package."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from avslib.cli.options import say

app = typer.Typer(help="Import released weights; list the shipped ones.", no_args_is_help=True)


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(metavar="RELEASED.PTH", help="ECMVAE's weights as released.")],
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder; default: weights/<file name>.")] = None,
    backbone: Annotated[Literal["auto", "pvt_v2_b5", "resnet50"], typer.Option(help="auto: by its names.")] = "auto",
    task: Annotated[Literal["auto", "s4", "ms3"], typer.Option(help="auto: read off the file name.")] = "auto",
    vggish: Annotated[Path | None, typer.Option(help="VGGish's weights, which the model needs to run.")] = None,
) -> None:
    """Convert released weights into a checkpoint folder: safetensors and configuration."""
    from avslib.audio.vggish import load_vggish
    from avslib.weights.released import import_official

    if vggish:
        load_vggish(vggish)
    out = out or Path("weights") / source.stem
    unused = import_official(source, out, backbone, task, str(vggish.resolve()) if vggish else None)
    say(f"{out}: checkpoint; {len(unused)} tensors that no forward pass uses were left out")


@app.command("import-vggish")
def import_vggish_command(
    source: Annotated[Path, typer.Argument(metavar="VGGISH.PTH", help="VGGish's published state dict.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("weights/vggish.safetensors"),
) -> None:
    """Check VGGish's weights and keep them as safetensors, for -o model.audio_weights=FILE."""
    from avslib.audio.vggish import import_vggish

    say(f"{import_vggish(source, out)}: VGGish; use it by -o model.audio_weights={out}")


@app.command("list")
def list_command() -> None:
    """List the checkpoints that the package ships."""
    from avslib.weights.checkpoints import shipped_names

    say("\n".join(shipped_names()))
