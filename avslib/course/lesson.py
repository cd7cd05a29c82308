"""How every notebook starts, checks what it derives, and leaves its metrics as data."""

import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from avslib.config import Config, load_config
from avslib.core.errors import DataError, NotebookError
from avslib.core.files import atomic_path
from avslib.data.avsbench import AVSBench
from avslib.data.mini.build import build_mini
from avslib.models.ecmvae import ECMVAE
from avslib.training.setup import open_split
from avslib.weights.checkpoints import load_checkpoint

METRICS = "metrics.json"
# the parameters that every notebook has, and what each must be
STANDARD: dict[str, tuple[type, str]] = {
    "FAST": (bool, "True (small sizes, for a quick look and for tests) or False"),
    "SEED": (int, "a whole number from 0 on"),
    "DATA_ROOT": (str, "a folder in AVSBench layout, or '' for Mini-AVS, built once"),
    "OUT_DIR": (str, "a folder for what the notebook writes, or '' for build/notebooks/<name>"),
    "DEVICE": (str, "'auto', 'cpu', 'cuda' or 'mps'"),
}
VERSIONS = ("avslib", "torch", "torchvision", "timm", "numpy", "matplotlib", "torchmetrics")


@dataclass
class Lesson:
    """A running notebook: its parameters, resolved, and what all notebooks do with them.

    Attributes:
        name: file name without suffix.
        fast, seed: parameters FAST and SEED.
        data: folder in AVSBench layout.
        out: folder for what the notebook writes; exists.
        device: where models run.
    """

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
        return load_checkpoint(source).to(self.device).eval()

    def generator(self, offset: int = 0) -> torch.Generator:
        """A generator of its own for each random act: seeded with SEED + `offset`, on the CPU."""
        return torch.Generator().manual_seed(self.seed + offset)

    def check(self, label: str, yours: Any, true: Any, tolerance: float = 1e-6) -> None:
        """Compare what the notebook derived with what the package gives; print both where they are single numbers.

        Args:
            label: what is compared.
            yours, true: numbers, bools, arrays or tensors of one shape.
            tolerance: absolute, plus the same relative to `true`; 0 compares exactly.

        Raises:
            AssertionError: they differ; the message names the check and the largest difference.
        """
        a, b = (torch.as_tensor(x).detach().cpu().double() for x in (yours, true))
        if a.shape != b.shape:
            raise AssertionError(f"{label}: yours has shape {tuple(a.shape)}, expected {tuple(b.shape)}")
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            gap = (a - b).abs().max().item()
            raise AssertionError(f"{label}: yours differs from the true value by up to {gap:.3g} (allowed {tolerance})")
        self.checks += 1
        values = f"yours {a.item():.4f}, true {b.item():.4f}" if a.numel() == 1 else f"{a.numel()} values"
        print(f"[ok] {label}: {values}, equal within {tolerance:g}")

    def finish(self, **metrics: float | int | bool | str) -> None:
        """Write ``metrics.json`` into `out`: parameters, seconds, number of checks, and `metrics`.

        Raises:
            AvsError: a metric that is not a plain finite value.
        """
        values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        for name, value in values.items():
            plain = isinstance(value, bool | int | float | str)
            if not plain or (isinstance(value, float) and not math.isfinite(value)):
                raise NotebookError(f"metric {name!r} is {value!r}; expected a finite number, a bool or a str")
        content = {
            "notebook": self.name,
            "fast": self.fast,
            "seed": self.seed,
            "device": self.device.type,
            "checks": self.checks,
            "seconds": round(time.perf_counter() - self.began, 1),
            "metrics": values,
        }
        with atomic_path(self.out / METRICS) as part:
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        print(f"{self.name}: {self.checks} checks passed, {len(values)} metrics written to {METRICS}")


def start(name: str, namespace: dict[str, Any], *own: str, say: Callable[[str], None] = print) -> Lesson:
    """Begin a notebook: check its parameters, seed, choose the device, build or find the data, style the plots.

    Args:
        name: file name of the notebook without suffix.
        namespace: ``globals()`` of the notebook, which holds the parameters.
        own: names of the notebook's own parameters, beside FAST, SEED, DATA_ROOT, OUT_DIR and DEVICE.
        say: called with a line on versions, device and data.

    Raises:
        AvsError: a parameter that does not exist (papermill itself only warns), is missing, of another type or out of
            range; a device that is not there; a data folder that is not one.
    """
    _check_parameters(name, namespace, [*STANDARD, *own])
    fast, seed, data_root, out_dir, device_name = (namespace[n] for n in STANDARD)
    device = _device(device_name)
    os.environ["ACCELERATE_USE_CPU"] = str(device.type == "cpu").lower()  # training chooses its device by this
    out = Path(out_dir) if out_dir else base_folder() / "build" / "notebooks" / name
    out.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in VERSIONS)
    say(f"Python {platform.python_version()}, {versions}")
    data = Path(data_root) if data_root else base_folder() / "build" / "data" / "mini-small"
    if not data_root:
        say(f"Mini-AVS in {data} (built once, in about half a minute); device {device}")
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
    checkout = Path(__file__).parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def _check_parameters(name: str, namespace: dict[str, Any], known: list[str]) -> None:
    """Raise unless the parameters are there, the standard ones valid, and no other variable looks like one."""
    if missing := [n for n in known if n not in namespace]:
        raise NotebookError(f"{name}: parameter {missing[0]} is missing; run the parameters cell first")
    for n, (kind, expected) in STANDARD.items():
        if type(namespace[n]) is not kind or (n == "SEED" and namespace[n] < 0):
            raise NotebookError(f"{n}: expected {expected}; got {namespace[n]!r}")
    if any(isinstance(value, Lesson) for value in namespace.values()):
        return  # started before: by now the reader's own variables are there
    imported = [vars(module) for key, module in list(sys.modules.items()) if key.split(".")[0] == "avslib"]
    for n, value in namespace.items():
        literal = isinstance(value, bool | int | float | str | list | tuple | dict | None)
        if not literal or n.startswith("_") or n in {"In", "Out", *known}:
            continue
        if not any(constants.get(n) is value for constants in imported):  # COLOURS, say
            raise NotebookError(f"{name}: there is no parameter {n!r}; the parameters are {', '.join(known)}")


def _device(name: str) -> torch.device:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = ("cuda" if there["cuda"] else "cpu") if name == "auto" else name
    if not there.get(chosen):
        raise NotebookError(f"DEVICE: expected {STANDARD['DEVICE'][1]}; PyTorch finds no such device here: {name!r}")
    return torch.device(chosen)


def _style_plots() -> None:
    import matplotlib.pyplot as plt
    from matplotlib import cycler

    from avslib.study.plots import COLOURS

    names, dashes = ("blue", "orange", "green", "vermilion", "purple", "black"), ("-", "--", "-.", ":", "-", "--")
    cycle = cycler(color=[COLOURS[n] for n in names]) + cycler(linestyle=list(dashes))
    size = {"figure.dpi": 80, "figure.figsize": (7, 3), "font.size": 9, "figure.constrained_layout.use": True}
    plt.rcParams.update({"axes.prop_cycle": cycle, "image.cmap": "viridis", "axes.grid": False, **size})
