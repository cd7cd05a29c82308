"""Checkpoints of the model: folders with safetensors weights and the resolved config."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from avslib.core.checkpoints import CONFIG as CONFIG
from avslib.core.checkpoints import SHIPPED as SHIPPED
from avslib.core.checkpoints import WEIGHTS as WEIGHTS
from avslib.core.checkpoints import read_weights
from avslib.core.checkpoints import save_checkpoint as save_checkpoint
from avslib.core.checkpoints import shipped_names as shipped_names
from avslib.core.errors import ConfigError
from avslib.models.ecmvae import ECMVAE

logger = logging.getLogger(__name__)


def load_checkpoint(source: str | Path, device: str | torch.device = "cpu") -> ECMVAE:
    """The model of a checkpoint in eval mode: a folder, the .safetensors file in it, or the name of a shipped one.

    A configuration that was changed by hand is accepted when its last line is ``# edited``.

    Raises AvsError: no such folder or `device`, no config beside the weights, weights that do not fit it, either
    damaged.
    """
    logger.info("weights %s", source)
    return ECMVAE.from_folder(source, device)


def load_weights(model: ECMVAE, source: str | Path, modules: Sequence[str] | None = None) -> None:
    """Load the weights of a checkpoint folder or .safetensors file into `model`.

    Args:
        modules: names such as ``neck``: load what belongs to a module of that name, and leave the rest as it is; the
            file may then hold more than the model has.

    Raises AvsError: no such file, weights missing or of a different shape, a module that the model does not have.
    """
    path, state, _ = read_weights(source)
    logger.info("weights %s: %s", path, ", ".join(modules) if modules else "all modules")
    if modules is not None:
        ours = model.state_dict()
        for name in modules:
            if not any(name in key.split(".") for key in ours):
                parts = [*model.named_children(), *model.prior.named_children()]
                known = ", ".join(part for part, _ in parts if part not in ("prior", "posterior"))
                raise ConfigError(f"train.init_modules: the model has no module {name!r}; it has {known}")
        chosen = {key for key in ours if set(key.split(".")) & set(modules)}
        state = {k: v for k, v in ours.items() if k not in chosen} | {k: state[k] for k in chosen if k in state}
    model.load_weights(state, f"weights {path}")
