"""The sound encoder of preset `mini`: a frozen slice of SoundNet and a small trained head, shipped with the package."""

from importlib import resources

import torch
import torchaudio
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from avslib.audio.waveforms import SAMPLE_RATE, fit_length
from avslib.core.errors import UsageError
from avslib.core.shapes import require_shape

ASSETS = resources.files("avslib") / "assets" / "soundnet"

# name: (channels in, channels out, kernel, stride, padding, max pool after it)
LAYERS = {
    "conv1": (1, 16, 64, 2, 32, 8),
    "conv2": (16, 32, 32, 2, 16, 8),
    "conv3": (32, 64, 16, 2, 8, 1),
    "conv4": (64, 128, 8, 2, 4, 1),
    "conv5": (128, 256, 4, 2, 2, 1),
}
POOLED = ("conv4", "conv5")
NATIVE_RATE = 22050
FULL_SCALE = 256.0  # SoundNet was trained on samples in [-256, 256]


class SoundNetSlice(nn.Module):
    """conv1 to conv5 of SoundNet-8 with their batch norms folded in, and per-second statistics of the last two.

    Source: Aytar, Vondrick, Torralba, "SoundNet: Learning Sound Representations from Unlabeled Video", NIPS 2016.
    """

    features = 3 * sum(LAYERS[name][1] for name in POOLED)

    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs, kernel, stride, padding, _) in LAYERS.items():
            self.add_module(name, nn.Conv1d(inputs, outputs, kernel, stride, padding))

    def forward(self, waveform: Float[Tensor, "B S"], frames: int) -> Float[Tensor, "B T F"]:
        """Mean, maximum and deviation of each channel over each second of `frames` seconds of 16 kHz sound."""
        x = torchaudio.functional.resample(fit_length(waveform, frames * SAMPLE_RATE), SAMPLE_RATE, NATIVE_RATE)
        x = x.unsqueeze(1) * FULL_SCALE
        seconds: list[list[Tensor]] = [[] for _ in range(frames)]
        for name, (*_, pool) in LAYERS.items():
            x = F.relu(self.get_submodule(name)(x))
            if name in POOLED:
                edges = [round(t * x.shape[-1] / frames) for t in range(frames + 1)]
                for t, statistics in enumerate(seconds):
                    part = x[..., edges[t] : edges[t + 1]]
                    statistics += [part.mean(-1), part.amax(-1), part.std(-1, unbiased=False)]
            x = F.max_pool1d(x, pool)
        return torch.stack([torch.cat(statistics, -1) for statistics in seconds], 1)


class SoundNetEmbedding(nn.Module):
    """16 kHz sound to one non-negative embedding per second, as VGGish's: [B, S] to [B * T, 128]. Frozen.

    SoundNet's slice is as its authors published it (MIT); `tools.soundnet_train` trained the head, which turns its
    statistics into an embedding, on the train recordings of Mini-AVS.
    """

    dim = 128

    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.slice = SoundNetSlice()
        features = self.slice.features
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, self.dim), nn.ReLU())
        self.eval().requires_grad_(False)

    @classmethod
    def pretrained(cls) -> "SoundNetEmbedding":
        """With the weights in `avslib/assets/soundnet`, next to their licence and training record."""
        state = {f"slice.{name}": value for name, value in load((ASSETS / "slice.safetensors").read_bytes()).items()}
        state |= load((ASSETS / "head.safetensors").read_bytes())
        model = cls(hidden=len(state["head.0.bias"]))
        model.load_state_dict({name: value.float() for name, value in state.items()})
        return model

    def standardise(self, statistics: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        """Zero mean and unit deviation over the train recordings, outliers clipped to 5 deviations."""
        return ((statistics - self.mean) / self.std).clamp(-5, 5)

    @torch.no_grad()
    def forward(self, waveform: Float[Tensor, "B S"], frames: int = 5) -> Float[Tensor, "B*T 128"]:
        """Embed the first `frames` seconds, silence after the end; row b * T + t is second t of clip b."""
        require_shape("the batch of waveforms", waveform, "clips", "samples")
        if not waveform.is_floating_point():
            raise UsageError(f"the batch of waveforms holds {waveform.dtype}, expected float samples")
        return self.head(self.standardise(self.slice(waveform, frames))).flatten(0, 1)
