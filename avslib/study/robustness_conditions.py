"""The conditions of the robustness evaluation: what each plays to a clip, and where something sounds then.

Waveforms are float samples at one rate; a level is the mean square of all samples. Nothing is clipped: a mixture may
exceed 1, since clipping would change its SNR.
"""

import math
import re
from collections.abc import Mapping, Sequence

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

OWN, SILENCE, NOISE, MISSING = "own sound", "silence", "white noise", "sound missing"
ANOTHER, OFF_SCREEN, BLANK = "sound of another clip", "off-screen sound", "image missing"
CONDITIONS = (OWN, *(f"SNR {db} dB" for db in (20, 15, 10, 5, 0)), NOISE, SILENCE, MISSING, ANOTHER, OFF_SCREEN, BLANK)
DEFINITIONS = {
    "falsely_lit": "share of all pixels that are predicted as sounding (sigmoid > 0.5) where nothing sounds given what "
    "plays; J and F are against the mask of the clip's own sound, whatever plays",
    OWN: "the clip as it is; falsely lit: outside the mask",
    "SNR x dB": "own sound and white Gaussian noise drawn from (seed, clip name), its mean square over the clip x dB "
    "below the sound's, nothing clipped; a clip of digital silence gets no noise; falsely lit: outside the mask",
    NOISE: "that noise alone, at the mean square of the clip's sound; falsely lit: every lit pixel",
    SILENCE: "a waveform of zeros through the audio encoder; falsely lit: every lit pixel",
    MISSING: "an embedding of zeros; falsely lit: every lit pixel",
    ANOTHER: "the sounds of the split exchanged along a random cycle; falsely lit: outside the objects in view of the "
    "classes that the other clip plays in that second",
    OFF_SCREEN: "the sound of a clip of the split that plays no class in view, drawn from (seed, clip name); falsely "
    "lit: every lit pixel",
    BLANK: "own sound, every frame of the mean colour (zeros after normalisation); falsely lit: outside the mask",
}
# AVSBench annotates neither what else is in view nor what MS3's clips play.
AVSBENCH = {
    ANOTHER: "the sounds of the split exchanged along a random cycle; falsely lit on S4: outside the mask if both "
    "clips are of one category, else every lit pixel; on MS3 not defined",
    OFF_SCREEN: "S4 alone: the sound of a clip of another category, drawn from (seed, clip name); falsely lit: every "
    "lit pixel",
}


def definitions(data: str) -> dict[str, str]:
    """What the scores and conditions are on "mini" or "avsbench"."""
    return DEFINITIONS | (AVSBENCH if data == "avsbench" else {})


def snr_of(condition: str) -> float | None:
    """The SNR in dB of a condition such as "SNR 20 dB"; None for the others."""
    match = re.fullmatch(r"SNR (-?\d+(?:\.\d+)?) dB", condition)
    return float(match[1]) if match else None


def white_noise(samples: int, seed: int, name: str) -> Float[Tensor, "S"]:
    """Gaussian white noise of mean square 1 (that of these very samples), drawn from (seed, clip name)."""
    noise = torch.from_numpy(clip_rng(seed, name).standard_normal(samples))
    return (noise / noise.square().mean().sqrt()).float()


def at_snr(noise: Float[Tensor, "S"], waveform: Float[Tensor, "S"], snr_db: float = 0.0) -> Float[Tensor, "S"]:
    """g * `noise`, with g such that 10 log10(power(waveform) / power(g noise)) = `snr_db`.

    A clip of digital silence has no level to measure noise by: its noise is silent, too.

    >>> [round(x, 3) for x in at_snr(torch.tensor([1.0, 1.0]), torch.tensor([0.5, -0.5]), 20).tolist()]
    [0.05, 0.05]
    """
    signal, power = (w.double().square().mean().item() for w in (waveform, noise))
    return noise * (math.sqrt(signal / power) * 10 ** (-snr_db / 20))


def off_screen(labels: Mapping[str, ClipLabels], seed: int) -> dict[str, str]:
    """For each clip another one whose sound comes from nothing in view, drawn from (seed, clip name).

    Clips that play nothing are not drawn; clips that show every class that any clip plays are left out, as are those of
    which it is not known what they show.

    >>> dog, both = frozenset({"dog"}), frozenset({"cow", "dog"})
    >>> off_screen({"a": ClipLabels((dog,), dog), "b": ClipLabels((both - dog,), both)}, seed=0)
    {'a': 'b'}
    """
    heard, chosen = {name: label.heard for name, label in labels.items()}, {}
    for name, label in labels.items():
        seen = label.in_view
        fitting = sorted(n for n, classes in heard.items() if seen is not None and classes and not classes & seen)
        if fitting:
            chosen[name] = fitting[int(clip_rng(seed, name).integers(len(fitting)))]
    return chosen


def left_out(
    conditions: Sequence[str], dataset: AVSBench, labels: Mapping[str, ClipLabels], *, listens: bool = True
) -> dict[str, str]:
    """Those of `conditions` that this data does not allow, each with a sentence that says why.

    `listens`: whether the model takes sound; one that does not needs no waveforms. Raises AvsError for a condition that
    is neither one of `CONDITIONS` nor an SNR.
    """
    for unknown in (c for c in conditions if c not in CONDITIONS and snr_of(c) is None):
        raise UsageError(f"condition {unknown!r} is not known; expected one of {', '.join(CONDITIONS)}")
    reasons = {}
    if len(dataset) < 2:
        reasons[ANOTHER] = f"split {dataset.split!r} has one clip"
    if any(label.in_view is None for label in labels.values()):
        reasons[OFF_SCREEN] = "the data does not say what is in view"
    elif missing := len(labels) - len(off_screen(labels, 0)):
        reasons[OFF_SCREEN] = f"{missing} of {len(labels)} clips show every class that split {dataset.split!r} plays"
    mute = next((clip for clip in dataset.clips if clip.wav_path is None), None)
    if mute is not None and listens:
        why = f"clip {mute.name!r} has no wav to add noise to, only {mute.log_mel_path.name}; add the wav files"
        reasons |= {c: why for c in conditions if c == NOISE or snr_of(c) is not None}
    return {c: f"Condition {c!r} is left out: {reasons[c]}" for c in conditions if c in reasons}


class Stage:
    """What plays under each condition to the clips of `dataset`, which holds their embeddings, and what sounds then.

    Args:
        labels: of `avslib.data.mini.sources.read_labels`.
        encoder: None for a model without sound; then the embeddings of `dataset` play throughout.
        seed: of noise, exchanged and off-screen sounds.
        batch: clips that the encoder embeds together.
    """

    def __init__(
        self,
        dataset: AVSBench,
        labels: Mapping[str, ClipLabels],
        encoder: AudioEncoder | None,
        seed: int,
        batch: int = 4,
    ):
        self.dataset, self.labels, self.encoder, self.seed, self.batch = dataset, labels, encoder, seed, batch
        self.own = {clip.name: row for clip, row in zip(dataset.clips, dataset.audio, strict=True)}
        self.partners = {
            ANOTHER: shuffle_audio({name: name for name in self.own}, seed),
            OFF_SCREEN: off_screen(labels, seed),
        }

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
        names, heard = list(self.own), {}
        for start in range(0, len(names), self.batch):
            part = range(start, min(start + self.batch, len(names)))
            embedded = self._embed([self._noisy(i, snr_of(condition)) for i in part])
            heard |= {names[i]: row for i, row in zip(part, embedded, strict=True)}
        return heard

    def _noisy(self, index: int, snr: float | None) -> Float[Tensor, "S"]:
        """The clip's waveform at an SNR; None: the noise without it."""
        waveform = self.dataset.waveform(index)
        noise = white_noise(len(waveform), self.seed, self.dataset.clips[index].name)
        return at_snr(noise, waveform) if snr is None else waveform + at_snr(noise, waveform, snr)

    @torch.no_grad()
    def _embed(self, waveforms: Sequence[Float[Tensor, "S"]]) -> Float[Tensor, "B T D"]:
        return self.encoder.embed(torch.stack(list(waveforms)), self.dataset.frames).float().cpu()

    def sounding(
        self, condition: str, names: Sequence[str], mask: Shaped[Tensor, "N 1 H W"]
    ) -> Bool[Tensor, "N 1 H W"] | None:
        """Where something sounds in the N = clips * T frames, given what plays; None where it is not known.

        `mask`: that of the clips' own sound.
        """
        if condition in (NOISE, SILENCE, MISSING, OFF_SCREEN):
            return torch.zeros_like(mask, dtype=torch.bool)
        if condition != ANOTHER:
            return mask.bool()
        found = [
            sounding_in_view(self.labels[name], self.labels[self.partners[ANOTHER][name]], row)
            for name, row in zip(names, mask.view(len(names), -1, *mask.shape[1:]), strict=True)
        ]
        return None if any(row is None for row in found) else torch.cat(found).to(mask.device)


def sounding_in_view(
    seen: ClipLabels, heard: ClipLabels, mask: Shaped[Tensor, "T 1 H W"]
) -> Bool[Tensor, "T 1 H W"] | None:
    """Where something sounds in the frames of clip `seen` while the sound of clip `heard` plays.

    With outlines: the objects in view of the classes that sound in that second. With categories only (S4 of AVSBench):
    `mask`, that of the clip's own sound, when both are of one category, else nowhere. None where neither is known.
    """
    if seen.in_view is None or heard.played is None:
        return None
    sounding = torch.zeros(mask.shape, dtype=torch.bool)
    if not heard.heard & seen.in_view:
        return sounding
    if seen.outlines is None:
        return mask.bool().cpu()
    outlines, size = seen.outlines(), mask.shape[:-3:-1]
    for second, classes in enumerate(heard.played[: len(mask)]):
        for category in classes & seen.in_view:
            # by Pillow, as masks are read: another library rounds the nearest pixel differently
            outline = Image.fromarray(outlines[category][second].astype(np.uint8))
            outline = np.asarray(outline.resize(size, Image.Resampling.NEAREST)) > 0
            sounding[second, 0] |= torch.from_numpy(outline)
    return sounding
