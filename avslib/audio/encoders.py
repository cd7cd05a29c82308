"""The frozen sound encoders behind one interface; their embeddings are computed once and cached."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.audio.logmel import log_mel
from avslib.audio.soundnet import SoundNetEmbedding
from avslib.audio.vggish import VGGish, load_vggish
from avslib.audio.waveforms import SAMPLE_RATE
from avslib.core.errors import ConfigError
from avslib.core.shapes import require_shape
from avslib.core.tensors import state_sha256

CODE_VERSION = "1"  # increase it whenever the same weights and samples would give different embeddings


class AudioEncoder(nn.Module):
    """A frozen sound network as a function of 16 kHz clips: `embed` gives one vector per second.

    Neither network has layers that differ between training and evaluation.
    """

    def __init__(self, name: str, network: SoundNetEmbedding | VGGish) -> None:
        super().__init__()
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.dim = network.dim
        self.takes_log_mel = isinstance(network, VGGish)
        self.sample_rate = SAMPLE_RATE

    @torch.no_grad()
    def embed(self, waveforms: Float[Tensor, "B S"], frames: int = 5, batch_size: int = 16) -> Float[Tensor, "B T dim"]:
        """Embed the first `frames` seconds of each clip; a shorter clip is filled with silence."""
        require_shape("the batch of waveforms", waveforms, "clips", "samples")
        rows = []
        for batch in waveforms.split(batch_size):
            if isinstance(self.network, VGGish):
                rows.append(self.network(torch.cat([log_mel(waveform, SAMPLE_RATE, frames) for waveform in batch])))
            else:
                rows.append(self.network(batch, frames))
        return torch.cat(rows).reshape(len(waveforms), frames, self.dim)

    @torch.no_grad()
    def embed_log_mel(self, log_mel: Float[Tensor, "B T 1 96 64"]) -> Float[Tensor, "B T dim"]:
        """Embed patches as `avslib.audio.log_mel` makes them; only where `takes_log_mel`, which VGGish does."""
        return self.network(log_mel.flatten(0, 1)).reshape(*log_mel.shape[:2], self.dim)

    def fingerprint(self) -> str:
        """A hash of the weights and the code's version: encoders with the same fingerprint give the same embeddings."""
        return state_sha256(self.network.state_dict(), f"{self.name} {CODE_VERSION}")[:32]


def build_audio_encoder(name: str, weights: str | Path | None = None) -> AudioEncoder:
    """The frozen encoder `soundnet` (weights in the package) or `vggish` (`weights`: its state dict file)."""
    if name == "soundnet" and weights is None:
        return AudioEncoder(name, SoundNetEmbedding.pretrained())
    if name == "vggish" and weights is not None:
        return AudioEncoder(name, load_vggish(weights))
    expected = "soundnet, which ships its own weights, or vggish with the file of its published state dict"
    raise ConfigError(f"audio encoder {name!r} with weights {weights}; expected {expected}")
