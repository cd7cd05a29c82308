"""The files of a segmented video: masks in one of three forms, overlay, strip, and `predictions.json`, all streamed."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from avslib.errors import OutputError, RecordError, UsageError
from avslib.files import atomic_path
from avslib.inline import figure_png
from avslib.rle import rle_decode, rle_encode
from avslib.segment_video import Second, overlay_video
from avslib.strip import Spread, strip_figure
from avslib.video import BrokenOff, probe
from avslib.windows import OVERLAP, predict_video, steps_a_second

__all__ = ["MASKS", "read_masks", "write_prediction"]

MASKS = ("png", "npz", "rle")
SINGLE = ("overlay.mp4", "masks.npz", "masks.jsonl", "strip.png")


def write_prediction(
    predictor: Any, video: str | Path, out: str | Path, audio: str | Path | None = None, samples: int = 0,
    seed: int = 0, fps: int | str = 1, size: int | None = None, overlap: int = OVERLAP, progress: bool = False,
    *, masks: str = "png", overlay: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Segment a video and write what was found into the folder `out`, in constant memory.

    ``predictions.json``: settings and, under ``seconds``, :meth:`Second.summary` of each second; with several steps a
    second the mean of their areas, confidences and uncertainties, and the box around their boxes. The masks, one a
    step: ``masks/0000.png`` ... (255 = sounding), or ``masks.npz`` (an array a step), or ``masks.jsonl`` (COCO's run
    lengths, a line a step); `read_masks` reads all three. ``overlay.mp4``, unless `overlay` is False; ``strip.png``;
    with samples ``uncertainty/0000.png`` too (255 = 1 bit).

    Nothing is written before the video is known to be readable; `predictions.json` comes last, so a folder that has it
    is whole. Of a video that breaks off everything up to there is written, and ``broke_off`` says where.

    Returns:
        what `predictions.json` holds under ``seconds``.

    Raises:
        AvsError: as :meth:`avslib.predict.Predictor.predict`; `BrokenOff` after the files are written; an `out` that is
            a file, or where the video itself would be written over; another form of masks.
    """
    out, rows, strip = Path(out), _Rows(), Spread()
    if masks not in MASKS:
        raise UsageError(f"masks is {masks!r}; expected one of {', '.join(MASKS)}")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; name a folder for the results")
    for source in (Path(path) for path in (video, audio) if path is not None):
        if source.name in SINGLE and source.resolve().parent == out.resolve():
            raise OutputError(f"{source}: lies where the results would be written; name another folder for them")
    seconds = predict_video(predictor, video, audio, samples, seed, fps, size, overlap, progress)
    info = probe(video)
    rate = steps_a_second(fps, info, video)
    digits, broken = 4 if rate == 1 else 6, None
    _clear(out)

    def kept(add: Callable[[Second], None]) -> Iterator[Second]:
        nonlocal broken
        try:
            for second in seconds:
                add(second)
                if second.uncertainty is not None:
                    grey = (second.uncertainty * 255).round().astype(np.uint8)
                    _picture(out / "uncertainty" / f"{second.index:0{digits}d}.png", grey)
                rows.add(second.summary())
                strip.add(second)
                yield second
        except BrokenOff as error:
            broken = error

    with _mask_files(masks, out, digits) as add:
        results = kept(add)
        if overlay:
            overlay_video(video, results, out / "overlay.mp4", audio, partial=True)
        for _ in results:  # all of them, or a tail that is too short for a frame of the overlay
            pass
    with atomic_path(out / "strip.png") as part:
        part.write_bytes(figure_png(strip_figure(strip.seconds)))
    content = {
        "video": Path(video).name, "width": info.width, "height": info.height, "fps": rate,
        "size": size or predictor.image_size, "overlap": overlap, "samples": samples, "seed": seed, "masks": masks,
        "broke_off": broken and {"at": round(broken.at, 3), "declared": round(broken.declared, 3)},
        "seconds": rows.finish(),
    }  # fmt: skip
    with atomic_path(out / "predictions.json") as part:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    if broken:
        raise BrokenOff(f"{broken}; what there is of it is in {out}", broken.at, broken.declared) from broken
    return rows.finish()


def _clear(out: Path) -> None:
    """Remove what an earlier run left; a file that only has the name of one is not touched."""
    ours = (out / "predictions.json").is_file()
    (out / "predictions.json").unlink(missing_ok=True)
    single = [out / name for name in SINGLE] if ours else []
    for old in [*out.glob("masks/[0-9]*.png"), *out.glob("uncertainty/[0-9]*.png"), *single]:
        old.unlink(missing_ok=True)


class _Rows:
    """Summaries of steps, joined by the second."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        if self.open and self.open[0]["second"] != row["second"]:
            self.finish()
        self.open.append(row)

    def finish(self) -> list[dict[str, Any]]:
        if len(self.open) == 1:
            self.rows += self.open
        elif self.open:
            joined = dict(self.open[0])
            for name in joined.keys() - {"second", "time", "box"}:
                values = [row[name] for row in self.open if row[name] is not None]
                joined[name] = round(sum(values) / len(values), 5) if values else None
            boxes = np.array([row["box"] for row in self.open if row["box"]])
            joined["box"] = [*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()] if len(boxes) else None
            self.rows.append(joined)
        self.open = []
        return self.rows


@contextmanager
def _mask_files(kind: str, out: Path, digits: int) -> Iterator[Callable[[Second], None]]:
    """A function that writes the mask of a step; the single file of npz and rle gets its name at the end."""
    if kind == "png":
        yield lambda s: _picture(out / "masks" / f"{s.index:0{digits}d}.png", s.mask * np.uint8(255))
    elif kind == "npz":
        with atomic_path(out / "masks.npz") as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:

            def add(second: Second) -> None:
                with archive.open(f"{second.index:0{digits}d}.npy", "w") as stream:
                    np.lib.format.write_array(stream, np.ascontiguousarray(second.mask), allow_pickle=False)

            yield add
    else:
        with atomic_path(out / "masks.jsonl") as part, open(part, "w", encoding="utf-8", newline="\n") as stream:

            def add(second: Second) -> None:
                row = {"step": second.index, "time": round(second.time, 4), "size": list(second.mask.shape)}
                stream.write(json.dumps(row | {"counts": rle_encode(second.mask)}) + "\n")

            yield add


def read_masks(out: str | Path) -> Iterator[Bool[np.ndarray, "H W"]]:
    """The masks that `write_prediction` wrote into a folder, in their order, whatever their form.

    Raises:
        AvsError: no predictions.json: the folder is none of `write_prediction`, or was not finished.
    """
    out = Path(out)
    try:
        kind = json.loads((out / "predictions.json").read_text(encoding="utf-8"))["masks"]
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(f"{out}: holds no whole prediction; make one with `avs predict VIDEO --out {out}`") from error
    if kind == "png":
        yield from (np.asarray(Image.open(path)) > 0 for path in sorted(out.glob("masks/[0-9]*.png")))
    elif kind == "npz":
        with np.load(out / "masks.npz") as arrays:
            yield from (arrays[name] for name in sorted(arrays.files))
    else:
        with open(out / "masks.jsonl", encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                yield rle_decode(line["counts"], line["size"])


def _picture(path: Path, values: UInt8[np.ndarray, "H W"]) -> None:
    with atomic_path(path) as part:
        Image.fromarray(values).save(part, format="png")
