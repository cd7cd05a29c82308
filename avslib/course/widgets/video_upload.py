"""Video upload: drop a file, press a button, and see and hear what the model marks in it."""

import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from avslib.core.errors import AvsError, NotebookError
from avslib.course.show import data_url, image_html
from avslib.course.widgets.parts import control, ipywidgets_module
from avslib.video.overlay import Second, keep_some, overlay_video, strip_figure
from avslib.video.predictor import Prediction, Predictor

LARGEST = 200 * 10**6  # bytes; a whole upload lies in memory


def video_html(path: str | Path, label: str, width: int = 320) -> str:
    """A ``<video>`` element that holds the file itself, with controls; `label` is shown and read out."""
    source, text = data_url("video/mp4", Path(path).read_bytes()), escape(label)
    video = f'<video controls width="{width}" style="max-width: 100%" aria-label="{text}" src="{source}"></video>'
    return f"<figure><figcaption>{text}</figcaption>{video}</figure>"


def video_upload(predictor: Predictor, longest: int = 480) -> Any:
    """A button to choose a video file, one to segment it, and the result: overlay with sound, and a strip of frames.

    An error in a file becomes a sentence below the buttons.

    Args:
        longest: longer side of the shown video, in pixels; the file's own size is kept when it is smaller.

    Returns:
        ``ipywidgets.VBox``: upload, samples, button, message, result.
    """
    widgets = ipywidgets_module()
    layout = widgets.Layout(width="220px")
    upload = widgets.FileUpload(accept="video/*", multiple=False, description="Choose a video", layout=layout)
    samples = control("IntSlider", "Samples (0: mean code)", min=0, max=16, value=0)
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
                raise NotebookError("No video is chosen yet; choose one first.")
            name, content = upload.value[0]["name"], bytes(upload.value[0]["content"])
            if len(content) > LARGEST:
                size = f"{len(content) / 1e6:.0f} MB"
                raise NotebookError(f"{name}: {size} is too much for an upload; use `avs predict FILE`")
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
    with tempfile.TemporaryDirectory() as folder:  # a name that a browser sends may hold anything
        video, overlay = Path(folder) / "upload", Path(folder) / "overlay.mp4"
        video.write_bytes(content)
        kept: list[Second] = []

        def counted(prediction: Prediction) -> Iterator[Second]:
            for second in prediction:
                message.value = f"{escape(name)}: {second.index + 1} s done"
                yield second

        try:
            prediction = predictor.predict(video, samples=samples)
            results = keep_some(counted(prediction), kept)
            overlay_video(video, results, overlay, longest=longest)
            for _ in results:  # those that the overlay did not take
                pass
            if prediction.broken:
                raise prediction.broken
        except AvsError as error:
            raise NotebookError(str(error).replace(str(video), name)) from None
        message.value = f"{escape(name)}: done."
        return video_html(overlay, f"{name} with what sounds outlined", longest) + image_html(strip_figure(kept))
