"""The conditions of the robustness evaluation: what each plays to a clip, and where something sounds then.

Waveforms are float samples; a level is the mean square of all samples. Nothing is clipped: that would change an SNR.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from PIL import Image
from torch import Tensor

from avslib.audio import SAMPLE_RATE
from avslib.audio.encoders import AudioEncoder
from avslib.core.errors import UsageError
from avslib.core.seeds import clip_rng
from avslib.data.avsbench import AVSBench
from avslib.data.loading import shuffle_audio
from avslib.data.mini.sources import ClipLabels

OWN, SILENCE, NOISE, MISSING = "own sound", "silence", "noise", "sound missing"
ANOTHER, OFF_SCREEN, BLANK = "sound of another clip", "off-screen", "image missing"
Labels = Mapping[str, ClipLabels]
CONDITIONS = (OWN, *(f"SNR {db} dB" for db in (20, 15, 10, 5, 0)), NOISE, SILENCE, MISSING, ANOTHER, OFF_SCREEN, BLANK)
DEFINITIONS = {
    "falsely_lit": "share of all pixels that are marked as sounding (sigmoid > 0.5) where nothing sounds given what "
    "plays; under silence, noise and off-screen this is the false-positive rate of AVSBench-Robust (Li et al., 2025). "
    "J and F are against the mask of the clip's own sound, under every condition",
    OWN: "the clip as it is; falsely lit: outside the mask",
    "SNR x dB": "own sound and white Gaussian noise, its mean square over the clip x dB below the sound's (none beside "
    "digital silence); falsely lit: outside the mask",
    NOISE: "only that noise, at the mean square of the clip's sound; falsely lit: every marked pixel",
    SILENCE: "a waveform of zeros through the audio encoder; falsely lit: every marked pixel",
    MISSING: "an embedding of zeros; falsely lit: every marked pixel",
    ANOTHER: "the sounds of the split exchanged along a random cycle; falsely lit: outside the objects in view of the "
    "classes that play in that second (AVSBench: the mask on S4 if both clips are of one category, unknown on MS3)",
    OFF_SCREEN: "the sound of a clip of the split that plays no class in view; falsely lit: every marked pixel",
    BLANK: "own sound, every frame of the mean colour (zeros after normalisation); falsely lit: outside the mask",
}


def snr_of(condition: str) -> float | None:
    """The SNR in dB of a condition such as "SNR 20 dB"; None for the others."""
    match = re.fullmatch(r"SNR (-?\d+(?:\.\d+)?) dB", condition)
    return float(match[1]) if match else None


def white_noise(samples: int, seed: int, name: str) -> Float[Tensor, "S"]:
    """Gaussian white noise of mean square 1 (that of these very samples), drawn from (seed, clip name)."""
    noise = torch.from_numpy(clip_rng(seed, name).standard_normal(samples))
    return (noise / noise.square().mean().sqrt()).float()


def at_snr(noise: Float[Tensor, "S"], waveform: Float[Tensor, "S"], snr_db: float = 0.0) -> Float[Tensor, "S"]:
    """g * `noise`, with g such that 10 log10(power(waveform) / power(g noise)) = `snr_db`; zeros beside silence.

    >>> [round(x, 3) for x in at_snr(torch.tensor([1.0, 1.0]), torch.tensor([0.5, -0.5]), 20).tolist()]
    [0.05, 0.05]
    """
    signal, power = (w.double().square().mean().item() for w in (waveform, noise))
    return noise * (math.sqrt(signal / power) * 10 ** (-snr_db / 20))


def off_screen(labels: Labels, seed: int) -> dict[str, str]:
    """For each clip another one that plays something, but nothing in view, drawn from (seed, clip name); if one fits.

    >>> dog, both = frozenset({"dog"}), frozenset({"cow", "dog"})
    >>> off_screen({"a": ClipLabels((dog,), dog), "b": ClipLabels((both - dog,), both)}, seed=0)
    {'a': 'b'}
    """
    chosen = {}
    for name, label in labels.items():
        seen = label.in_view
        fitting = sorted(n for n, o in labels.items() if seen is not None and o.heard and not o.heard & seen)
        if fitting:
            chosen[name] = fitting[int(clip_rng(seed, name).integers(len(fitting)))]
    return chosen


def left_out(conditions: Sequence[str], dataset: AVSBench, labels: Labels, *, listens: bool = True) -> dict[str, str]:
    """Those of `conditions` that this data does not allow, each with a sentence that says why.

    A model that does not listen needs no waveforms. Raises AvsError for an unknown condition.
    """
    if unknown := [c for c in conditions if c not in CONDITIONS and snr_of(c) is None]:
        raise UsageError(f"unknown condition {unknown[0]!r}; expected one of {', '.join(CONDITIONS)}")
    reasons = {ANOTHER: f"split {dataset.split!r} has one clip"} if len(dataset) < 2 else {}
    if any(label.in_view is None for label in labels.values()):
        reasons[OFF_SCREEN] = "the data does not say what is in view"
    elif missing := len(labels) - len(off_screen(labels, 0)):
        reasons[OFF_SCREEN] = f"{missing} of {len(labels)} clips show every class that split {dataset.split!r} plays"
    mute = [clip for clip in dataset.clips if listens and clip.wav_path is None]
    for condition in (c for c in conditions if mute and (c == NOISE or snr_of(c) is not None)):
        only = f"{mute[0].name!r} has no wav to add noise to, only {mute[0].log_mel_path.name}"
        reasons[condition] = f"clip {only}; add the wav files"
    return {c: f"Condition {c!r} is left out: {reasons[c]}" for c in conditions if c in reasons}


@dataclass
class Stage:
    """What plays under each condition to the clips of `dataset`, which holds their embeddings, and what sounds then.

    encoder: None for a model without sound; then the embeddings of `dataset` play throughout. It embeds `batch` clips
    together.
    """

    dataset: AVSBench
    labels: Labels
    encoder: AudioEncoder | None
    seed: int
    batch: int = 4

    def __post_init__(self):
        self.own = {clip.name: row for clip, row in zip(self.dataset.clips, self.dataset.audio, strict=True)}
        exchanged = shuffle_audio({name: name for name in self.own}, self.seed)
        self.partners = {ANOTHER: exchanged, OFF_SCREEN: off_screen(self.labels, self.seed)}

    def audio(self, condition: str) -> dict[str, Float[Tensor, "T D"]]:
        """What plays to each clip, by name."""
        if self.encoder is None or condition in (OWN, BLANK):
            return self.own
        if condition == MISSING:
            return {name: torch.zeros_like(row) for name, row in self.own.items()}
        if condition == SILENCE:
            return dict.fromkeys(self.own, self._embed([torch.zeros(self.dataset.frames * SAMPLE_RATE)])[0])
        if condition in self.partners:
            return {name: self.own[self.partners[condition][name]] for name in self.own}
        parts = np.split(np.arange(len(self.own)), range(self.batch, len(self.own), self.batch))
        rows = [row for part in parts for row in self._embed([self._noisy(int(i), snr_of(condition)) for i in part])]
        return dict(zip(self.own, rows, strict=True))

    def _noisy(self, index: int, snr: float | None) -> Float[Tensor, "S"]:
        waveform = self.dataset.waveform(index)
        noise = white_noise(len(waveform), self.seed, self.dataset.clips[index].name)
        return at_snr(noise, waveform) if snr is None else waveform + at_snr(noise, waveform, snr)

    @torch.no_grad()
    def _embed(self, waveforms: list[Float[Tensor, "S"]]) -> Float[Tensor, "B T D"]:
        return self.encoder.embed(torch.stack(waveforms), self.dataset.frames).float().cpu()

    def sounding(
        self, condition: str, names: Sequence[str], mask: Shaped[Tensor, "N 1 H W"]
    ) -> Bool[Tensor, "N 1 H W"] | None:
        """Where something sounds in the clips' frames, given what plays; None if unknown. `mask`: of the own sound."""
        if condition in (NOISE, SILENCE, MISSING, OFF_SCREEN):
            return torch.zeros_like(mask, dtype=torch.bool)
        if condition != ANOTHER:
            return mask.bool()
        heard = [self.labels[self.partners[ANOTHER][name]] for name in names]
        masks = mask.view(len(names), -1, *mask.shape[1:])
        found = [sounding_in_view(self.labels[n], h, row) for n, h, row in zip(names, heard, masks, strict=True)]
        return None if any(row is None for row in found) else torch.cat(found).to(mask.device)


def sounding_in_view(
    seen: ClipLabels, heard: ClipLabels, mask: Shaped[Tensor, "T 1 H W"]
) -> Bool[Tensor, "T 1 H W"] | None:
    """Where something sounds in the frames of clip `seen` while the sound of clip `heard` plays; None if unknown.

    The objects in view of the classes that sound in that second; without outlines (S4 of AVSBench) `mask`, that of the
    clip's own sound, when both are of one category, else nowhere.
    """
    if seen.in_view is None or heard.played is None:
        return None
    sounding = torch.zeros(mask.shape, dtype=torch.bool)
    if heard.heard & seen.in_view and seen.outlines is None:
        return mask.bool().cpu()
    outlines = seen.outlines() if heard.heard & seen.in_view else {}
    for second, classes in enumerate(heard.played[: len(mask)]):
        for category in classes & outlines.keys():
            # by Pillow, as masks are read: another library rounds the nearest pixel differently
            outline = Image.fromarray(outlines[category][second]).resize(mask.shape[:-3:-1], Image.Resampling.NEAREST)
            sounding[second, 0] |= torch.from_numpy(np.array(outline))
    return sounding
