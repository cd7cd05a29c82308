"""Checkpoints of the model: folders with safetensors weights and the resolved config."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from avslib.core.checkpoint_format import CONFIG as CONFIG
from avslib.core.checkpoint_format import SHIPPED as SHIPPED
from avslib.core.checkpoint_format import WEIGHTS as WEIGHTS
from avslib.core.checkpoint_format import read_weights, weights_path
from avslib.core.checkpoint_format import shipped_names as shipped_names
from avslib.core.errors import ConfigError
from avslib.models.ecmvae import ECMVAE

logger = logging.getLogger(__name__)


def save_checkpoint(folder: str | Path, model: ECMVAE, *, half: bool = False, replace: bool = True) -> Path:
    """Write `folder`/model.safetensors and config.yaml, each of them atomically.

    Args:
        half: store floating-point tensors as float16 where they fit (half the size; read back as float32).
        replace: False keeps a checkpoint that is there.

    Raises:
        OutputError: `replace` is off, and `folder` holds another checkpoint.
    """
    return model.save(folder, half=half, replace=replace)


def load_checkpoint(source: str | Path, device: str | torch.device = "cpu") -> ECMVAE:
    """The model of a checkpoint in eval mode: a folder, the .safetensors file in it, or the name of a shipped one.

    A configuration that was changed by hand is accepted when its last line is ``# edited``.

    Raises:
        AvsError: no such folder, no config beside the weights, weights that do not fit the config, either damaged.
    """
    return ECMVAE.from_folder(source, device)


def load_weights(model: ECMVAE, source: str | Path, modules: Sequence[str] | None = None) -> None:
    """Load the weights of a checkpoint folder or .safetensors file into `model`.

    Args:
        modules: names such as ``neck``: load what belongs to a module of that name, and leave the rest as it is; the
            file may then hold more than the model has.

    Raises:
        AvsError: no such file, weights missing or of another shape, a module that the model does not have.
    """
    path = weights_path(source)
    state, _ = read_weights(path)
    logger.info("weights %s: %s", path, ", ".join(modules) if modules else "all modules")
    ours = model.state_dict()
    state = {k: v.to(ours[k].dtype) if k in ours else v for k, v in state.items()}
    if modules is not None:
        parts = {k: set(k.split(".")) for k in ours}
        for name in modules:
            if not any(name in part for part in parts.values()):
                raise ConfigError(
                    f"train.init_modules: the model has no module {name!r}; it has {', '.join(_module_names(model))}"
                )
        chosen = {k for k, part in parts.items() if part & set(modules)}
        state = {k: v for k, v in ours.items() if k not in chosen} | {k: state[k] for k in chosen if k in state}
    model.load_weights(state, f"weights {path}")


def _module_names(model: ECMVAE) -> list[str]:
    """The parts of the network and of its branches."""
    names = [name for name, _ in model.named_children() if name not in ("prior", "posterior")]
    return [*names, *(name for name, _ in model.prior.named_children())]
