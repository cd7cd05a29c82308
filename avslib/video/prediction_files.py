"""The folder of a prediction: masks in one of three forms, overlay, strip, and `predictions.json`, all streamed."""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from avslib.core.errors import UsageError
from avslib.core.files import new_folder
from avslib.video.overlay_video import overlay_video, strip_figure
from avslib.video.predictor import Prediction
from avslib.video.reader import BrokenOff
from avslib.video.second import Second, keep_some

FORMS = ("png", "npz", "rle")
PREDICTIONS = "predictions.json"


def write_prediction(
    prediction: Prediction, out: str | Path, *, masks: str = "png", overlay: bool = True
) -> list[dict[str, Any]]:
    """Write the results of :meth:`avslib.video.predictor.Predictor.predict` into the folder `out`, in constant memory.

    ``predictions.json``: settings and, under ``seconds``, :meth:`Second.summary` of each second (with several steps in
    a second their means, and the box around their boxes), which are returned. The masks, one for each step:
    ``masks/0000.png`` ... (255 = sounding), ``masks.npz`` or ``masks.jsonl`` (COCO's run lengths). ``strip.png``; with
    `overlay` ``overlay.mp4``; with samples ``uncertainty/0000.png`` ... (255 = 1 bit).

    The folder appears when all of it is written. Raises AvsError as the prediction, and where `out` is not new or
    empty, or in use; `BrokenOff` after everything up to there is written, with ``broke_off`` saying where.
    """
    out = Path(out)
    if masks not in FORMS:
        raise UsageError(f"masks is {masks!r}; expected one of {', '.join(FORMS)}")
    with new_folder(out, "a prediction", patience=0) as part:
        seconds = _write(prediction, part, masks, overlay)
    if broken := prediction.broken:
        raise BrokenOff(f"{broken}; what there is of it is in {out}", broken.at, broken.declared) from broken
    return seconds


def _write(prediction: Prediction, out: Path, form: str, overlay: bool) -> list[dict[str, Any]]:
    rows, strip, digits = [], [], 4 if prediction.rate == 1 else 6

    def written(add: Callable[[Second], None]) -> Iterator[Second]:
        for second in prediction:
            add(second)
            if second.uncertainty is not None:
                grey = (second.uncertainty * 255).round().astype(np.uint8)
                write_grey(out / "uncertainty" / f"{second.index:0{digits}d}.png", grey)
            rows.append(second.summary())
            yield second

    with mask_files(form, out, digits) as add, suppress(BrokenOff):
        results = keep_some(written(add), strip)
        if overlay:
            overlay_video(prediction.video, results, out / "overlay.mp4", prediction.audio)
        for _ in results:  # all of them, or a tail that is too short for a frame of the overlay
            pass
    strip_figure(strip).savefig(out / "strip.png")
    info, broken = prediction.info, prediction.broken
    content = {"video": Path(prediction.video).name, "width": info.width, "height": info.height, "fps": prediction.rate}
    content |= {"size": prediction.size, "overlap": prediction.overlap, "samples": prediction.samples}
    content |= {"seed": prediction.seed, "masks": form}
    content["broke_off"] = broken and {"at": round(broken.at, 3), "declared": round(broken.declared, 3)}
    content["seconds"] = [_joined(list(group)) for _, group in groupby(rows, itemgetter("second"))]
    (out / PREDICTIONS).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return content["seconds"]


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = rows[0].keys() - {"second", "time", "box"}
    values = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    boxes = np.array([row["box"] for row in rows if row["box"]])
    box = [*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()] if len(boxes) else None
    return rows[0] | {name: round(sum(v) / len(v), 5) if v else None for name, v in values.items()} | {"box": box}


@contextmanager
def mask_files(form: str, out: Path, digits: int) -> Iterator[Callable[[Second], None]]:
    """A function that writes the mask of a step."""
    if form == "png":
        yield lambda s: write_grey(out / "masks" / f"{s.index:0{digits}d}.png", s.mask * np.uint8(255))
    elif form == "npz":
        with zipfile.ZipFile(out / "masks.npz", "w", zipfile.ZIP_DEFLATED) as archive:

            def add(second: Second) -> None:
                with archive.open(f"{second.index:0{digits}d}.npy", "w") as stream:
                    np.lib.format.write_array(stream, np.ascontiguousarray(second.mask), allow_pickle=False)

            yield add
    else:
        with open(out / "masks.jsonl", "w", encoding="utf-8", newline="\n") as stream:

            def add(second: Second) -> None:
                row = {"step": second.index, "time": round(second.time, 4), "size": list(second.mask.shape)}
                stream.write(json.dumps(row | {"counts": rle_encode(second.mask)}) + "\n")

            yield add


def write_grey(path: Path, values: UInt8[np.ndarray, "H W"]) -> None:
    """Write a PNG, and its folder where there is none."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path, compress_type=zlib.Z_RLE)  # of flat areas, faster and smaller than by default


def rle_encode(mask: Shaped[np.ndarray, "H W"]) -> list[int]:
    """The ``counts`` of COCO's uncompressed masks (Lin et al., ECCV 2014): lengths of the runs of a mask read down its
    columns; the first run is of zeros and may be empty.

    >>> rle_encode(np.array([[0, 1, 1], [0, 0, 1]])), rle_encode(np.ones((2, 2)))
    ([2, 1, 1, 2], [0, 4])
    """
    flat = np.asarray(mask).astype(bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *counts] if len(flat) and flat[0] else counts
