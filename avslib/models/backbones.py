"""Visual backbones from timm: four feature levels at strides 4, 8, 16 and 32."""

import logging
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.core.checkpoint_format import load_strict
from avslib.core.errors import ConfigError, InstallError, UsageError
from avslib.core.imagenet import PACKAGED, packaged_weights
from avslib.core.tensors import read_state_dict

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """A timm ``features_only`` network, reduced to its levels at strides 4, 8, 16, 32.

    Args:
        name: timm model name, such as ``pvt_v2_b5``, ``resnet50`` or ``swin_base_patch4_window7_224``.
        pretrained: True for ImageNet weights, False for random ones, a path for a state dict in timm's names.

    Attributes:
        channels: channels of the four levels, fine to coarse.
        mean, std: per-channel statistics that the network's ImageNet weights were trained with, [3, 1, 1].

    Raises:
        AvsError: timm does not know the name, the levels are missing, or the weights cannot be had.
    """

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
        source = "ImageNet weights of " + ("a package" if packaged else "timm") if pretrained is True else pretrained
        logger.info("backbone %s: %s", name, source or "random weights")
        info: Any = self.net.feature_info
        strides = info.reduction()
        if not set(STRIDES) <= set(strides):
            raise ConfigError(f"model.backbone {name!r}: needs features at strides {STRIDES}, has {tuple(strides)}")
        self.levels = [strides.index(s) for s in STRIDES]
        self.channels = [info.channels()[i] for i in self.levels]
        self.channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        cfg = timm.get_pretrained_cfg(name)
        mean, std = (cfg.mean, cfg.std) if cfg else (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "N 3 H W"]) -> list[Float[Tensor, "N _ _ _"]]:
        """Features of the four levels, fine to coarse: [N, channels[i], H / STRIDES[i], W / STRIDES[i]]."""
        if image.shape[-1] % 32 or image.shape[-2] % 32:
            raise UsageError(
                f"image of {image.shape[-2]}x{image.shape[-1]}: height and width must be divisible by 32; "
                "pad or resize it"
            )
        features = self.net(image)
        features = [features[i] for i in self.levels]
        return [f.permute(0, 3, 1, 2) for f in features] if self.channels_last else features
