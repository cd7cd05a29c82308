"""Visual backbones from timm: four feature levels at strides 4, 8, 16 and 32."""

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.core.errors import UsageError
from avslib.core.timm_networks import feature_network

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """A timm network, such as ``pvt_v2_b5`` or ``resnet50``, reduced to its levels at strides 4, 8, 16, 32.

    `pretrained` and errors as in :func:`avslib.core.timm_networks.feature_network`.
    """

    # of the images that the ImageNet weights were trained with, [3, 1, 1]
    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "pvt_v2_b5", pretrained: bool | str = False):
        super().__init__()
        self.net = net = feature_network(name, pretrained, STRIDES)
        self.levels = [net.feature_info.reduction().index(s) for s in STRIDES]
        self.channels = [net.feature_info.channels()[i] for i in self.levels]
        self.channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        data = timm.data.resolve_model_data_config(self.net)
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(data[key]).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "N 3 H W"]) -> list[Float[Tensor, "N _ _ _"]]:
        """Features of the four levels, fine to coarse: [N, channels[i], H / STRIDES[i], W / STRIDES[i]]."""
        h, w = image.shape[-2:]
        if h % 32 or w % 32:
            raise UsageError(f"image of {h}x{w}: height and width must be divisible by 32; pad or resize it")
        features = self.net(image)
        features = [features[i] for i in self.levels]
        return [f.permute(0, 3, 1, 2) for f in features] if self.channels_last else features
