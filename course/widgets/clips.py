"""Clip browser and sound swapper: a clip's frames and what sounds in them; its frames with the sound of another."""

import json
from collections.abc import Iterable
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import NotebookError
from avslib.data.avsbench import AVSBench
from avslib.metrics import iou_per_frame
from avslib.study.plots import COLOURS, TRUTH, draw_outline, frames_of, outlined_frames
from avslib.video.predictor import Predictor
from course.show import player
from course.widgets.parts import check_clip, clip_options, clip_title, control, panel, resize_to

PATCH_SECONDS = 0.96  # VGGish's patch for each second


def clip_figure(dataset: AVSBench, index: int, frame: int | None = None, outline: bool = True) -> Any:
    """Frames of clip `index` of `dataset` with the true outline of what sounds, its waveform and its log-mel patches.

    `frame`, counted from 0, shows this frame only and marks its second in the sound; None shows all.
    """
    from matplotlib.figure import Figure

    check_clip(dataset, index)
    if frame is not None and not 0 <= frame < dataset.frames:
        raise NotebookError(f"frame {frame}: the clip has frames 0 to {dataset.frames - 1}")
    item = dataset[index]
    frames, masks = frames_of(item), item["mask"][:, 0].numpy()
    shown = range(dataset.frames) if frame is None else [frame]
    figure = Figure(figsize=(7.5, 4.0), dpi=80, layout="constrained")
    pictures, sound = figure.subfigures(2, 1, height_ratios=(1.7, 2.3))
    for k, axis in zip(shown, pictures.subplots(1, len(shown), squeeze=False)[0], strict=True):
        axis.imshow(frames[k])
        axis.set_axis_off()
        known = bool(item["annotated"][k])
        axis.set_title(f"frame {k}: " + (f"{100 * masks[k].mean():.1f} % sounds" if known else "no mask"), fontsize=8)
        if outline and known:
            draw_outline(axis, masks[k], TRUTH)
    _draw_sound(sound, dataset, index, frame)
    notes = "; ".join(axis.get_title() for axis in pictures.axes)
    label = f"Clip {clip_title(dataset, index)}: {notes} ({'true' if outline else 'no'} outline drawn). "
    second = "" if frame is None else f"; second {frame} to {frame + 1} is marked"
    figure.set_label(f"{label}Waveform and log-mel of its sound{second}.")
    return figure


def _draw_sound(figure: Any, dataset: AVSBench, index: int, frame: int | None) -> None:
    wave, mel = figure.subplots(2, 1, sharex=True)
    if dataset.clips[index].wav_path is None:
        wave.text(0.5, 0.5, "no wav file, only its log-mel", transform=wave.transAxes, ha="center", va="center")
    else:
        samples = dataset.waveform(index).numpy()
        columns = samples[: len(samples) // 600 * 600].reshape(600, -1)  # one for each pixel
        time = np.linspace(0, len(samples) / SAMPLE_RATE, 600)
        wave.fill_between(time, columns.min(1), columns.max(1), color=COLOURS["blue"], linewidth=0.4)
    patches = dataset.log_mel(index)[:, 0].numpy()
    extent = (0, PATCH_SECONDS * len(patches), 0, 64)
    mel.imshow(np.concatenate(patches).T, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
    wave.set(ylabel="amplitude", ylim=(-1, 1))
    mel.set(xlabel="time / s", ylabel="mel band", xlim=(0, dataset.frames))
    if frame is not None:
        wave.axvspan(frame, frame + 1, color=COLOURS["orange"], alpha=0.3)
        mel.axvspan(frame * PATCH_SECONDS, (frame + 1) * PATCH_SECONDS, color=COLOURS["orange"], alpha=0.3)


def clip_browser(dataset: AVSBench) -> Any:
    """A list of clips, a slider over the frames, a box for the true outline, and a player above `clip_figure`."""
    clip = control("Dropdown", "Clip", options=clip_options(dataset, range(len(dataset))))
    frame = control("IntSlider", "Frame (second)", min=0, max=dataset.frames - 1)
    outline = control("Checkbox", "Draw the true outline of what sounds", value=True)
    sound = control("HTML", "")

    def change_sound(_: Any = None) -> None:
        title, wav = f"Sound of {clip_title(dataset, clip.value)}", dataset.clips[clip.value].wav_path
        sound.value = player(dataset.waveform(clip.value), title).data if wav else "<p>This clip has no wav file.</p>"

    change_sound()
    clip.observe(change_sound, names="value")  # only the clip: a new player at each frame would stop the sound
    return panel({"index": clip, "frame": frame, "outline": outline}, partial(clip_figure, dataset), sound)


def moved(before: Float[Tensor, "T H W"], after: Float[Tensor, "T H W"]) -> float:
    """1 - overlap (intersection over union) of two predictions' masks: 0 the same, 1 apart."""
    a, b = before > 0.5, after > 0.5
    return (a ^ b).sum().item() / max(1, (a | b).sum().item())


def swap_figure(predictor: Predictor, dataset: AVSBench, picture: int, sound: int) -> Any:
    """Frames of clip `picture` with its own sound (upper row) and with the sound of clip `sound` (lower row).

    The true outline (of what sounds in the picture's own clip) is solid, the predicted one dashed; above each row stand
    the share of lit pixels and J against the true outline.
    """
    check_clip(dataset, picture, sound, sound=True)
    item, title = dataset[picture], clip_title(dataset, picture)
    truth, seen, rows = item["mask"][:, 0], item["annotated"], []
    sounds = {f"own sound, {title}": item["audio"], f"sound of {clip_title(dataset, sound)}": dataset.audio[sound]}
    for name, audio in sounds.items():
        field = resize_to(predictor(item["image"], audio), truth.shape[-2:])
        j = iou_per_frame(torch.logit(field[seen].clamp(1e-6, 1 - 1e-6)), truth[seen]).mean()
        note = f"{name}: lit {100 * (field > 0.5).float().mean():.1f} %, J {j:.2f}"
        rows.append((note, frames_of(item), truth, field))
    figure = outlined_frames(rows, dpi=90)
    (first, *_, before), (second, *_, after) = rows
    figure.set_label(
        f"Frames of clip {title} with the true and the predicted outline. With its {first}. With the {second}. The "
        f"second mask differs from the first in {100 * moved(before, after):.0f} % of the pixels that either lights."
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

    Raises AvsError where there is no manifest of these clips, which says what is in view.
    """
    path = dataset.folder.parent / "manifest.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["clips"]
        seen = {record["name"]: sorted(thing["category"] for thing in record["objects"]) for record in records}
        clips = [(seen[clip.name], clip.category) for clip in dataset.clips]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotebookError(f"{path}: swap_pairs needs the manifest of a build with these clips ({error})") from None
    return [
        (a, b)
        for (a, (things, heard)), (b, (others, other)) in combinations(enumerate(clips), 2)
        if heard and other and things == others == sorted([heard, other]) and heard != other
    ]
