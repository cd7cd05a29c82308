"""Masks from a trained model: for a clip of frames and embeddings, with chosen or sampled codes; for a video."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor

from avslib.audio import SAMPLE_RATE
from avslib.audio.encoders import AudioEncoder, build_audio_encoder
from avslib.calibration import entropy, entropy_parts
from avslib.core.errors import UsageError
from avslib.models.ecmvae import ECMVAE, ECMVAEOutput
from avslib.models.latent import Noise
from avslib.video.reader import BrokenOff, Moment, probe, read_video
from avslib.video.second import Letterbox, Second
from avslib.video.tracks import AudioSource
from avslib.weights.checkpoints import load_checkpoint
from avslib.weights.speed_options import apply_speed_options

# sharing 1, 2 or 4 s moved J on 60 s of Mini-AVS clips by +0.008, -0.003 and +0.005, at up to 5 times the cost
OVERLAP = 0
PIXELS = 20 * 128**2  # of frames in one pass: more take memory, and no less time on a CPU
SIZES = range(32, 2049, 32)  # side of the network's square, in pixels

Frames, Embedded, Maps = UInt8[Tensor, "T 3 H W"], Float[Tensor, "T D"], Float[Tensor, "T H W"]
Mask, Features = UInt8[Tensor, "T 1 H W"] | None, list[Tensor] | None
Window = list[tuple[Tensor, np.ndarray]]  # fitted pictures, uint8 [3, S, S], and a second of 16 kHz sound for each


class Predictor:
    """A trained model, put into eval mode and used on its device, and its sound encoder.

    >>> predictor = Predictor.from_checkpoint("mini-s4")
    >>> image, sound = torch.zeros(5, 3, 128, 128, dtype=torch.uint8), torch.zeros(5 * 16000)
    >>> tuple(predictor(image, predictor.embed(sound)).shape)
    (5, 128, 128)
    """

    def __init__(self, model: ECMVAE) -> None:
        self.model = model.eval()

    @classmethod
    def from_checkpoint(
        cls, source: str | Path, device: str | torch.device = "auto", *, bf16: bool = False
    ) -> "Predictor":
        """From a checkpoint folder, or the name of a shipped one; channels-last, and with `bf16` in bfloat16 where that
        is safe. `device` and errors as in `avslib.load_checkpoint`."""
        return cls(apply_speed_options(load_checkpoint(source, device), bf16=bf16))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> int:
        """Side in pixels that the model was trained on."""
        return self.model.config.model.image_size

    @cached_property
    def encoder(self) -> AudioEncoder:
        """The frozen sound encoder that the model was trained with; loaded on first use."""
        return build_audio_encoder(self.model.config.model.audio_encoder, self.model.config.model.audio_weights)

    def embed(self, waveform: Float[Tensor, "S"], frames: int = 5) -> Embedded:
        """One sound embedding for each second of a 16 kHz mono waveform."""
        return self.encoder.embed(waveform[None], frames)[0]

    @torch.no_grad()
    def run(
        self,
        image: Frames,
        audio: Embedded,
        noise: Noise = None,
        mask: Mask = None,
        features: Features = None,
        clips: int = 1,
    ) -> ECMVAEOutput:
        """One pass over a clip of T frames: all outputs of the model. A mask runs the posterior branch too; `features`
        are those of the backbone, where they are known already. Several `clips` of one length follow each other.
        """
        pixels = self.model.normalize(image.to(self.device))
        mask = None if mask is None else mask.to(self.device).float()
        frames = len(image) // clips
        return self.model(pixels, audio.to(self.device), mask, frames=frames, noise=noise, features=features)

    def __call__(
        self, image: Frames, audio: Embedded, noise: Noise = None, features: Features = None, clips: int = 1
    ) -> Maps:
        """Probability that a pixel sounds, on the CPU: with the mean codes, or those that `noise` draws or gives."""
        return self.run(image, audio, noise, features=features, clips=clips).logits[:, 0].float().sigmoid().cpu()

    def samples(self, image: Frames, audio: Embedded, k: int, seed: int = 0) -> Float[Tensor, "k T H W"]:
        """`k` probability maps, each with codes drawn from the prior."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():  # the backbone does not see the codes: once for all samples
            features = self.model.backbone(self.model.normalize(image.to(self.device)))
        return torch.stack([self(image, audio, generator, features) for _ in range(k)])

    def with_codes(self, image: Frames, audio: Embedded, codes: Mapping[str, Float[Tensor, "T K"]]) -> Maps:
        """Probabilities with given prior codes: ``vs`` (s_v), ``as`` (s_a), ``vac`` (c); the mean of one left out."""
        latents = self.run(image, audio).latents
        # the model takes standard-normal noise: z = mu + exp(logvar / 2) eps, solved for eps
        eps = {n: (codes.get(n, mu).to(mu) - mu) * torch.exp(-0.5 * logvar) for n, (mu, logvar) in latents.items()}
        return self(image, audio, eps)

    def predict(
        self,
        video: str | Path,
        audio: AudioSource = None,
        samples: int = 0,
        seed: int = 0,
        fps: int | str = 1,
        size: int | None = None,
        overlap: int = OVERLAP,
        progress: bool = False,
    ) -> "Prediction":
        """Segment a video file: an iterator of one `Second` for each second, in constant memory.

        One frame per second is taken as AVSBench does, brought to the network's size with its aspect ratio kept, and
        segmented in windows of a clip's length (5 s). The last window reaches back to be whole.

        Args:
            audio: a file to take the sound from, or the number of a sound track, from 1; None: the default track.
            samples: 0 for the mean code; K for the mean of K codes drawn from the prior, with maps of uncertainty.
            seed: random seed of the samples; each window draws the same ones.
            fps: results per second, from 1 to the file's own frame rate, or "native" for one for each frame; a window
                holds one frame per second, as in training, so r results per second cost r times as much.
            size: side of the network's square input in pixels, a multiple of 32; None: that of its training.
            overlap: seconds that neighbouring windows share, with the weighted mean of their probabilities.

        Raises AvsError at once, as `read_video`, and for a number out of range; `BrokenOff` after all that can be read.
        """
        return Prediction(self, video, audio, samples, seed, fps, size, overlap, progress)


@dataclass(eq=False)
class Prediction(Iterator[Second]):
    """The results of a video, computed as they are asked for; its fields are the arguments of `Predictor.predict`.

    Besides, `info` is what the video says about itself, `rate` the steps per second, `broken` why it breaks off. All of
    it is a chain of generators: memory depends on windows, steps per second and sizes, not on the length.
    """

    predictor: Predictor
    video: str | Path
    audio: AudioSource = None
    samples: int = 0
    seed: int = 0
    fps: int | str = 1
    size: int | None = None
    overlap: int = OVERLAP
    progress: bool = False

    def __post_init__(self) -> None:
        frames = self.predictor.model.config.data.frames
        self.size = self.predictor.image_size if self.size is None else self.size
        self.info, self.broken = probe(self.video), None
        own = max(1.0, self.info.fps or 25.0)
        fps = "native" if self.fps == "native" else int(self.fps) if str(self.fps).isdecimal() else 0
        self.rate = own if fps == "native" else float(fps)
        rates = f"native or a whole number from 1 to {own:.3g}"
        for name, value, fine, expected in (
            ("samples", self.samples, self.samples >= 0, "0 (the mean code) or how many codes to draw"),
            ("size", self.size, self.size in SIZES, f"a multiple of 32 up to {SIZES[-1]}"),
            ("overlap", self.overlap, self.overlap in range(frames), f"0 to {frames - 1} s, within a window"),
            ("fps", self.fps, 1 <= self.rate <= own + 0.1, rates),
        ):
            if not fine:
                raise UsageError(f"{name} is {value}; expected {expected}")
        # waiting for their windows the pictures would fill the memory: they are read a second time
        pictures = read_video(self.video, fps, sound=False)
        groups = self._by_second(read_video(self.video, fps, audio=self.audio))
        self._results = self._read(joined_windows(groups, self._segment, frames, frames - self.overlap), pictures)
        if self.progress:
            total = math.ceil(self.info.seconds * self.rate) if self.info.seconds else None
            self._results = iter(track(self._results, "segmenting", total=total, transient=True))

    def __next__(self) -> Second:
        return next(self._results)

    def _read(self, joined: Iterator[Tensor], pictures: Iterator[Moment]) -> Iterator[Second]:
        for maps in joined:
            if len(maps) == 2:
                total = entropy(maps[0])
                maps = torch.stack([maps[0], total, (total - maps[1]).clamp(min=0)])
            moment = next(pictures)
            full = Letterbox(*moment.image.shape[:2], self.size).back(maps).numpy()
            yield Second(moment.index, moment.start, moment.image, *full, length=moment.length)
        if self.broken:
            raise self.broken

    def _by_second(self, moments: Iterator[Moment]) -> Iterator[Window]:
        """The steps of each second, with the second of sound that ends with the step, as a frame in training has it."""
        heard = np.zeros(0, np.float32)
        for _, group in groupby(self._readable(moments), key=lambda moment: int(moment.start + 1e-6)):
            steps = []
            for moment in group:
                heard = np.concatenate([heard, moment.sound])[-SAMPLE_RATE:]
                steps.append((Letterbox(*moment.image.shape[:2], self.size).fit(moment.image), heard))
            # within the first second less than a second was heard: its steps are given all of it
            whole = np.pad(heard, (0, SAMPLE_RATE - len(heard)))
            yield [(image, sound if len(sound) == SAMPLE_RATE else whole) for image, sound in steps]

    def _readable(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        try:
            yield from moments
        except BrokenOff as error:  # raised again after the results of all that could be read
            self.broken = error

    def _segment(self, windows: list[Window]) -> Iterator[Float[Tensor, "T M S S"]]:
        """Maps of windows of one length, to be averaged: the probability; with samples also the expected entropy."""
        # each window draws the same samples: these go one by one
        most = 1 if self.samples else max(1, PIXELS // (len(windows[0]) * self.size**2))
        for first in range(0, len(windows), most):
            yield from self._maps(windows[first : first + most])

    def _maps(self, windows: list[Window]) -> Float[Tensor, "B T M S S"]:
        clips, frames = len(windows), len(windows[0])
        images, sounds = zip(*chain(*windows), strict=True)
        image, sound = torch.stack(images), torch.from_numpy(np.concatenate(sounds)).view(clips, -1)
        embedded = self.predictor.encoder.embed(sound, frames).flatten(0, 1)
        try:
            if not self.samples:
                return self.predictor(image, embedded, clips=clips).unflatten(0, (clips, frames))[:, :, None]
            drawn = self.predictor.samples(image, embedded, self.samples, self.seed)
        except AssertionError as error:  # backbones that were built for one size
            name = self.predictor.model.config.model.backbone
            raise UsageError(f"size: backbone {name} does not run at {self.size} ({error}); leave size out") from error
        return torch.stack([drawn.mean(0), entropy_parts(drawn)[1]], dim=1)[None]


def joined_windows(
    groups: Iterable[list[Any]],
    segment: Callable[[list[list[Any]]], Iterable[Float[Tensor, "T M S S"]]],
    length: int,
    hop: int,
) -> Iterator[Float[Tensor, "M S S"]]:
    """The maps of all steps in their order, from windows of `length` seconds, one every `hop`.

    `groups` holds the steps of each second; a window takes the k-th step of each, for every k in turn. The last window
    reaches back to be whole. Where windows overlap, their maps are averaged with the weights 1, 2, 3, 2, 1. `segment`
    gets windows of one length at a time.
    """
    recent: list[tuple[int, list[Any]]] = []
    pending: dict[tuple[int, int], tuple[int, Tensor]] = {}  # weight and mean of maps, by second and k
    count = covered = given = 0

    def add_windows() -> None:
        # reaches one second further back where the last one has no k-th step
        steps = (
            (k, [(n, g[k]) for n, g in recent if k < len(g)][-length:]) for k in range(max(len(g) for _, g in recent))
        )
        windows = [(k, window) for k, window in steps if window[-1][0] >= covered]
        for _, alike in groupby(windows, key=lambda pair: len(pair[1])):
            add(list(alike))

    def add(windows: list[tuple[int, list[tuple[int, Any]]]]) -> None:
        found = segment([[step for _, step in window] for _, window in windows])
        for (k, window), of_window in zip(windows, found, strict=True):
            for i, maps in enumerate(of_window):
                before, mean = pending.get(key := (window[i][0], k), (0, maps))
                weight = min(i + 1, len(window) - i)
                # a moving mean: where there is only one window its maps stay as they are, to the bit
                pending[key] = before + weight, torch.lerp(mean, maps, weight / (before + weight))

    def finished(end: int) -> list[Tensor]:
        means = [(key, pending.pop(key)[1]) for key in sorted(pending) if key[0] < end]
        return [mean for key, mean in means if key[0] >= given]  # the last window reached back over the others

    for count, group in enumerate(groups, 1):
        recent = [*recent, (count - 1, group)][-length - 1 :]
        if count >= length and (count - length) % hop == 0:
            add_windows()
            yield from finished(count - length + hop)
            covered, given = count, count - length + hop
    if covered < count:
        add_windows()
    yield from finished(count)
