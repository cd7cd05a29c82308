"""Checkpoint folders: ``model.safetensors`` holds the weights, ``config.yaml`` the resolved configuration.

The weights carry a checksum of their own and that of the configuration; both are compared on loading.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from avslib.core.errors import WeightsError
from avslib.core.files import atomic_path
from avslib.core.parsing import first_line
from avslib.core.tensors import load_tensors, plain_tensor, save_tensors

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
CONFIG_HASH, EDITED = "config_sha256", "# edited"
SHIPPED = Path(__file__).parents[1] / "assets" / "checkpoints"


def shipped_names() -> list[str]:
    """Names of the checkpoints that come with the package; they stand for their folders."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{WEIGHTS}"))


def weights_path(source: str | Path) -> Path:
    """The weights file of a checkpoint: a folder, the file itself, or the name of a shipped one; else WeightsError."""
    path = SHIPPED / source if str(source) in shipped_names() else Path(source)
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(
            f"checkpoint {source}: no such file, not a folder with {WEIGHTS} in it, and not one of the shipped "
            f"checkpoints ({', '.join(shipped_names())})"
        )
    return path


def config_path(weights: Path) -> Path:
    """The configuration beside a weights file. Raises WeightsError where it is missing."""
    path = weights.parent / CONFIG
    if not path.is_file():
        raise WeightsError(f"checkpoint {weights}: {CONFIG} is missing beside it; copy the whole checkpoint folder")
    return path


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], config: str, *, half: bool = False, replace: bool = True
) -> None:
    """Write both files atomically. See :func:`avslib.weights.checkpoints.save_checkpoint`."""
    if half:
        fits = {k for k, v in tensors.items() if v.is_floating_point() and v.half().isfinite().all()}
        tensors = {k: v.half() if k in fits else v for k, v in tensors.items()}
    save_tensors(folder / WEIGHTS, tensors, {CONFIG_HASH: _text_sha256(config)}, replace=replace)
    with atomic_path(folder / CONFIG, replace=replace) as path:
        path.write_text(config, encoding="utf-8")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a weights file. Raises WeightsError where it is not a whole safetensors file."""
    try:
        return load_tensors(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"checkpoint {path}: not a whole safetensors file ({error}); get it again") from None


def require_own_config(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise WeightsError where `path` is not what `metadata` of the weights says, and does not end in ``# edited``."""
    text = path.read_text(encoding="utf-8")
    if metadata.get(CONFIG_HASH, _text_sha256(text)) != _text_sha256(text) and not text.rstrip().endswith(EDITED):
        raise WeightsError(
            f"checkpoint {path}: not the {CONFIG} that {WEIGHTS} was saved with: it is damaged, cut off or edited; "
            f"copy the whole folder again, or add the last line {EDITED!r} if you changed it yourself"
        )


def load_strict(module: nn.Module, state: Mapping[str, Tensor], what: str, advice: str) -> None:
    """Load a state dict whose names and shapes must be exactly the module's.

    Raises WeightsError with `what`, the first tensors that are missing, unknown or of a different shape, and `advice`.
    """
    wanted = module.state_dict()
    problems = [f"{k} is missing" for k in wanted if k not in state]
    problems += [f"{k} is unknown" for k in state if k not in wanted]
    for name in (k for k in wanted if k in state):
        expected = tuple(wanted[name].shape)
        if not plain_tensor(state[name]):
            problems.append(f"{name} is not a dense tensor, expected shape {expected}")
        elif state[name].shape != expected:
            problems.append(f"{name} has shape {tuple(state[name].shape)}, expected {expected}")
    if problems:
        raise WeightsError(f"{what}: {listed(problems)}; {advice}")
    module.load_state_dict(state)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a sentence: all of them, or the first `most` and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b (and 1 more)'
    """
    more = len(names) - most
    return ", ".join(first_line(name) for name in names[:most]) + (f" (and {more} more)" if more > 0 else "")


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
