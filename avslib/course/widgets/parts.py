"""What the widgets share: labelled controls, and one picture that is redrawn in place when a control moves."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from avslib.core.errors import InstallError, NotebookError
from avslib.course.inline import image_html
from avslib.data.avsbench import AVSBench

# What ipywidgets leaves undone, run in the browser when the picture is there. JupyterLab takes arrow keys and letters
# to move between cells and to edit them, even from a list that has the focus, unless the focused element says no; and
# a slider's handle has no name for screen readers. The controls may appear a little later than the picture.
FINISH_CONTROLS = """const picture = this; setTimeout(() => {
  for (const one of picture.closest('.widget-vbox')?.querySelectorAll('select, input, button, [tabindex]') ?? []) {
    one.setAttribute('data-lm-suppress-shortcuts', 'true');
    const label = one.closest('.widget-slider')?.querySelector('label');
    if (label) one.setAttribute('aria-label', label.textContent);
  }
}, 300)"""


def ipywidgets_module() -> Any:
    """ipywidgets, which is no core dependency.

    Raises:
        AvsError: it is not installed; says how to.
    """
    try:
        import ipywidgets
    except ImportError:
        raise InstallError(
            'the widgets need ipywidgets: install it by `python -m pip install "ipywidgets>=8.1"` and start the '
            "kernel again, or use the figure function of the same module"
        ) from None
    return ipywidgets


def control(kind: str, description: str, **options: Any) -> Any:
    """An ipywidgets control by class name, with its label written out whole.

    The label stands in a column of its own, so that the controls below each other line up.
    """
    widgets = ipywidgets_module()
    layout = widgets.Layout(width="min(640px, 98%)")
    style = {"description_width": "190px"}
    if kind == "Checkbox":  # its label stands behind the box
        return widgets.Checkbox(description=description, indent=False, layout=layout, **options)
    return getattr(widgets, kind)(description=description, style=style, layout=layout, **options)


def panel(controls: Mapping[str, Any], draw: Callable[..., Any], *extra: Any) -> Any:
    """Controls above a picture: whenever a control changes, the picture becomes ``draw(**values)``.

    Args:
        controls: by the name of the argument that each one sets.
        draw: returns a figure whose label is its alt text; called once a change.
        extra: more widgets, shown between the controls and the picture.

    Returns:
        ``ipywidgets.VBox``; its last child is the ``HTML`` with the picture.
    """
    widgets = ipywidgets_module()
    picture = widgets.HTML()

    def redraw(_: Any = None) -> None:
        figure = draw(**{name: one.value for name, one in controls.items()})
        picture.value = image_html(figure, onload=FINISH_CONTROLS)

    redraw()
    for one in controls.values():
        one.observe(redraw, names="value")
    return widgets.VBox([*controls.values(), *extra, picture])


def check_clip(dataset: AVSBench, *indices: int) -> None:
    """Raise AvsError unless each is the index of a clip."""
    for index in indices:
        if not isinstance(index, int | np.integer) or not 0 <= index < len(dataset):
            raise NotebookError(f"clip {index!r}: the dataset has clips 0 to {len(dataset) - 1}")


def clip_title(dataset: AVSBench, index: int) -> str:
    """Name and, where there is one, category of a clip."""
    clip = dataset.clips[index]
    return f"{clip.name} ({clip.category})" if clip.category else clip.name


def clip_options(dataset: AVSBench, indices: Any) -> list[tuple[str, int]]:
    """Options of a dropdown of clips.

    Raises:
        AvsError: no clip, or an index that is none.
    """
    indices = list(indices)
    if not indices:
        raise NotebookError("there is no clip to choose from; give at least one index")
    check_clip(dataset, *indices)
    return [(clip_title(dataset, index), int(index)) for index in indices]


def resize_to(field: Float[Tensor, "T h w"], size: tuple[int, int]) -> Float[Tensor, "T H W"]:
    """Bilinear, as scores are taken."""
    return F.interpolate(field[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def frames_of(item: Mapping[str, Any]) -> UInt8[np.ndarray, "T H W 3"]:
    """An item's pictures at the size of its masks, as matplotlib draws them."""
    image = item["image"]
    if image.shape[-2:] != item["mask"].shape[-2:]:
        size = item["mask"].shape[-2:]
        image = F.interpolate(image.float(), size, mode="bilinear", align_corners=False).round().byte()
    return image.permute(0, 2, 3, 1).numpy()
