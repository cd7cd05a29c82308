"""Sound swapper: the frames of one clip with the sound of another, and where the mask goes."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from avslib.core.errors import NotebookError
from avslib.core.parsing import LARGEST_JSON, parse_json, read_bytes
from avslib.course.widgets.parts import check_clip, clip_options, clip_title, control, frames_of, panel, resize_to
from avslib.data.avsbench import AVSBench
from avslib.metrics import iou_per_frame
from avslib.study.plots import outlined_frames
from avslib.video.predictor import Predictor


@dataclass(frozen=True)
class Swap:
    """Two predictions for the same pictures: with their own sound, and with another.

    `fields` are their probabilities at the size of the masks, `lit` the share of pixels above 0.5 in each, `j` J of
    each against the outline of what sounds in the pictures' own clip, and `moved` is 1 - overlap of the two
    (intersection over union): 0 the same, 1 apart.
    """

    fields: list[Float[Tensor, "T H W"]]
    lit: list[float]
    j: list[float]
    moved: float


def swap(predictor: Predictor, item: dict, audio: Float[Tensor, "T D"]) -> Swap:
    """Predict an item of a dataset with its own sound and with `audio`."""
    truth, seen = item["mask"][:, 0], item["annotated"]
    fields = [resize_to(predictor(item["image"], sound), truth.shape[-2:]) for sound in (item["audio"], audio)]
    own, swapped = masks = [field > 0.5 for field in fields]
    logits = [torch.logit(field[seen].clamp(1e-6, 1 - 1e-6)) for field in fields]
    union = (own | swapped).sum().item()
    return Swap(
        fields,
        lit=[mask.float().mean().item() for mask in masks],
        j=[iou_per_frame(x, truth[seen]).mean().item() for x in logits],
        moved=1 - (own & swapped).sum().item() / union if union else 0.0,
    )


def swap_figure(predictor: Predictor, dataset: AVSBench, picture: int, sound: int) -> Any:
    """Frames of clip `picture` with its own sound (upper row) and with the sound of clip `sound` (lower row).

    The true outline (of what sounds in the picture's own clip) is solid, the predicted one dashed; above each row stand
    the share of lit pixels and J against the true outline.
    """
    check_clip(dataset, picture, sound, sound=True)
    item, title = dataset[picture], clip_title(dataset, picture)
    result = swap(predictor, item, dataset.audio[sound])
    frames, truth = frames_of(item), item["mask"][:, 0].numpy()
    names = (f"own sound, {title}", f"sound of {clip_title(dataset, sound)}")
    scores = zip(names, result.lit, result.j, strict=True)
    notes = [f"{name}: lit {100 * lit:.1f} %, J {j:.2f}" for name, lit, j in scores]
    rows = [(note, frames, truth, field.numpy()) for note, field in zip(notes, result.fields, strict=True)]
    figure = outlined_frames(rows, dpi=90)
    figure.set_label(
        f"Frames of clip {title} with the true and the predicted outline. With its {notes[0]}. With the {notes[1]}. "
        f"The second mask differs from the first in {100 * result.moved:.0f} % of the pixels that either lights."
    )
    return figure


def sound_swapper(predictor: Predictor, dataset: AVSBench, clips: Iterable[int]) -> Any:
    """Two lists of clips, one for the pictures and one for the sound, above `swap_figure`.

    Both begin at the first of `clips`, so that the first step through the sounds shows what a sound does.
    """
    options, labels = clip_options(dataset, clips), {"picture": "Pictures of clip", "sound": "Sound of clip"}
    controls = {name: control("Dropdown", label, options=options) for name, label in labels.items()}
    return panel(controls, partial(swap_figure, predictor, dataset))


def swap_pairs(dataset: AVSBench) -> list[tuple[int, int]]:
    """Pairs of S4 clips that show the same two things, one sounding in each; by Mini-AVS's manifest, not by a result.

    Raises:
        AvsError: the dataset is not an S4 build of Mini-AVS, whose manifest says what is in view.
    """
    path, what = dataset.folder.parent / "manifest.json", "the manifest of a Mini-AVS build, which swap_pairs needs"
    manifest = parse_json(read_bytes(path, LARGEST_JSON, NotebookError, what), path, NotebookError, what)
    try:
        seen = {r["name"]: sorted(o["category"] for o in r["objects"]) for r in manifest["clips"]}
        clips = [(seen[clip.name], clip.category) for clip in dataset.clips]
    except (KeyError, TypeError) as error:
        raise NotebookError(f"{path}: lacks {error}; expected {what}") from None
    return [
        (a, b)
        for (a, (things, heard)), (b, (others, other)) in combinations(enumerate(clips), 2)
        if heard and other and things == others == sorted([heard, other]) and heard != other
    ]
