"""The files of a segmented video: masks in one of three forms, overlay, strip, and `predictions.json`, all streamed."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from avslib.core.errors import OutputError, RecordError, UsageError
from avslib.core.files import atomic_path, flush_to_disk
from avslib.core.locks import locked
from avslib.course.show import figure_png
from avslib.video.filmstrip import Spread, strip_figure
from avslib.video.mask_files import READERS, hash_mask, mask_files, write_grey
from avslib.video.overlay import Second, overlay_video
from avslib.video.reader import BrokenOff, probe
from avslib.video.windows import OVERLAP, predict_video, steps_a_second

MASKS = ("png", "npz", "rle")
PREDICTIONS, UNFINISHED = "predictions.json", ".unfinished"
SINGLE = ("overlay.mp4", "masks.npz", "masks.jsonl", "strip.png")
OURS = (*SINGLE, "masks", "uncertainty")


def write_prediction(
    predictor: Any,
    video: str | Path,
    out: str | Path,
    audio: str | Path | None = None,
    samples: int = 0,
    seed: int = 0,
    fps: int | str = 1,
    size: int | None = None,
    overlap: int = OVERLAP,
    progress: bool = False,
    *,
    masks: str = "png",
    overlay: bool = True,
) -> list[dict[str, Any]]:
    """Segment a video and write what was found into the folder `out`, in constant memory.

    ``predictions.json``: settings and, under ``seconds``, :meth:`Second.summary` of each second; with several steps a
    second the mean of their areas, confidences and uncertainties, and the box around their boxes. The masks, one a
    step: ``masks/0000.png`` ... (255 = sounding), or ``masks.npz`` (an array a step), or ``masks.jsonl`` (COCO's run
    lengths, a line a step); `read_masks` reads all three. ``overlay.mp4``, unless `overlay` is False; ``strip.png``;
    with samples ``uncertainty/0000.png`` too (255 = 1 bit).

    Nothing is written before the video is known to be readable; `predictions.json` comes last, so a folder that has it
    is whole, and is not written into again. What an interrupted call left is replaced. Of a video that breaks off
    everything up to there is written, and ``broke_off`` says where.

    Returns:
        what `predictions.json` holds under ``seconds``.

    Raises:
        AvsError: as :meth:`Predictor.predict`; `BrokenOff` after the files are written; an `out` that is
            a file, holds a prediction or other files of these names, or is being written to; another form of masks.
    """
    out = Path(out)
    if masks not in MASKS:
        raise UsageError(f"masks is {masks!r}; expected one of {', '.join(MASKS)}")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; name a folder for the results")
    for source in (Path(path) for path in (video, audio) if path is not None):
        if source.name in SINGLE and source.resolve().parent == out.resolve():
            raise OutputError(f"{source}: lies where the results would be written; name another folder for them")
    left_over = (out / UNFINISHED).exists()
    _require_free(out, () if left_over else OURS)
    seconds = predict_video(predictor, video, audio, samples, seed, fps, size, overlap, progress)
    info = probe(video)
    rate = steps_a_second(fps, info, video)
    content = {
        "video": Path(video).name,
        "width": info.width,
        "height": info.height,
        "fps": rate,
        "size": size or predictor.image_size,
        "overlap": overlap,
        "samples": samples,
        "seed": seed,
        "masks": masks,
    }
    # the mark of an unfinished prediction is its lock, so that one that goes on is told from one that was killed
    with locked(out / UNFINISHED, "a prediction", patience=0):
        _require_free(out)  # another process may have been faster
        if left_over:
            _clear(out)
        broken = _write(out, content, seconds, 4 if rate == 1 else 6, video if overlay else None, audio)
    (out / UNFINISHED).unlink(missing_ok=True)
    if broken:
        raise BrokenOff(f"{broken}; what there is of it is in {out}", broken.at, broken.declared) from broken
    return content["seconds"]


def _require_free(out: Path, names: Sequence[str] = ()) -> None:
    if (out / PREDICTIONS).is_file():
        raise OutputError(f"{out}: holds a prediction already; name another folder by --out, or remove it first")
    for name in names:
        if (out / name).exists():
            raise OutputError(f"{out / name}: is there already, from elsewhere; name another folder by --out")


def _clear(out: Path) -> None:
    """Remove what an interrupted call left."""
    for old in [*out.glob("masks/[0-9]*.png"), *out.glob("uncertainty/[0-9]*.png"), *(out / name for name in SINGLE)]:
        old.unlink(missing_ok=True)


def _write(
    out: Path,
    content: dict[str, Any],
    seconds: Iterator[Second],
    digits: int,
    video: str | Path | None,
    audio: str | Path | None,
) -> BrokenOff | None:
    """Write all files, an overlay where a `video` is given; fills in `content`. Returns why the video breaks off."""
    rows, strip, digest, broken = _Rows(), Spread(), hashlib.sha256(), None

    def kept(add: Callable[[Second], None]) -> Iterator[Second]:
        nonlocal broken
        try:
            for second in seconds:
                add(second)
                hash_mask(digest, second.mask)
                if second.uncertainty is not None:
                    grey = (second.uncertainty * 255).round().astype(np.uint8)
                    write_grey(out / "uncertainty" / f"{second.index:0{digits}d}.png", grey)
                rows.add(second.summary())
                strip.add(second)
                yield second
        except BrokenOff as error:
            broken = error

    with mask_files(content["masks"], out, digits) as add:
        results = kept(add)
        if video is not None:
            overlay_video(video, results, out / "overlay.mp4", audio, partial=True)
        for _ in results:  # all of them, or a tail that is too short for a frame of the overlay
            pass
    with atomic_path(out / "strip.png") as part:
        part.write_bytes(figure_png(strip_figure(strip.seconds)))
    content["broke_off"] = broken and {"at": round(broken.at, 3), "declared": round(broken.declared, 3)}
    content["masks_sha256"], content["seconds"] = digest.hexdigest(), rows.finish()
    flush_to_disk(out)
    with atomic_path(out / PREDICTIONS) as part:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return broken


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


def read_masks(out: str | Path) -> Iterator[Bool[np.ndarray, "H W"]]:
    """The masks that `write_prediction` wrote into a folder, in their order, whatever their form.

    Raises:
        AvsError: no predictions.json: the folder is none of `write_prediction`, or was not finished; after the last
            mask, when they are not those that were written.
    """
    out = Path(out)
    try:
        content = json.loads((out / PREDICTIONS).read_text(encoding="utf-8"))
        digest, wanted = hashlib.sha256(), content.get("masks_sha256")
        for mask in READERS[content["masks"]](out):
            hash_mask(digest, mask)
            yield mask
    except Exception as error:  # PIL, NumPy and zipfile raise many kinds for a damaged file
        raise RecordError(f"{out}: holds no whole prediction ({error!r}); make one with `avs predict VIDEO`") from error
    if wanted not in (None, digest.hexdigest()):
        raise RecordError(f"{out}: its masks are not those that were predicted: damaged or edited; predict them again")
