"""Checkpoints: a folder with safetensors weights and the resolved config."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from avslib.config import Config, load_config
from avslib.errors import ConfigError, WeightsError
from avslib.files import atomic_path
from avslib.models.ecmvae import ECMVAE

__all__ = ["CONFIG", "WEIGHTS", "listed", "load_checkpoint", "load_strict", "load_weights", "save_checkpoint",
           "shipped_names"]  # fmt: skip

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
SHIPPED = Path(__file__).parent / "assets" / "checkpoints"


def load_strict(model: ECMVAE, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose names and shapes must be the model's, all of them.

    Raises:
        AvsError: names what is missing, unknown or of another shape; `source` says where it comes from.
    """
    wanted = model.state_dict()
    problems = [f"{k} is missing" for k in wanted if k not in state]
    problems += [f"{k} is unknown" for k in state if k not in wanted]
    problems += [f"{k} has shape {tuple(state[k].shape)}, expected {tuple(wanted[k].shape)}"
                 for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if problems:
        raise WeightsError(f"{source} do not fit {model.config.model.backbone} with {model.config.model.channels} "
                           f"channels: {listed(problems)}; use the config that they were trained with")
    model.load_state_dict(state)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a sentence: all of them, or the first `most` and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b (and 1 more)'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" (and {more} more)" if more > 0 else "")


def save_checkpoint(folder: str | Path, model: ECMVAE, *, half: bool = False) -> Path:
    """Write `folder`/model.safetensors and config.yaml, each beside and renamed.

    Args:
        half: store floating-point tensors as float16 where they fit (half the size; read back as float32).
    """
    folder = Path(folder)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half:
        state = {k: v.half() if v.is_floating_point() and v.half().isfinite().all() else v for k, v in state.items()}
    with atomic_path(folder / WEIGHTS) as path:
        save_file(state, path)
    with atomic_path(folder / CONFIG) as path:
        path.write_text(yaml.safe_dump(model.config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    return folder


def load_weights(model: ECMVAE, source: str | Path, modules: Sequence[str] | None = None) -> None:
    """Load the weights of a checkpoint folder or .safetensors file into `model`.

    Args:
        modules: names such as ``neck``: load what belongs to a module of that name, and leave the rest as it is; the
            file may then hold more than the model has.

    Raises:
        AvsError: no such file, weights missing or of another shape, a module that the model does not have.
    """
    path = _weights_path(source)
    try:
        with safe_open(path, framework="pt") as f:
            state = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except SafetensorError as error:
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
                raise ConfigError(f"train.init_modules: the model has no module {name!r}; it has "
                                  f"{', '.join(_module_names(model))}")
        chosen = {k for k, part in parts.items() if part & set(modules)}
        state = {k: v for k, v in wanted.items() if k not in chosen} | {k: state[k] for k in chosen if k in state}
    load_strict(model, state, f"weights {path}")


def _module_names(model: ECMVAE) -> list[str]:
    """The parts of the network and of its branches."""
    names = [name for name, _ in model.named_children() if name not in ("prior", "posterior")]
    return [*names, *(name for name, _ in model.prior.named_children())]


def load_checkpoint(source: str | Path, device: str | torch.device = "cpu") -> ECMVAE:
    """The model of a checkpoint folder (or of the .safetensors file in it), in eval mode.

    Raises:
        AvsError: no such folder, no config beside the weights, weights that do not fit the config.
    """
    path = _weights_path(source)
    config_path = path.parent / CONFIG
    if not config_path.is_file():
        raise WeightsError(f"checkpoint {path}: {CONFIG} is missing beside it; copy the whole checkpoint folder")
    config: Config = load_config(config_path).replace({"model.pretrained": False})
    model = ECMVAE(config)
    load_weights(model, path)
    return model.to(device).eval()


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
