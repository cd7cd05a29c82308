"""What the widgets share: labelled controls, and one picture that is redrawn in place when a control moves."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from textwrap import wrap
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avslib.core.errors import InstallError, NotebookError
from avslib.data.avsbench import AVSBench
from avslib.study.plots import small_png
from course.show import image_html

FINISH_CONTROLS = (resources.files("avslib") / "assets/widgets/finish_controls.js").read_text(encoding="utf-8")


def ipywidgets_module() -> Any:
    """ipywidgets, which is not a core dependency; raises an AvsError that says how to install it."""
    try:
        import ipywidgets
    except ImportError:
        advice = 'install it by `python -m pip install "ipywidgets>=8.1"`, or use the figure function'
        raise InstallError(f"the widgets need ipywidgets: {advice} of the same module") from None
    return ipywidgets


def control(kind: str, description: str, **options: Any) -> Any:
    """An ipywidgets control by class name, its whole label in a column of its own (a checkbox has it behind)."""
    own = {"indent": False} if kind == "Checkbox" else {"style": {"description_width": "190px"}}
    options |= {"description": description, "layout": {"width": "min(640px, 98%)"}}
    return getattr(ipywidgets_module(), kind)(**own, **options)


def panel(controls: Mapping[str, Any], draw: Callable[..., Any], *extra: Any) -> Any:
    """Controls above a picture: whenever a control changes, the picture becomes ``draw(**values)``, a labelled figure.

    `controls` are named as the arguments that they set; `extra` widgets stand between them and the picture, which is
    the last child of the ``ipywidgets.VBox`` that is returned.
    """
    widgets = ipywidgets_module()
    picture = widgets.HTML()

    def redraw(_: Any = None) -> Any:  # ipywidgets.interactive_output would print, and flicker
        figure = draw(**{name: one.value for name, one in controls.items()})
        picture.value = image_html(figure, onload=FINISH_CONTROLS)
        return figure

    figure = redraw()
    for one in controls.values():
        one.observe(redraw, names="value")
    states = (f"{c.description}: {c.label if hasattr(c, 'label') else c.value}" for c in controls.values())
    figure.set_dpi(66)
    figure.suptitle("\n".join(wrap("At the start: " + "  |  ".join(states), 95)), fontsize=8, x=0.01, ha="left")
    still = b64encode(small_png(figure)).decode()
    box = widgets.VBox([*controls.values(), *extra, picture])
    return with_still(box, {"image/png": still}, {"image/png": {"alt": figure.get_label()}})


def with_still(box: Any, still: Mapping[str, str], metadata: Mapping[str, Any] = {}) -> Any:
    """The widget `box`, whose output also holds what shows where no kernel runs: `still`, by media type."""
    live = box._repr_mimebundle_
    box._repr_mimebundle_ = lambda **options: ({**live(**options), **still}, dict(metadata))
    return box


def check_clip(dataset: AVSBench, *indices: int, sound: bool = False) -> None:
    """Raise AvsError unless each is the index of a clip and, with `sound`, the clips have sound embeddings."""
    if wrong := [index for index in indices if index not in range(len(dataset))]:
        raise NotebookError(f"clip {wrong[0]!r}: the dataset has clips 0 to {len(dataset) - 1}")
    if sound and dataset.audio is None:
        raise NotebookError("the dataset has no sound embeddings; open it by lesson.dataset() or dataset.with_audio()")


def clip_title(dataset: AVSBench, index: int) -> str:
    clip = dataset.clips[index]
    return f"{clip.name} ({clip.category})" if clip.category else clip.name


def clip_options(dataset: AVSBench, indices: Iterable[int]) -> list[tuple[str, int]]:
    """Options of a dropdown of clips; raises AvsError for an index that is not one, or none at all."""
    check_clip(dataset, *(indices := list(indices)))
    if not indices:
        raise NotebookError("there is no clip to choose from; give at least one index")
    return [(clip_title(dataset, index), int(index)) for index in indices]


def resize_to(field: Float[Tensor, "T h w"], size: tuple[int, int]) -> Float[Tensor, "T H W"]:
    """Bilinear, as scores are taken."""
    return F.interpolate(field[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
