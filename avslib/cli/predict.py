"""`avs predict`: segment what sounds in a video of your own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from avslib.cli.options import CHECKPOINT, BFloat16, Device, Quiet, say

SAMPLES = "0: use the mean codes; K: draw K codes from the prior, average their predictions, and add uncertainty maps."


def predict_command(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file with sound.")],
    checkpoint: Annotated[str, typer.Option(help=CHECKPOINT)] = "mini-s4",
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: build/predict/<name>.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Take the sound from this file.")] = None,
    track: Annotated[int | None, typer.Option(min=1, help="Number of the sound track to use.")] = None,
    samples: Annotated[int, typer.Option(min=0, help=SAMPLES)] = 0,
    seed: Annotated[int, typer.Option(help="Random seed for the samples.")] = 0,
    fps: Annotated[str, typer.Option(help="Masks per second, from 1 to the video's rate, or native.")] = "1",
    size: Annotated[int | None, typer.Option(help="Side of the network's input; default: as in training.")] = None,
    overlap: Annotated[int, typer.Option(min=0, help="Seconds that neighbouring windows share and average.")] = 0,
    masks: Annotated[Literal["png", "npz", "rle"], typer.Option(help="Images, arrays or COCO run lengths.")] = "png",
    overlay: Annotated[Literal["mp4"], typer.Option(help="Format of the overlay.")] = "mp4",
    no_overlay: Annotated[bool, typer.Option("--no-overlay", help="Write no overlay video.")] = False,
    device: Device = "auto",
    bf16: BFloat16 = False,
    quiet: Quiet = False,
) -> None:
    """Segment a video of your own: overlay.mp4 with sound, masks, strip.png, predictions.json (a row per second)."""
    from avslib.video.prediction_files import write_prediction
    from avslib.video.predictor import Predictor

    out = out or Path("build/predict") / video.stem
    predictor = Predictor.from_checkpoint(checkpoint, device, bf16=bf16)
    prediction = predictor.predict(video, audio or track, samples, seed, fps, size, overlap, progress=not quiet)
    rows = write_prediction(prediction, out, masks=masks, overlay=not no_overlay)
    seen = sum(row["area"] > 0 for row in rows)
    files = "masks, strip.png and predictions.json" if no_overlay else "overlay.mp4, masks, strip.png, predictions.json"
    say(f"{out}: {files}; {len(rows)} s, a mask in {seen} of them")
