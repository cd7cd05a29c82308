"""Clip browser: a clip's frames, what sounds in them, and the sound itself."""

from functools import partial
from typing import Any

import numpy as np

from avslib.audio import SAMPLE_RATE
from avslib.core.errors import NotebookError
from avslib.course.show import player_html
from avslib.course.widgets import parts
from avslib.course.widgets.parts import check_clip, clip_title, control
from avslib.data.avsbench import AVSBench
from avslib.study.plots import COLOURS, TRUTH, draw_outline

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
    frames, masks = parts.frames_of(item), item["mask"][:, 0].numpy()
    shown = range(dataset.frames) if frame is None else [frame]
    figure = Figure(figsize=(7.5, 4.0 if frame is None else 3.0), dpi=80, layout="constrained")
    if frame is None:
        pictures, sound = figure.subfigures(2, 1, height_ratios=(1.7, 2.3))
    else:
        pictures, sound = figure.subfigures(1, 2, width_ratios=(3, 4.5))
    for k, axis in zip(shown, pictures.subplots(1, len(shown), squeeze=False)[0], strict=True):
        axis.imshow(frames[k])
        axis.set_axis_off()
        known = bool(item["annotated"][k])
        axis.set_title(f"frame {k}: " + (f"{100 * masks[k].mean():.1f} % sounds" if known else "no mask"), fontsize=8)
        if outline and known:
            draw_outline(axis, masks[k], TRUTH)
    notes = "; ".join(axis.get_title() for axis in pictures.axes)
    _draw_sound(sound, dataset, index, frame)
    drawn = "true outline drawn" if outline else "no outline drawn"
    second = "" if frame is None else f"; second {frame} to {frame + 1} is marked"
    figure.set_label(
        f"Clip {clip_title(dataset, index)}: {notes} ({drawn}). Waveform and log-mel of its sound{second}."
    )
    return figure


def _draw_sound(figure: Any, dataset: AVSBench, index: int, frame: int | None) -> None:
    wave, mel = figure.subplots(2, 1, sharex=True)
    if dataset.clips[index].wav_path is None:
        wave.text(0.5, 0.5, "no wav file, only its log-mel", transform=wave.transAxes, ha="center", va="center")
    else:
        samples = dataset.waveform(index).numpy()
        columns = np.array_split(samples, 600)  # one for each pixel: the whole waveform has 80,000 points
        time = np.linspace(0, len(samples) / SAMPLE_RATE, len(columns))
        low, high = np.array([(c.min(), c.max()) for c in columns]).T
        wave.fill_between(time, low, high, color=COLOURS["blue"], linewidth=0.4)
    patches = dataset.log_mel(index)[:, 0].numpy()
    extent = (0, PATCH_SECONDS * len(patches), 0, 64)
    mel.imshow(np.concatenate(patches).T, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
    wave.set(ylabel="amplitude", ylim=(-1, 1))
    mel.set(xlabel="time / s", ylabel="mel band", xlim=(0, dataset.frames))
    if frame is not None:
        wave.axvspan(frame, frame + 1, color=COLOURS["orange"], alpha=0.3)
        for edge in (frame, frame + 1):
            mel.axvline(edge * PATCH_SECONDS, color=COLOURS["orange"], linewidth=2)


def clip_browser(dataset: AVSBench) -> Any:
    """A list of clips, a slider over the frames, a box for the true outline, and a player above `clip_figure`."""
    clip = control("Dropdown", "Clip", options=parts.clip_options(dataset, range(len(dataset))))
    frame = control("IntSlider", "Frame (second)", min=0, max=dataset.frames - 1)
    outline = control("Checkbox", "Draw the true outline of what sounds", value=True)
    player = parts.ipywidgets_module().HTML()

    def change_sound(_: Any = None) -> None:
        title = f"Sound of {clip_title(dataset, clip.value)}"
        wav = dataset.clips[clip.value].wav_path
        player.value = player_html(dataset.waveform(clip.value), title) if wav else "<p>This clip has no wav file.</p>"

    change_sound()
    clip.observe(change_sound, names="value")  # only the clip: a new player at each frame would stop the sound
    return parts.panel({"index": clip, "frame": frame, "outline": outline}, partial(clip_figure, dataset), player)
