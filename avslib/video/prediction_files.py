"""The folder of a prediction: masks in one of three forms, overlay, strip, and `predictions.json`, all streamed."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image

from avslib.core.errors import OutputError, RecordError, UsageError
from avslib.core.files import atomic_path, flush_to_disk, locked
from avslib.video.overlay_video import overlay_video, strip_figure
from avslib.video.predictor import Prediction
from avslib.video.reader import BrokenOff
from avslib.video.second import Second, keep_some

FORMS = ("png", "npz", "rle")
PREDICTIONS, UNFINISHED = "predictions.json", ".unfinished"
SINGLE = ("overlay.mp4", "masks.npz", "masks.jsonl", "strip.png")


def write_prediction(
    prediction: Prediction, out: str | Path, *, masks: str = "png", overlay: bool = True
) -> list[dict[str, Any]]:
    """Write the results of :meth:`avslib.video.predictor.Predictor.predict` into the folder `out`, in constant memory.

    ``predictions.json``: settings and, under ``seconds``, :meth:`Second.summary` of each second (with several steps in
    a second their means, and the box around their boxes), which are returned. The masks, one for each step:
    ``masks/0000.png`` ... (255 = sounding), ``masks.npz`` or ``masks.jsonl`` (COCO's run lengths). ``strip.png``; with
    `overlay` ``overlay.mp4``; with samples ``uncertainty/0000.png`` ... (255 = 1 bit).

    `predictions.json` comes last, so a folder that has it is whole, and is not written into again; what an interrupted
    call left is replaced. Raises AvsError as the prediction, and where `out` is a file, in use, or holds files of these
    names; `BrokenOff` after everything up to there is written, with ``broke_off`` saying where.
    """
    out = Path(out)
    if masks not in FORMS:
        raise UsageError(f"masks is {masks!r}; expected one of {', '.join(FORMS)}")
    if out.is_file():
        raise OutputError(f"{out}: is a file; name a folder for the results")
    sources = [Path(path).resolve() for path in (prediction.video, prediction.audio) if isinstance(path, str | Path)]
    if any((out / name).resolve() in sources for name in SINGLE):
        raise OutputError(f"{out}: the results would replace their source; name another folder by --out")
    left_over = (out / UNFINISHED).exists()
    if not left_over:
        _require_free(out, *SINGLE, "masks", "uncertainty")
    # the mark of an unfinished prediction is its lock, to distinguish a running one from one that was killed
    with locked(out / UNFINISHED, "a prediction", patience=0):
        _require_free(out)
        if left_over:
            for old in [*out.glob("masks/[0-9]*.png"), *out.glob("uncertainty/[0-9]*.png"), *map(out.joinpath, SINGLE)]:
                old.unlink(missing_ok=True)
        seconds = _write(prediction, out, masks, overlay)
    (out / UNFINISHED).unlink(missing_ok=True)
    if broken := prediction.broken:
        raise BrokenOff(f"{broken}; what there is of it is in {out}", broken.at, broken.declared) from broken
    return seconds


def _require_free(out: Path, *names: str) -> None:
    for name in (PREDICTIONS, *names):
        if (out / name).exists():
            raise OutputError(f"{out / name}: exists already; name another folder by --out, or remove it first")


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
    with atomic_path(out / "strip.png") as part:
        strip_figure(strip).savefig(part, format="png")
    info, broken = prediction.info, prediction.broken
    content = {"video": Path(prediction.video).name, "width": info.width, "height": info.height, "fps": prediction.rate}
    content |= {"size": prediction.size, "overlap": prediction.overlap, "samples": prediction.samples}
    content |= {"seed": prediction.seed, "masks": form}
    content["broke_off"] = broken and {"at": round(broken.at, 3), "declared": round(broken.declared, 3)}
    content["seconds"] = [_joined(list(group)) for _, group in groupby(rows, itemgetter("second"))]
    flush_to_disk(out)
    with atomic_path(out / PREDICTIONS) as part:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return content["seconds"]


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = rows[0].keys() - {"second", "time", "box"}
    values = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    boxes = np.array([row["box"] for row in rows if row["box"]])
    box = [*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()] if len(boxes) else None
    return rows[0] | {name: round(sum(v) / len(v), 5) if v else None for name, v in values.items()} | {"box": box}


def read_masks(out: str | Path) -> Iterator[Bool[np.ndarray, "H W"]]:
    """The masks that `write_prediction` wrote into a folder, in their order, in any form.

    Raises RecordError for another folder, an unfinished one, or masks that cannot be read.
    """
    out = Path(out)
    try:
        form = json.loads((out / PREDICTIONS).read_text(encoding="utf-8"))["masks"]
        if form == "png":
            for path in sorted(out.glob("masks/[0-9]*.png"), key=lambda path: int(path.stem)):
                yield np.asarray(Image.open(path)) > 0
        elif form == "npz":
            with np.load(out / "masks.npz") as arrays:
                yield from (arrays[name] for name in sorted(arrays.files, key=int))
        else:
            with open(out / "masks.jsonl", encoding="utf-8") as lines:
                yield from (rle_decode(row["counts"], row["size"]) for row in map(json.loads, lines))
    except Exception as error:  # PIL, NumPy and zipfile raise many kinds for a damaged file
        raise RecordError(f"{out}: holds no whole prediction ({error!r}); make one with `avs predict VIDEO`") from error


@contextmanager
def mask_files(form: str, out: Path, digits: int) -> Iterator[Callable[[Second], None]]:
    """A function that writes the mask of a step; the single file of npz and rle gets its name at the end."""
    if form == "png":
        yield lambda s: write_grey(out / "masks" / f"{s.index:0{digits}d}.png", s.mask * np.uint8(255))
    elif form == "npz":
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


def write_grey(path: Path, values: UInt8[np.ndarray, "H W"]) -> None:
    """Write a PNG beside and renamed; the caller flushes the folder."""
    with atomic_path(path, flush=False) as part:
        Image.fromarray(values).save(part, format="png")


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


def rle_decode(counts: Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of (height, width) that `rle_encode` counted. Raises ValueError where the counts do not sum up to it.

    >>> rle_decode([2, 1, 1, 2], (2, 3)).astype(int)
    array([[0, 1, 1],
           [0, 0, 1]])
    """
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T
