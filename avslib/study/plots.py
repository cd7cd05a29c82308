"""Figures as files: outlines on frames, learning curves, methods side by side.

Colours are Okabe and Ito's, told apart with any colour vision; a line style or a hatch says the same once more.
Every function draws without a display, writes beside the target and renames, and returns the path.
"""

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from avslib.core.errors import AvsError, RecordError, UsageError
from avslib.core.files import atomic_path
from avslib.data.avsbench import AVSBench
from avslib.data.layout import LAYOUTS, find_folder, read_csv
from avslib.study.results import Row

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
TRUTH = {"colors": COLOURS["sky"], "linestyles": "solid", "linewidths": 2.2}
PREDICTION = {"colors": COLOURS["orange"], "linestyles": [(0, (3, 1.5))], "linewidths": 1.4}
# One colour a kind of term, one line style a branch.
PARTS = {
    "loss": ("black", "-"),
    "seg_prior": ("blue", "-"),
    "seg_posterior": ("blue", "--"),
    "match_prior": ("orange", "-"),
    "match_posterior": ("orange", "--"),
    "kl_sv": ("purple", "-"),
    "kl_sa": ("purple", "--"),
    "divergence_c": ("green", ":"),
    "mi": ("vermilion", "-."),
    "orthogonality": ("sky", ":"),
}
SCORES = (("black", "-"), ("blue", "--"), ("orange", ":"), ("purple", "-."))

Item = tuple[str, UInt8[np.ndarray, "T H W 3"], Shaped[np.ndarray, "T H W"], Float[np.ndarray, "T H W"]]


def contact_sheet(items: Sequence[Item], path: str | Path, *, frame_inches: float = 1.5, dpi: int = 110) -> Path:
    """Write the figure of :func:`outlined_frames`."""
    return save_figure(outlined_frames(items, frame_inches=frame_inches, dpi=dpi), path, palette=True)


def outlined_frames(items: Sequence[Item], *, frame_inches: float = 1.5, dpi: int = 110) -> Any:
    """Draw one row of frames a clip, the true outline solid and the predicted one (probability 0.5) dashed.

    items: (title, frames uint8 [T, H, W, 3], truth 0/1 [T, H, W], probability [T, H, W]) for each clip; without the
    probability, the truth is drawn alone. Returns a matplotlib Figure. Raises AvsError when there is no clip or an
    item's shapes do not fit each other.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    predicted = any(len(item) > 3 for item in items)
    clips = [(str(item[0]), *map(np.asarray, item[1:]), np.zeros_like(item[2]))[:4] for item in items]
    if not clips:
        raise UsageError(
            "contact_sheet: there is no clip to draw; give at least one (title, frames, truth, probability)"
        )
    for title, frames, truth, probability in clips:
        if frames.ndim != 4 or frames.shape[3] != 3 or not frames.shape[:3] == truth.shape == probability.shape:
            raise UsageError(
                f"contact_sheet: clip {title!r}: expected frames [T, H, W, 3], truth and probability [T, H, W]; "
                f"got {list(frames.shape)}, {list(truth.shape)}, {list(probability.shape)}"
            )
    columns = max(len(clip[1]) for clip in clips)
    width, row = columns * frame_inches, frame_inches + 0.22
    figure = Figure(figsize=(width, len(clips) * row + 0.3), dpi=dpi, layout="none")
    axes = figure.subplots(len(clips), columns, squeeze=False)
    for line, (title, frames, truth, probability) in zip(axes, clips, strict=True):
        for axis in line:
            axis.set_axis_off()
        line[0].set_title(title, loc="left", fontsize=8, pad=3)
        for axis, frame, true, found in zip(line, frames, truth, probability, strict=False):
            axis.imshow(frame, interpolation="lanczos")
            draw_outline(axis, true, TRUTH)
            draw_outline(axis, found, PREDICTION)
    handles = [
        Line2D([], [], color=TRUTH["colors"], linestyle="solid", linewidth=2.2, label="truth"),
        Line2D([], [], color=PREDICTION["colors"], linestyle=(0, (3, 1.5)), linewidth=1.6, label="prediction"),
    ]
    height = figure.get_figheight()
    handles = handles if predicted else handles[:1]
    figure.legend(handles=handles, loc="upper right", ncols=2, fontsize=8, frameon=False, borderaxespad=0.2)
    figure.subplots_adjust(
        left=0.003, right=0.997, bottom=0.03 / height, top=1 - 0.42 / height, wspace=0.02, hspace=0.24 / frame_inches
    )
    return figure


def draw_outline(axis: Any, field: np.ndarray, style: Mapping[str, Any]) -> None:
    from matplotlib.patheffects import Normal, Stroke

    field = np.pad(np.asarray(field, dtype=float), 1)  # so that a mask that meets the border closes there
    if field.max() < 0.5 or field.min() >= 0.5:
        return
    steps = [np.arange(-1, size - 1) for size in field.shape]
    lines = axis.contour(steps[1], steps[0], field, levels=[0.5], **style)
    lines.set_path_effects([Stroke(linewidth=style["linewidths"] + 1, foreground="black", alpha=0.6), Normal()])
    axis.set_xlim(-0.5, field.shape[1] - 2.5)
    axis.set_ylim(field.shape[0] - 2.5, -0.5)


def data_sheet(root: str | Path, path: str | Path, *, skip: Collection[str] = (), clips: int = 3) -> Path:
    """Draw the first `clips` clips of each split of the data in `root`, both tasks, with their masks.

    Raises:
        AvsError: as :class:`avslib.data.avsbench.AVSBench`; name clips with faults in `skip`.
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
    return contact_sheet(items, path, frame_inches=1.2)


def learning_curves(history: Iterable[Mapping[str, Any]] | str | Path, path: str | Path) -> Path:
    """Write the figure of :func:`curves_figure`."""
    return save_figure(curves_figure(history), path)


def curves_figure(history: Iterable[Mapping[str, Any]] | str | Path, *, dpi: int = 100) -> Any:
    """Draw the loss parts and the validation metrics of a run over its steps.

    history: rows with `step`, any of the objective's parts by name (or ``train_`` + name), and ``val_J``, ``val_F`` ...
    where they were measured; or the path of a CSV with these columns.
    Returns a matplotlib Figure. Raises AvsError when there is nothing to draw.
    """
    from matplotlib.figure import Figure

    if isinstance(history, str | Path):
        source = Path(history)
        if not source.is_file():
            raise RecordError(f"learning_curves: there is no file {source}; give the CSV that training writes")
        with open(source, newline="", encoding="utf-8") as stream:
            history = list(csv.DictReader(stream))
    rows = [dict(row) for row in history]
    names = list(dict.fromkeys(name for row in rows for name in row))
    parts = [name for name in names if name.removeprefix("train_") in PARTS]
    metrics = [name for name in names if name.startswith(("val_", "val/")) and not name.endswith("loss")]
    if not parts and not metrics:
        raise UsageError(
            "learning_curves: the history has no loss part and no val score; expected step, loss, val_J ..."
        )
    looks = {name: PARTS[name.removeprefix("train_")] for name in parts}
    scores = dict(zip(metrics, SCORES, strict=False))
    panels = [("total loss, and its parts before their weights", looks), ("score on val", scores)]
    panels = [(label, series) for label, series in panels if series]
    figure = Figure(figsize=(5.5 * len(panels), 4.6), dpi=dpi, layout="constrained")
    for axis, (label, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, (colour, dash) in series.items():
            points = [(_number(row.get("step", i)), _number(row.get(name))) for i, row in enumerate(rows)]
            x, y = np.array(points)[np.isfinite(points).all(axis=1)].T
            axis.plot(x, y, color=COLOURS[colour], linestyle=dash, label=name, markersize=3, marker="o" * (len(x) < 30))
        axis.set(xlabel="training step", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)
        if series is looks:
            axis.set_yscale("symlog", linthresh=1e-3)
        else:
            axis.set_ylim(0, 1)
    return figure


def _number(value: Any) -> float:
    return float("nan") if value in (None, "") else float(value)


def comparison_bars(
    rows: Sequence[Row], path: str | Path, *, metric: str = "J", splits: Sequence[str] = ("test", "test_unseen")
) -> Path:
    """Draw a metric of each row of `avslib.study.results.summarise`, with its spread over seeds.

    Raises AvsError when no row has the metric on any of the splits.
    """
    from matplotlib.figure import Figure

    splits = [split for split in splits if any(metric in row.values.get(split, {}) for row in rows)]
    if not splits:
        raise UsageError(f"comparison_bars: no row has {metric} on a split asked for; pass rows made by summarise()")
    figure = Figure(figsize=(8, 0.7 + len(rows) * 0.3 * (len(splits) + 0.6)), dpi=100, layout="constrained")
    axis = figure.subplots()
    thick = 0.8 / len(splits)
    looks = [(COLOURS["blue"], ""), (COLOURS["orange"], "///"), (COLOURS["purple"], "...")]
    for i, (split, (colour, hatch)) in enumerate(zip(splits, looks, strict=False)):
        drawn = [(at, row.values[split][metric]) for at, row in enumerate(rows) if metric in row.values.get(split, {})]
        places = [at + (i - (len(splits) - 1) / 2) * thick for at, _ in drawn]
        means, sds = [value.mean for _, value in drawn], [value.sd or 0 for _, value in drawn]
        axis.barh(places, means, thick * 0.92, color=colour, hatch=hatch, edgecolor="white", label=split, zorder=2)
        for place, mean, sd, (_, value) in zip(places, means, sds, drawn, strict=True):
            if sd:
                axis.errorbar(mean, place, xerr=sd, color="black", capsize=3, linewidth=1, zorder=3)
            axis.text(mean + sd + 0.008, place, value.text(1, 3), va="center", fontsize=7)
    axis.set(yticks=range(len(rows)), yticklabels=[row.label for row in rows], xlim=(0, 1))
    axis.set_xlabel(f"{metric} (mean; bars: sample sd over seeds)")
    axis.tick_params(axis="y", labelsize=8)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return save_figure(figure, path)


def save_figure(figure: Any, path: str | Path, palette: bool = False, comment: str = "") -> Path:
    """Write the figure in the format its suffix names; `palette` keeps sheets of photographs small.

    `comment` goes into the text of a PNG (without `palette`). Raises AvsError for a suffix that cannot be drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    kind = path.suffix.lower().removeprefix(".") or "png"
    canvas = FigureCanvasAgg(figure)
    if kind not in canvas.get_supported_filetypes():
        raise UsageError(f"{path}: cannot draw into a .{kind} file; use .png, .svg or .pdf")
    with atomic_path(path) as part:
        if palette and kind == "png":
            from PIL import Image

            canvas.draw()
            picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
            picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(part, format="png", optimize=True)
        else:
            plain = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
            plain["png"] |= {"Comment": comment} if comment else {}
            figure.savefig(part, format=kind, metadata=plain.get(kind))
    return path
