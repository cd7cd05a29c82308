"""Video upload: drop a file, press a button, and see and hear what the model marks in it."""

import base64
import tempfile
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from avslib.errors import AvsError
from avslib.inline import image_html
from avslib.predict import Predictor
from avslib.segment_video import Second, overlay_video, paint
from avslib.widgets.parts import control, ipywidgets_module

__all__ = ["strip_figure", "video_html", "video_upload"]

LARGEST = 200 * 10**6  # bytes; a whole upload lies in memory


def strip_figure(seconds: Sequence[Second], columns: int = 6) -> Any:
    """Frames of a video with the mask tinted and outlined; below them the uncertainty in bits, where there is one.

    Args:
        seconds: of :meth:`avslib.predict.Predictor.predict`; `columns` of them, evenly spread, are drawn.

    Returns:
        a matplotlib Figure; its label says in words what it shows.

    Raises:
        AvsError: no second to draw.
    """
    from matplotlib.figure import Figure

    seconds = list(seconds)
    if not seconds or columns < 1:
        raise AvsError("strip_figure: there is no second to draw; give the results of predict(...)")
    count = min(columns, len(seconds))
    shown = [seconds[(2 * i + 1) * len(seconds) // (2 * count)] for i in range(count)]
    rows = 1 + (shown[0].uncertainty is not None)
    height, width = shown[0].image.shape[:2]
    tall = 1.3 * height / width
    figure = Figure(figsize=(1.3 * count + 0.5 * (rows - 1), rows * tall + 0.25), dpi=80, layout="constrained")
    axes = figure.subplots(rows, count, squeeze=False)
    for column, second in zip(axes.T, shown, strict=True):
        for axis in column:
            axis.set_axis_off()
        column[0].imshow(paint(second.image, second.mask))
        column[0].set_title(f"{second.time:.0f} s: {100 * second.mask.mean():.1f} %", fontsize=8, pad=3)
        if second.uncertainty is not None:
            drawn = column[1].imshow(second.uncertainty, cmap="cividis", vmin=0, vmax=1)
    if rows == 2:
        figure.colorbar(drawn, ax=list(axes[1]), label="uncertainty / bit", fraction=0.05, pad=0.01)
    areas = ", ".join(f"second {s.index}: {100 * s.mask.mean():.1f} %" for s in shown)
    figure.set_label(
        f"{count} frames of the video with what sounds outlined; share of pixels marked: {areas}."
        + (" Below each the uncertainty, bright where the model is unsure." if rows == 2 else "")
    )
    return figure


def video_html(path: str | Path, label: str, width: int = 320) -> str:
    """A ``<video>`` element that holds the file itself, with controls; `label` is shown and read out."""
    source = "data:video/mp4;base64," + base64.b64encode(Path(path).read_bytes()).decode()
    text = escape(label)
    video = f'<video controls width="{width}" style="max-width: 100%" aria-label="{text}" src="{source}"></video>'
    return f"<figure><figcaption>{text}</figcaption>{video}</figure>"


def video_upload(predictor: Predictor, longest: int = 480) -> Any:
    """A button to choose a video file, one to segment it, and the result: overlay with sound, and a strip of frames.

    What goes wrong with a file is told in a sentence below the buttons.

    Args:
        longest: longer side of the shown video, in pixels; the file's own size is kept when it is smaller.

    Returns:
        ``ipywidgets.VBox``: upload, samples, button, message, result.
    """
    widgets = ipywidgets_module()
    upload = widgets.FileUpload(accept="video/*", multiple=False, description="Choose a video",
                                layout=widgets.Layout(width="220px"))  # fmt: skip
    samples = control("IntSlider", "Samples of the prior (0: mean)", min=0, max=16, value=0)
    button = widgets.Button(description="Segment", disabled=True, button_style="primary")
    message, result = widgets.HTML("Choose a video file that has sound."), widgets.HTML()

    def chosen(_: Any = None) -> None:
        button.disabled = not upload.value
        if upload.value:
            size = len(upload.value[0]["content"]) / 1e6
            message.value = f"{escape(upload.value[0]['name'])}, {size:.1f} MB: press Segment."

    def segment(_: Any = None) -> None:
        button.disabled, result.value = True, ""
        try:
            if not upload.value:
                raise AvsError("No video is chosen yet; choose one first.")
            name, content = upload.value[0]["name"], bytes(upload.value[0]["content"])
            if len(content) > LARGEST:
                raise AvsError(f"{name}: {len(content) / 1e6:.0f} MB is too much for an upload; use `avs predict FILE`")
            result.value = _segmented(predictor, name, content, samples.value, longest, message)
        except AvsError as error:
            message.value = f'<span role="alert">{escape(str(error))}</span>'
        finally:
            button.disabled = not upload.value

    upload.observe(chosen, names="value")
    button.on_click(segment)
    return widgets.VBox([upload, samples, button, message, result])


def _segmented(predictor: Predictor, name: str, content: bytes, samples: int, longest: int, message: Any) -> str:
    """HTML of the overlay and the strip; `message` counts the seconds."""
    # a name of ours: what a browser sends may hold anything
    with tempfile.TemporaryDirectory() as folder:
        video, overlay = Path(folder) / "upload", Path(folder) / "overlay.mp4"
        video.write_bytes(content)
        kept: list[Second] = []

        def counted() -> Iterator[Second]:
            for second in predictor.predict(video, samples=samples):
                message.value = f"{escape(name)}: {second.index + 1} s done"
                # the strip shows a few; every 2nd, 4th ... second is enough of a long video
                kept.append(second)
                if len(kept) > 24:
                    del kept[1::2]
                yield second

        try:
            results = counted()
            overlay_video(video, results, overlay, longest=longest)
            for _ in results:
                pass
        except AvsError as error:
            raise AvsError(str(error).replace(str(video), name)) from None
        figure = strip_figure(kept)
        message.value = f"{escape(name)}: done."
        return video_html(overlay, f"{name} with what sounds outlined", longest) + image_html(figure)
