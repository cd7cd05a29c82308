"""Video upload: drop a file, press a button, and see and hear what the model marks in it."""

import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from avslib.core.errors import AvsError, NotebookError
from avslib.video.overlay_video import overlay_video, strip_figure
from avslib.video.predictor import Prediction, Predictor
from avslib.video.second import Second, keep_some
from course.show import image_html, video_html
from course.widgets.parts import control, ipywidgets_module, with_still


def video_upload(predictor: Predictor, longest: int = 480) -> Any:
    """A button to choose a video file, one to segment it, and the result: overlay with sound, and a strip of frames.

    An error in a file becomes a sentence below the buttons. The shown video's longer side has at most `longest` pixels.
    """
    widgets = ipywidgets_module()
    upload = widgets.FileUpload(accept="video/*", description="Choose a video", layout={"width": "220px"})
    samples = control("IntSlider", "Samples (0: mean code)", min=0, max=16, value=0)
    button = widgets.Button(description="Segment", disabled=True, button_style="primary")
    message, result = widgets.HTML("Choose a video file that has sound."), widgets.HTML()

    def chosen(_: Any = None) -> None:
        button.disabled = not upload.value
        for file in upload.value:
            message.value = f"{escape(file['name'])}, {len(file['content']) / 1e6:.1f} MB: press Segment."

    def segment(_: Any = None) -> None:
        button.disabled, result.value = True, ""
        try:
            result.value = _segmented(predictor, upload.value[0], samples.value, longest, message)
        except AvsError as error:
            message.value = f'<span role="alert">{escape(str(error))}</span>'
        finally:
            button.disabled = not upload.value

    upload.observe(chosen, names="value")
    button.on_click(segment)
    box = widgets.VBox([upload, samples, button, message, result])
    buttons = "".join(f"<button disabled>{name}</button> " for name in ("Choose a video", "Segment"))
    return with_still(box, {"text/html": f"<p>{buttons}(in a running notebook)</p>"})


def _segmented(predictor: Predictor, file: dict, samples: int, longest: int, message: Any) -> str:
    """HTML of the overlay and the strip; `message` counts the seconds."""
    name, kept = file["name"], []

    def counted(prediction: Prediction) -> Iterator[Second]:
        for second in prediction:
            message.value = f"{escape(name)}: {second.index + 1} s done"
            yield second

    with tempfile.TemporaryDirectory() as folder:  # a name that a browser sends may hold anything
        video, overlay = Path(folder) / "upload", Path(folder) / "overlay.mp4"
        video.write_bytes(file["content"])
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
        html = video_html(overlay, f"{name} with what sounds outlined", longest)
    message.value = f"{escape(name)}: done."
    return html + image_html(strip_figure(kept))
