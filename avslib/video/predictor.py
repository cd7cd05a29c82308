"""Masks from a trained model: for a clip of frames and embeddings, with chosen or sampled codes; for a video."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avslib.audio.encoders import AudioEncoder, build_audio_encoder
from avslib.models.ecmvae import ECMVAE, ECMVAEOutput
from avslib.models.latent import Noise
from avslib.video.windows import OVERLAP, Prediction
from avslib.weights.checkpoints import load_checkpoint
from avslib.weights.speed_options import apply_speed_options


class Predictor:
    """A trained model and its sound encoder, ready to segment.

    Args:
        model: put into eval mode; runs on the device that it is on.

    Example:
        >>> predictor = Predictor.from_checkpoint("mini-s4")
        >>> image, sound = torch.zeros(5, 3, 128, 128, dtype=torch.uint8), torch.zeros(5 * 16000)
        >>> tuple(predictor(image, predictor.embed(sound)).shape)
        (5, 128, 128)
    """

    def __init__(self, model: ECMVAE) -> None:
        self.model = model.eval()
        self._encoder: AudioEncoder | None = None

    @classmethod
    def from_checkpoint(
        cls, source: str | Path, device: str | torch.device = "cpu", *, bf16: bool = False
    ) -> "Predictor":
        """From a checkpoint folder, or the name of a shipped one; channels-last, and with `bf16` in bfloat16 where that
        is safe: faster on hardware that has it, with 8 binary digits in a product. Errors as `avslib.load_checkpoint`.
        """
        return cls(apply_speed_options(load_checkpoint(source, device), bf16=bf16))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int:
        """Side in pixels that the model was trained on."""
        return self.model.config.model.image_size

    @property
    def encoder(self) -> AudioEncoder:
        """The frozen sound encoder that the model was trained with; loaded on first use."""
        if self._encoder is None:
            m = self.model.config.model
            self._encoder = build_audio_encoder(m.audio_encoder, m.audio_weights)
        return self._encoder

    def embed(self, waveform: Float[Tensor, "S"], frames: int = 5) -> Float[Tensor, "T D"]:
        """One sound embedding for each second of a 16 kHz mono waveform."""
        return self.encoder.embed(waveform[None], frames)[0]

    @torch.no_grad()
    def run(
        self,
        image: UInt8[Tensor, "T 3 H W"],
        audio: Float[Tensor, "T D"],
        noise: Noise = None,
        mask: UInt8[Tensor, "T 1 H W"] | None = None,
        features: list[Tensor] | None = None,
    ) -> ECMVAEOutput:
        """One pass over a clip of T frames: all outputs of the model. A mask runs the posterior branch too; `features`
        are those of the backbone, where they are known already.
        """
        pixels = self.model.normalize(image.to(self.device))
        mask = None if mask is None else mask.to(self.device).float()
        return self.model(pixels, audio.to(self.device), mask, frames=len(image), noise=noise, features=features)

    def __call__(
        self, image: UInt8[Tensor, "T 3 H W"], audio: Float[Tensor, "T D"], noise: Noise = None
    ) -> Float[Tensor, "T H W"]:
        """Probability that a pixel sounds, on the CPU: with the mean codes, or those that `noise` draws or gives."""
        return self.run(image, audio, noise).logits[:, 0].float().sigmoid().cpu()

    def samples(
        self, image: UInt8[Tensor, "T 3 H W"], audio: Float[Tensor, "T D"], k: int, seed: int = 0
    ) -> Float[Tensor, "k T H W"]:
        """`k` probability maps, each with codes drawn from the prior."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():  # the backbone does not see the codes: once for all samples
            features = self.model.backbone(self.model.normalize(image.to(self.device)))
        runs = (self.run(image, audio, generator, features=features) for _ in range(k))
        return torch.stack([out.logits[:, 0].float().sigmoid().cpu() for out in runs])

    def with_codes(
        self, image: UInt8[Tensor, "T 3 H W"], audio: Float[Tensor, "T D"], codes: Mapping[str, Float[Tensor, "T K"]]
    ) -> Float[Tensor, "T H W"]:
        """Probabilities with given prior codes: ``vs`` (s_v), ``as`` (s_a), ``vac`` (c); the mean of one left out.

        Raises:
            AvsError: codes of another shape.
        """
        eps = {}
        for name, (mu, logvar) in self.run(image, audio).latents.items():
            z = codes.get(name)
            # the model takes standard-normal noise: z = mu + exp(logvar / 2) eps, solved for eps
            eps[name] = torch.zeros_like(mu) if z is None else (z.to(mu) - mu) * torch.exp(-0.5 * logvar)
        return self(image, audio, eps)

    def predict(
        self,
        video: str | Path,
        audio: str | Path | int | None = None,
        samples: int = 0,
        seed: int = 0,
        fps: int | str = 1,
        size: int | None = None,
        overlap: int = OVERLAP,
        progress: bool = False,
    ) -> Prediction:
        """Segment a video file: an iterator of one `Second` for each second, in constant memory.

        One frame a second is taken as AVSBench does, brought to the network's size with its aspect ratio kept, and
        segmented in windows of a clip's length (5 s). The last window reaches back into the one before it; a video
        shorter than a window is segmented as it is.

        Args:
            video: any file that FFmpeg reads.
            audio: a file to take the sound from, or the number of a sound track of the video, from 1; None: the track
                that players choose.
            samples: 0 for the mean code; K for the mean of K codes drawn from the prior, with maps of uncertainty.
            seed: random seed of the samples; each window draws the same ones.
            fps: results a second, from 1 to the file's own frame rate, or "native" for one for each frame. The model
                only ever sees one frame a second, as in training: r results a second cost r times as much.
            size: side of the square that the network runs at, in pixels, a multiple of 32; None: that of its training.
            overlap: seconds that neighbouring windows share. There their probabilities are averaged, the middle of a
                window weighing most; with samples, windows that disagree count as samples that do.
            progress: show a bar with the time left.

        Raises:
            AvsError: at once: no such file, no video, damaged, no sound track, a number out of range.
                :class:`avslib.video.reader.BrokenOff` where the file breaks off, after all that could be read of it.
        """
        return Prediction(self, video, audio, samples, seed, fps, size, overlap, progress)
