"""How every notebook starts, checks what it derives, and leaves its metrics as data."""

import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib import cycler
from pydantic import ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from avslib.config import Config, load_config
from avslib.core.devices import select_device
from avslib.core.errors import DataError, InstallError, NotebookError
from avslib.core.files import atomic_path
from avslib.data.avsbench import AVSBench
from avslib.data.mini.build import build_mini
from avslib.models.ecmvae import ECMVAE
from avslib.study.plots import COLOURS
from avslib.training.setup import open_split
from avslib.weights.checkpoints import load_checkpoint
from course.quiz import Question, quiz

METRICS = "metrics.json"
# the parameters that every notebook has
STANDARD = {"FAST": bool, "SEED": NonNegativeInt, "DATA_ROOT": str, "OUT_DIR": str, "DEVICE": str}


@dataclass
class Lesson:
    """A running notebook: its parameters, resolved (the folder `out` exists), and what all notebooks do with them."""

    name: str
    fast: bool
    seed: int
    data: Path
    out: Path
    device: torch.device
    checks: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def is_mini(self) -> bool:
        """Whether the data is a Mini-AVS build (else AVSBench)."""
        return (self.data / "manifest.json").is_file()

    def config(self, overrides: Mapping[str, Any] = {}, *, task: str = "s4", preset: str = "mini") -> Config:
        """A configuration on this lesson's data, with its seed: ``lesson.config({"train.epochs": 2}, task="ms3")``."""
        base = {"data.root": str(self.data), "data.task": task, "data.workers": 0, "train.seed": self.seed}
        return load_config(preset, base | dict(overrides))

    def dataset(self, split: str = "test", *, task: str = "s4", clips: int | None = None) -> AVSBench:
        """A split at the size of preset mini with its cached sound embeddings; the first `clips` clips."""
        return open_split(self.config({"data.max_clips": clips}, task=task), split)

    def model(self, source: str | Path = "mini-s4") -> ECMVAE:
        """A trained model by the name of a shipped checkpoint or by folder, on the lesson's device, in eval mode."""
        return load_checkpoint(source, self.device)

    def generator(self, offset: int = 0) -> torch.Generator:
        """A generator of its own for each random act: seeded with SEED + `offset`, on the CPU."""
        return torch.Generator().manual_seed(self.seed + offset)

    def check(self, label: str, yours: Any, true: Any, tolerance: float = 1e-6) -> None:
        """Compare what the notebook derived with what the package gives; print both where they are single numbers.

        `yours` and `true` are numbers, bools, arrays or tensors of one shape; `tolerance` is absolute, plus the same
        relative to `true`, and 0 compares exactly. Raises AssertionError with the label and the largest difference.
        """
        a, b = (torch.as_tensor(x).detach().cpu().double() for x in (yours, true))
        tolerances = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
        torch.testing.assert_close(a, b, **tolerances, msg=lambda text: f"{label}: yours differs from the true: {text}")
        self.checks += 1
        values = f"yours {a.item():.4f}, true {b.item():.4f}" if a.numel() == 1 else f"{a.numel()} values"
        print(f"[ok] {label}: {values}, equal within {tolerance:g}")

    def quiz(self, *questions: Question) -> Any:
        """A self-test as the cell's output; see `course.quiz.quiz`."""
        return quiz(*questions)

    def finish(self, **metrics: float | int | bool | str) -> None:
        """Write ``metrics.json`` into `out`: parameters, seconds, number of checks, and `metrics`.

        Raises AvsError for a metric that is not a plain finite value.
        """
        values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        for name, value in values.items():
            if not isinstance(value, str) and not (isinstance(value, int | float) and math.isfinite(value)):
                raise NotebookError(f"metric {name!r} is {value!r}; expected a finite number, a bool or a str")
        seconds = round(time.perf_counter() - self.began, 1)
        content = {"notebook": self.name, "fast": self.fast, "seed": self.seed, "device": self.device.type}
        content |= {"checks": self.checks, "seconds": seconds, "metrics": values}
        with atomic_path(self.out / METRICS) as part:
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        print(f"{self.name}: {self.checks} checks passed, {len(values)} metrics written to {METRICS}")


def start(name: str, namespace: dict[str, Any], **own: Any) -> Lesson:
    """Begin a notebook: check its parameters, seed, choose the device, build or find the data, style the plots.

    `name` is the file name without suffix, `namespace` the ``globals()`` of the notebook, which hold the parameters,
    and `own` the types of its own parameters beside `STANDARD`: ``start("00_start_here", globals(), CLIPS=int)``.

    Raises AvsError for a parameter that does not exist (papermill itself only warns), is missing or of the wrong type,
    and for a device or a data folder that is not there.
    """
    _check_parameters(name, namespace, STANDARD | own)
    fast, seed, data_root, out_dir, device_name = (namespace[n] for n in STANDARD)
    # lessons compute in float64 here and there, which Apple's GPU lacks: it must be named
    device = select_device("cpu" if device_name == "auto" and not torch.cuda.is_available() else device_name)
    os.environ["ACCELERATE_USE_CPU"] = str(device.type == "cpu").lower()  # training chooses its device by this
    out = Path(out_dir) if out_dir else base_folder() / "build" / "notebooks" / name
    out.mkdir(parents=True, exist_ok=True)
    packages = ("avslib", "torch", "torchvision", "timm", "numpy", "matplotlib", "torchmetrics")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    print(f"Python {platform.python_version()}, {', '.join(versions)}")
    data = Path(data_root) if data_root else base_folder() / "build" / "data" / "mini-small"
    if not data_root:
        print(f"Mini-AVS in {data} (built once, in about half a minute); device {device}")
        build_mini(data, "small", seed=0, progress=False)
    elif not data.is_dir():
        raise DataError(f"DATA_ROOT: {data} is not a folder; give one in AVSBench layout, or '' for Mini-AVS")
    torch.manual_seed(seed)
    # TF32 convolutions, the default on NVIDIA, differ by more than the checks allow
    torch.backends.cudnn.allow_tf32 = False
    _style_plots()
    return Lesson(name, fast, seed, data, out, device)


def base_folder() -> Path:
    """The checkout, or the current folder where the package is installed without one (Colab)."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def in_checkout(name: str) -> Path:
    """A folder of the checkout, such as ``results/runs``; raises an AvsError where there is no checkout."""
    if not (folder := base_folder() / name).is_dir():
        raise InstallError(f"{folder}: not found; it is only in the repository: start Jupyter in a checkout of avslib")
    return folder


def as_parameter(name: str, kind: Any, value: Any, *, strict: bool = True) -> Any:
    """`value` if it is of the type `kind`, else an AvsError; without `strict`, a text is read as that type.

    >>> as_parameter("SEED", int, "010", strict=False)
    10
    """
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=strict, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise NotebookError(f"{name}: expected {expected}; got {value!r}") from None


def _check_parameters(name: str, namespace: dict[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise unless the parameters are there and of their types, and no other variable looks like one."""
    for n, kind in kinds.items():
        if n not in namespace:
            raise NotebookError(f"{name}: parameter {n} is missing; run the parameters cell first")
        as_parameter(n, kind, namespace[n])
    if any(isinstance(value, Lesson) for value in namespace.values()):
        return  # started before: by now the reader's own variables are there
    imported = [vars(module) for key, module in list(sys.modules.items()) if key.split(".")[0] == "avslib"]
    for n, value in namespace.items():
        literal = isinstance(value, bool | int | float | str | list | tuple | dict | None)
        own = literal and not n.startswith("_") and n not in {"In", "Out", *kinds}
        if own and not any(constants.get(n) is value for constants in imported):  # COLOURS, say
            raise NotebookError(f"{name}: there is no parameter {n!r}; the parameters are {', '.join(kinds)}")


def _style_plots() -> None:
    names = ("blue", "orange", "green", "vermilion", "purple", "black")
    cycle = cycler(color=[COLOURS[n] for n in names], linestyle=["-", "--", "-.", ":", "-", "--"])
    size = {"figure.dpi": 80, "figure.figsize": (7, 3), "font.size": 9, "figure.constrained_layout.use": True}
    plt.rcParams.update({"axes.prop_cycle": cycle, "image.cmap": "viridis", "axes.grid": False, **size})
