"""The frozen sound encoders behind one interface; their embeddings are computed once and cached."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avslib.audio.logmel import log_mel
from avslib.audio.soundnet import SoundNetEmbedding
from avslib.audio.vggish import VGGish, load_vggish
from avslib.audio.waveforms import SAMPLE_RATE
from avslib.core.errors import ConfigError, UsageError

# increase it whenever the same weights and samples would give different embeddings
CODE_VERSION = "1"


class AudioEncoder(nn.Module):
    """A frozen sound network as a function of 16 kHz clips: `embed` gives one vector per second."""

    def __init__(self, name: str, network: SoundNetEmbedding | VGGish) -> None:
        super().__init__()
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.dim = network.dim
        self.takes_log_mel = isinstance(network, VGGish)
        self.sample_rate = SAMPLE_RATE

    def train(self, mode: bool = True) -> "AudioEncoder":
        """Frozen: stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def embed(self, waveforms: Float[Tensor, "B S"], frames: int = 5, batch_size: int = 16) -> Float[Tensor, "B T dim"]:
        """Embed the first `frames` seconds of each clip; a shorter clip is filled with silence.

        Raises:
            AvsError: a different shape.
        """
        if waveforms.ndim != 2:
            raise UsageError(
                f"waveforms have shape {list(waveforms.shape)}; expected [clips, samples], {SAMPLE_RATE} Hz"
            )
        rows = [self._rows(batch, frames) for batch in waveforms.split(batch_size)]
        return torch.cat(rows).reshape(len(waveforms), frames, self.dim)

    def _rows(self, waveforms: Float[Tensor, "B S"], frames: int) -> Float[Tensor, "B*T dim"]:
        if self.takes_log_mel:
            return self.network(torch.cat([log_mel(waveform, SAMPLE_RATE, frames) for waveform in waveforms]))
        return self.network(waveforms, frames)

    @torch.no_grad()
    def embed_log_mel(self, log_mel: Float[Tensor, "B T 1 96 64"]) -> Float[Tensor, "B T dim"]:
        """Embed patches as `avslib.audio.log_mel` makes them; only where `takes_log_mel`, which VGGish does."""
        return self.network(log_mel.flatten(0, 1)).reshape(*log_mel.shape[:2], self.dim)

    def fingerprint(self) -> str:
        """A hash of the weights and the code's version: encoders with the same fingerprint give the same embeddings."""
        digest = hashlib.sha256(f"{self.name} {CODE_VERSION}".encode())
        for name, value in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]


def build_audio_encoder(name: str, weights: str | Path | None = None) -> AudioEncoder:
    """The frozen encoder `soundnet` (weights in the package) or `vggish` (`weights`: its state dict file).

    Raises:
        AvsError: an unknown name, or weights that are missing, not needed, or of a different network.
    """
    if name == "soundnet":
        if weights is not None:
            raise ConfigError(f"audio encoder soundnet ships its own weights; leave out weights={weights}")
        return AudioEncoder(name, SoundNetEmbedding.pretrained())
    if name == "vggish":
        if weights is None:
            raise ConfigError("audio encoder vggish needs weights: the file of the released VGGish state dict")
        return AudioEncoder(name, load_vggish(weights))
    raise ConfigError(f"unknown audio encoder {name!r}; expected soundnet or vggish")
