"""The folder of a prediction: masks in one of three forms, overlay, strip, and `predictions.json`, all streamed."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from avslib.core.errors import OutputError, RecordError, UsageError
from avslib.core.files import atomic_path, flush_to_disk
from avslib.core.locks import locked
from avslib.video.filmstrip import keep_some, strip_figure
from avslib.video.masks import FORMS, mask_files, masks_in, write_grey
from avslib.video.overlay import Second, overlay_video
from avslib.video.reader import BrokenOff
from avslib.video.windows import Prediction

PREDICTIONS, UNFINISHED = "predictions.json", ".unfinished"
SINGLE = ("overlay.mp4", "masks.npz", "masks.jsonl", "strip.png")


def write_prediction(
    prediction: Prediction, out: str | Path, *, masks: str = "png", overlay: bool = True
) -> list[dict[str, Any]]:
    """Write the results of :meth:`avslib.video.predictor.Predictor.predict` into the folder `out`, in constant memory.

    ``predictions.json``: settings and, under ``seconds``, :meth:`Second.summary` of each second (with several steps in
    a second their means, and the box around their boxes), which are returned. The masks, one for each step:
    ``masks/0000.png`` ... (255 = sounding), ``masks.npz`` or ``masks.jsonl`` (COCO's run lengths); `read_masks` reads
    all three. ``strip.png``; with `overlay` ``overlay.mp4``; with samples ``uncertainty/0000.png`` ... (255 = 1 bit).

    `predictions.json` comes last, so a folder that has it is whole, and is not written into again. What an interrupted
    call left is replaced. Of a video that breaks off everything up to there is written, and ``broke_off`` says where.

    Raises:
        AvsError: an unknown form of masks; an `out` that is a file, holds a prediction or other files of these names,
            or is being written to; as the prediction. `BrokenOff` after the files are written.
    """
    out = Path(out)
    if masks not in FORMS:
        raise UsageError(f"masks is {masks!r}; expected one of {', '.join(FORMS)}")
    if out.is_file():
        raise OutputError(f"{out}: is a file; name a folder for the results")
    left_over = (out / UNFINISHED).exists()
    _require_free(out, () if left_over else (*SINGLE, "masks", "uncertainty"))
    # the mark of an unfinished prediction is its lock, to distinguish a running one from one that was killed
    with locked(out / UNFINISHED, "a prediction", patience=0):
        _require_free(out)  # another process may have been faster
        if left_over:
            for old in [*out.glob("masks/[0-9]*.png"), *out.glob("uncertainty/[0-9]*.png"), *map(out.joinpath, SINGLE)]:
                old.unlink(missing_ok=True)
        seconds = _write(prediction, out, masks, overlay)
    (out / UNFINISHED).unlink(missing_ok=True)
    if broken := prediction.broken:
        raise BrokenOff(f"{broken}; what there is of it is in {out}", broken.at, broken.declared) from broken
    return seconds


def _require_free(out: Path, names: tuple[str, ...] = ()) -> None:
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

    with mask_files(form, out, digits) as add:
        results = keep_some(written(add), strip)
        with suppress(BrokenOff):
            if overlay:
                overlay_video(prediction.video, results, out / "overlay.mp4", prediction.audio)
        with suppress(BrokenOff):
            for _ in results:  # all of them, or a tail that is too short for a frame of the overlay
                pass
    with atomic_path(out / "strip.png") as part:
        strip_figure(strip).savefig(part, format="png")
    info, broken = prediction.info, prediction.broken
    content = {
        "video": Path(prediction.video).name,
        "width": info.width,
        "height": info.height,
        "fps": prediction.rate,
        "size": prediction.size,
        "overlap": prediction.overlap,
        "samples": prediction.samples,
        "seed": prediction.seed,
        "masks": form,
        "broke_off": broken and {"at": round(broken.at, 3), "declared": round(broken.declared, 3)},
        "seconds": [_joined(list(group)) for _, group in groupby(rows, itemgetter("second"))],
    }
    flush_to_disk(out)
    with atomic_path(out / PREDICTIONS) as part:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return content["seconds"]


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The summaries of the steps of a second as one."""
    joined = dict(rows[0])
    for name in joined.keys() - {"second", "time", "box"}:
        values = [row[name] for row in rows if row[name] is not None]
        joined[name] = round(sum(values) / len(values), 5) if values else None
    boxes = np.array([row["box"] for row in rows if row["box"]])
    joined["box"] = [*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()] if len(boxes) else None
    return joined


def read_masks(out: str | Path) -> Iterator[Bool[np.ndarray, "H W"]]:
    """The masks that `write_prediction` wrote into a folder, in their order, in any form.

    Raises:
        AvsError: no predictions.json: not a folder of `write_prediction`, or an unfinished one; masks that cannot be
            read.
    """
    out = Path(out)
    try:
        yield from masks_in(json.loads((out / PREDICTIONS).read_text(encoding="utf-8"))["masks"], out)
    except Exception as error:  # PIL, NumPy and zipfile raise many kinds for a damaged file
        raise RecordError(f"{out}: holds no whole prediction ({error!r}); make one with `avs predict VIDEO`") from error
