"""Checkpoints: a folder with safetensors weights and the resolved config."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from avslib.config import Config, load_config
from avslib.core.errors import ConfigError, WeightsError
from avslib.core.files import atomic_path
from avslib.core.parsing import first_line
from avslib.core.tensors import load_tensors, save_tensors
from avslib.models.ecmvae import ECMVAE

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
CONFIG_HASH = "config_sha256"
EDITED = "# edited"
SHIPPED = Path(__file__).parents[1] / "assets" / "checkpoints"


def load_strict(model: ECMVAE, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose names and shapes must be the model's, all of them.

    Raises:
        AvsError: names what is missing, unknown or of another shape; `source` says where it comes from.
    """
    wanted = model.state_dict()
    problems = [f"{k} is missing" for k in wanted if k not in state]
    problems += [f"{k} is unknown" for k in state if k not in wanted]
    problems += [
        f"{k} has shape {tuple(state[k].shape)}, expected {tuple(wanted[k].shape)}"
        for k in wanted
        if k in state and state[k].shape != wanted[k].shape
    ]
    if problems:
        raise WeightsError(
            f"{source} do not fit {model.config.model.backbone} with {model.config.model.channels} "
            f"channels: {listed(problems)}; use the config that they were trained with"
        )
    model.load_state_dict(state)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a sentence: all of them, or the first `most` and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b (and 1 more)'
    """
    more = len(names) - most
    return ", ".join(first_line(name) for name in names[:most]) + (f" (and {more} more)" if more > 0 else "")


def save_checkpoint(folder: str | Path, model: ECMVAE, *, half: bool = False, replace: bool = True) -> Path:
    """Write `folder`/model.safetensors and config.yaml, each beside and renamed.

    The weights carry a checksum of their own and that of the configuration: both are compared when they are loaded.

    Args:
        half: store floating-point tensors as float16 where they fit (half the size; read back as float32).
        replace: False keeps a checkpoint that is there.

    Raises:
        OutputError: `replace` is off, and `folder` holds another checkpoint.
    """
    folder = Path(folder)
    state = model.state_dict()
    if half:
        state = {k: v.half() if v.is_floating_point() and v.half().isfinite().all() else v for k, v in state.items()}
    text = yaml.safe_dump(model.config.model_dump(mode="json"), sort_keys=False)
    save_tensors(folder / WEIGHTS, state, {CONFIG_HASH: _text_sha256(text)}, replace=replace)
    with atomic_path(folder / CONFIG, replace=replace) as path:
        path.write_text(text, encoding="utf-8")
    return folder


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def load_weights(model: ECMVAE, source: str | Path, modules: Sequence[str] | None = None) -> None:
    """Load the weights of a checkpoint folder or .safetensors file into `model`.

    Args:
        modules: names such as ``neck``: load what belongs to a module of that name, and leave the rest as it is; the
            file may then hold more than the model has.

    Raises:
        AvsError: no such file, weights missing or of another shape, a module that the model does not have.
    """
    _load(model, _weights_path(source), modules)


def _load(model: ECMVAE, path: Path, modules: Sequence[str] | None = None) -> dict[str, str]:
    """As `load_weights`; returns the file's metadata."""
    try:
        state, metadata = load_tensors(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"checkpoint {path}: not a whole safetensors file ({error}); copy or train it again"
        ) from None
    logger.info("weights %s: %s", path, ", ".join(modules) if modules else "all modules")
    wanted = model.state_dict()
    state = {k: v.to(wanted[k].dtype) if k in wanted else v for k, v in state.items()}
    if modules is not None:
        parts = {k: set(k.split(".")) for k in wanted}
        for name in modules:
            if not any(name in part for part in parts.values()):
                raise ConfigError(
                    f"train.init_modules: the model has no module {name!r}; it has {', '.join(_module_names(model))}"
                )
        chosen = {k for k, part in parts.items() if part & set(modules)}
        state = {k: v for k, v in wanted.items() if k not in chosen} | {k: state[k] for k in chosen if k in state}
    load_strict(model, state, f"weights {path}")
    return metadata


def _module_names(model: ECMVAE) -> list[str]:
    """The parts of the network and of its branches."""
    names = [name for name, _ in model.named_children() if name not in ("prior", "posterior")]
    return [*names, *(name for name, _ in model.prior.named_children())]


def load_checkpoint(source: str | Path, device: str | torch.device = "cpu") -> ECMVAE:
    """The model of a checkpoint folder (or of the .safetensors file in it), in eval mode.

    A configuration that was changed by hand is taken when its last line is ``# edited``.

    Raises:
        AvsError: no such folder, no config beside the weights, weights that do not fit the config, either damaged.
    """
    path = _weights_path(source)
    config_path = path.parent / CONFIG
    if not config_path.is_file():
        raise WeightsError(f"checkpoint {path}: {CONFIG} is missing beside it; copy the whole checkpoint folder")
    config: Config = load_config(config_path).replace({"model.pretrained": False})
    try:
        model = ECMVAE(config)
    except (MemoryError, RuntimeError) as error:
        raise WeightsError(
            f"checkpoint {path}: {CONFIG} beside it asks for a network that cannot be built ({first_line(error)})"
        ) from None
    _require_own_config(config_path, _load(model, path))
    return model.to(device).eval()


def _require_own_config(path: Path, metadata: Mapping[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    if metadata.get(CONFIG_HASH, _text_sha256(text)) != _text_sha256(text) and not text.rstrip().endswith(EDITED):
        raise WeightsError(
            f"checkpoint {path}: not the {CONFIG} that {WEIGHTS} was saved with: it is damaged, cut off or edited; "
            f"copy the whole folder again, or add the last line {EDITED!r} if you changed it yourself"
        )


def shipped_names() -> list[str]:
    """Checkpoints that come with the package; `load_checkpoint` and ``train.init_from`` take them by name."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{WEIGHTS}"))


def _weights_path(source: str | Path) -> Path:
    path = SHIPPED / source if str(source) in shipped_names() else Path(source)
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(
            f"checkpoint {source}: no such file, no folder with {WEIGHTS} in it, and none of the shipped "
            f"ones ({', '.join(shipped_names())})"
        )
    return path
