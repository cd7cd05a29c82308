"""Figures as files: outlines on frames, learning curves, methods side by side. seaborn draws the statistical ones.

Colours are Okabe and Ito's, which any colour vision can distinguish; line styles and markers repeat what they say.
Every function draws without a display. Files are written beside the target and renamed.
"""

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Shaped, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from PIL import Image
from torch.nn import functional as F

from avslib.core.errors import AvsError, RecordError, UsageError
from avslib.core.files import atomic_path
from avslib.data.avsbench import AVSBench
from avslib.data.layout import LAYOUTS, find_folder, read_csv
from avslib.study.results import SPLITS, Row

COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "yellow": "#F0E442",
    "black": "#000000",
}
TRUTH = {"colors": COLOURS["sky"], "linestyles": ["solid"], "linewidths": 2.2}
PREDICTION = {"colors": COLOURS["orange"], "linestyles": [(0, (3, 1.5))], "linewidths": 1.4}
# One colour per kind of term, one line style per branch (seaborn's dashes: lengths of line and gap).
SOLID, DASHED, DOTTED, DASHDOT = "", (4, 1.5), (1, 1), (4, 1.2, 1, 1.2)
PARTS = {
    "loss": ("black", SOLID),
    "seg_prior": ("blue", SOLID),
    "seg_posterior": ("blue", DASHED),
    "match_prior": ("orange", SOLID),
    "match_posterior": ("orange", DASHED),
    "kl_sv": ("purple", SOLID),
    "kl_sa": ("purple", DASHED),
    "divergence_c": ("green", DOTTED),
    "mi": ("vermilion", DASHDOT),
    "orthogonality": ("sky", DOTTED),
}
SCORES = (("black", SOLID), ("blue", DASHED), ("orange", DOTTED), ("purple", DASHDOT))
BARS = ("blue", "orange")

Looks = Mapping[str, tuple[str, str]]
Item = tuple[str, UInt8[np.ndarray, "T H W 3"], Shaped[np.ndarray, "T H W"], Float[np.ndarray, "T H W"]]


def style() -> dict[str, Any]:
    """The style sheet of the statistical figures, as matplotlib's rc parameters."""
    colours = [COLOURS[name] for name in ("blue", "orange", "green", "vermilion", "purple")]
    own = {"axes.edgecolor": "0.6", "axes.prop_cycle": mpl.cycler(color=colours), "grid.color": "0.9"}
    return sns.axes_style("whitegrid") | own


def styled_axes(width: float, height: float, rows: int = 1, columns: int = 1, *, dpi: int = 100, **options: Any) -> Any:
    """(matplotlib Figure of `width` x `height` inches, its axes [rows, columns]) in :func:`style`."""
    with mpl.rc_context(style()):
        figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def outlined_frames(items: Sequence[Item], *, frame_inches: float = 1.5, dpi: int = 110) -> Any:
    """Draw one row of frames per clip, the true outline solid and the predicted one (probability 0.5) dashed.

    items: (title, frames uint8 [T, H, W, 3], truth 0/1 [T, H, W], probability [T, H, W]) for each clip; without the
    probability, only the truth is drawn. Returns a matplotlib Figure. Raises AvsError when shapes do not fit.
    """
    clips = [(str(item[0]), *map(np.asarray, item[1:]), np.zeros_like(item[2]))[:4] for item in items]
    for title, frames, truth, probability in clips:
        shapes = frames.shape, truth.shape, probability.shape
        if frames.ndim != 4 or shapes != ((*truth.shape, 3), truth.shape, truth.shape):
            want = "expected frames [T, H, W, 3], truth and probability [T, H, W]"
            raise UsageError(f"outlined_frames: clip {title!r}: {want}; got {', '.join(map(str, shapes))}")
    columns = max(len(clip[1]) for clip in clips)
    height = len(clips) * (frame_inches + 0.22) + 0.3
    figure = Figure(figsize=(columns * frame_inches, height), dpi=dpi, layout="none")
    axes = figure.subplots(len(clips), columns, squeeze=False)
    for line, (title, frames, truth, probability) in zip(axes, clips, strict=True):
        for axis in line:
            axis.set_axis_off()
        line[0].set_title(title, loc="left", fontsize=8, pad=3)
        for axis, frame, true, found in zip(line, frames, truth, probability, strict=False):
            axis.imshow(frame, interpolation="lanczos")
            draw_outline(axis, true, TRUTH)
            draw_outline(axis, found, PREDICTION)
    looks = {"truth": TRUTH} | ({"prediction": PREDICTION} if any(len(item) > 3 for item in items) else {})
    styles = {name: {"color": look["colors"], "linestyle": look["linestyles"][0]} for name, look in looks.items()}
    handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    figure.legend(handles=handles, loc="upper right", ncols=2, fontsize=8, frameon=False, borderaxespad=0.2)
    edges = {"left": 0.003, "right": 0.997, "bottom": 0.03 / height, "top": 1 - 0.42 / height}
    figure.subplots_adjust(**edges, wspace=0.02, hspace=0.24 / frame_inches)
    return figure


def frames_of(item: Mapping[str, Any]) -> UInt8[np.ndarray, "T H W 3"]:
    """An item's pictures at the size of its masks, as matplotlib draws them."""
    image = F.interpolate(item["image"].float(), item["mask"].shape[-2:], mode="bilinear", align_corners=False)
    return image.round().byte().permute(0, 2, 3, 1).numpy()


def draw_outline(axis: Any, field: np.ndarray, look: Mapping[str, Any]) -> None:
    """Draw where `field` [H, W] crosses 0.5 on matplotlib axes, in the look `TRUTH` or `PREDICTION`."""
    field = np.pad(np.asarray(field, dtype=float), 1)  # so that a mask that meets the border closes there
    if field.max() < 0.5 or field.min() >= 0.5:
        return
    steps = [np.arange(-1, size - 1) for size in field.shape]
    lines = axis.contour(steps[1], steps[0], field, levels=[0.5], **look)
    lines.set_path_effects([Stroke(linewidth=look["linewidths"] + 1, foreground="black", alpha=0.6), Normal()])
    axis.set_xlim(-0.5, field.shape[1] - 2.5)
    axis.set_ylim(field.shape[0] - 2.5, -0.5)


def data_sheet(root: str | Path, path: str | Path, *, skip: Collection[str] = (), clips: int = 3) -> Path:
    """Draw the first `clips` clips of each split of the data in `root`, both tasks, with their masks.

    Raises AvsError as :class:`avslib.data.avsbench.AVSBench`; name clips with faults in `skip`.
    """
    items = []
    for task, layout in LAYOUTS.items():
        try:
            folder = find_folder(root, task)
        except AvsError:
            continue  # one of the two tasks may be absent
        for split in dict.fromkeys(row["split"] for row in read_csv(folder / layout.csv, task)):
            dataset = AVSBench(root, task, split, skip=skip).first(clips)
            for item in (dataset[i] for i in range(len(dataset))):
                title = f"{task.upper()} {split}: {item['name']}"
                items.append((title, item["image"].permute(0, 2, 3, 1).numpy(), item["mask"][:, 0].numpy()))
    return save_figure(outlined_frames(items, frame_inches=1.2), path, palette=True)


def curves_figure(history: Iterable[Mapping[str, Any]] | str | Path, *, dpi: int = 100) -> Any:
    """Draw the loss parts and the validation metrics of a run over its steps.

    history: rows with `step`, any of the objective's parts by name (or ``train_`` + name), and ``val_J``, ``val_F`` ...
    where they were measured; or the path of a CSV with these columns.
    Returns a matplotlib Figure. Raises AvsError when there is nothing to draw.
    """
    if isinstance(history, str | Path) and not Path(history).is_file():
        raise RecordError(f"curves_figure: no file {history}; give the history.csv of a training")
    rows = pd.read_csv(history) if isinstance(history, str | Path) else pd.DataFrame(list(history))
    rows = rows.apply(pd.to_numeric, errors="coerce").dropna(axis="columns", how="all")
    rows = rows if "step" in rows else rows.assign(step=range(len(rows)))
    parts = {name: PARTS[name.removeprefix("train_")] for name in rows if name.removeprefix("train_") in PARTS}
    metrics = [name for name in rows if name.startswith(("val_", "val/")) and not name.endswith("loss")]
    scores = dict(zip(metrics, SCORES, strict=False))
    panels = {"total loss, and its parts before their weights": parts, "score on val": scores}
    panels = {label: looks for label, looks in panels.items() if looks}
    if not panels:
        raise UsageError("curves_figure: no loss part and no val score in the history; expected step, loss, val_J")
    figure, axes = styled_axes(5.5 * len(panels), 4.6, 1, len(panels), dpi=dpi)
    for axis, (label, looks) in zip(axes[0], panels.items(), strict=True):
        points = rows.melt("step", list(looks), var_name="part").dropna()
        look = {"hue": "part", "style": "part", "dashes": {name: dash for name, (_, dash) in looks.items()}}
        look["palette"] = {name: COLOURS[colour] for name, (colour, _) in looks.items()}
        few = {"marker": "o", "markersize": 4, "markeredgewidth": 0} if points.groupby("part").size().max() < 30 else {}
        sns.lineplot(points, x="step", y="value", estimator=None, ax=axis, **look, **few)
        axis.set(xlabel="training step", ylabel=label)
        below = {"bbox_to_anchor": (0.5, -0.15), "ncols": 4, "fontsize": 7}
        sns.move_legend(axis, "upper center", title=None, frameon=False, **below)
        axis.set_ylim(0, 1) if label.startswith("score") else axis.set_yscale("symlog", linthresh=1e-3)
    return figure


def comparison_bars(rows: Sequence[Row], path: str | Path) -> Path:
    """Draw J of each row of `avslib.study.results.summarise` on the test splits, with its spread over seeds.

    Raises AvsError when no row has it on any of them.
    """
    found = [(row, split) for row in rows for split in SPLITS["mini"] if "J" in row.values.get(split, {})]
    if not found:
        raise UsageError("comparison_bars: no row has J on a test split; pass rows made by summarise()")
    looks = {split: look for split, look in zip(SPLITS["mini"], BARS, strict=True) if any(split == s for _, s in found)}
    labels = [row.label for row in rows]
    scores = [(row.label, split, score) for row, split in found for score in row.values[split]["J"].scores]
    points = pd.DataFrame(scores, columns=["row", "split", "J"])
    look = {"hue_order": list(looks), "palette": [COLOURS[colour] for colour in looks.values()], "saturation": 1}
    look |= {"capsize": 0.3, "err_kws": {"color": "black", "linewidth": 1}, "edgecolor": "white"}
    figure, ((axis,),) = styled_axes(8, 0.7 + len(rows) * 0.3 * (len(looks) + 0.6))
    sns.barplot(points, x="J", y="row", hue="split", order=labels, errorbar="sd", ax=axis, **look)
    for row, split in found:
        value = row.values[split]["J"]
        place = labels.index(row.label) + (list(looks).index(split) - (len(looks) - 1) / 2) * 0.8 / len(looks)
        axis.text(value.mean + (value.sd or 0) + 0.01, place, value.text(1, 3), va="center", fontsize=7)
    axis.set(xlim=(0, 1), xlabel="J (mean; bars: sample sd over seeds)", ylabel=None)
    axis.tick_params(axis="y", labelsize=8)
    axis.legend(fontsize=8, loc="lower right")
    return save_figure(figure, path)


def interval_points(
    axis: Any, rows: pd.DataFrame, place: str, hue: str, looks: Looks, order: list | None = None, dodge: float = 0.4
) -> None:
    """Draw `estimate` with the interval from `low` to `high` (columns of `rows`) at each `place`, coloured by `hue`.

    looks: (name of `COLOURS`, marker) by value of `hue`, whose points stand `dodge` apart. With an `order`, places are
    on the x axis, else on the y axis.
    """
    # seaborn sees three values per point: their median is the estimate, their range the interval
    points = rows.melt([place, hue], ["estimate", "low", "high"])
    axes = {"x": place, "y": "value"} if order else {"x": "value", "y": place}
    look = {"palette": [COLOURS[name] for name, _ in looks.values()], "markers": [mark for _, mark in looks.values()]}
    look |= {"linestyles": "none", "dodge": dodge * (len(looks) - 1), "markersize": 5, "err_kws": {"linewidth": 1.5}}
    look |= {"hue": hue, "hue_order": list(looks), "order": order, "estimator": "median", "errorbar": ("pi", 100)}
    sns.pointplot(points, ax=axis, **axes, **look)
    sns.move_legend(axis, "best", title=None)


def small_png(picture: Any) -> bytes:
    """A matplotlib figure or a PIL picture as a PNG of 256 colours."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(drawn := io.BytesIO(), format="png", dpi="figure")
        picture = Image.open(drawn)
    colours = picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    colours.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def save_figure(figure: Any, path: str | Path, palette: bool = False, comment: str = "") -> Path:
    """Write the figure in the format its suffix names; `palette` keeps sheets of photographs small.

    `comment` goes into the text of a PNG (without `palette`). Raises AvsError for a suffix that cannot be drawn.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".") or "png"
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise UsageError(f"{path}: cannot draw into a .{kind} file; use .png, .svg or .pdf")
    with atomic_path(path) as part:
        if palette and kind == "png":
            part.write_bytes(small_png(figure))
        else:  # nothing that changes with the day or the version
            plain = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
            figure.savefig(part, format=kind, metadata=plain | ({"Comment": comment} if comment else {}))
    return path
