"""The sound of a clip: recordings, looped over the seconds in which their source is on, and quiet pink noise."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from avslib.data.mini import assets
from avslib.data.mini.assets import choice, uniform

RATE = 16000
SECONDS = 5
LEVEL = 0.08
LONGEST = int(1.6 * RATE)


class Source(NamedTuple):
    """One recording and how it is played: in which seconds, how fast (percent, pitch with it), how loud.

    `phase` in [0, 1) fixes the gaps between repetitions and where a long recording starts each time.
    """

    file: str
    category: str
    on: tuple[int, ...]
    speed: int
    gain_db: float
    phase: float


def draw_source(rng: np.random.Generator, split: str, category: str, on: tuple[int, ...]) -> Source:
    """Choose a recording of the class and the variation it is played with."""
    file = choice(rng, assets.pool("sound", split, category)).file
    return Source(file, category, on, 92 + int(18 * rng.random()), uniform(rng, -3, 3), rng.random())


def _fraction(phase: float, k: int) -> float:
    """A fixed sequence that spreads evenly over [0, 1)."""
    return (phase + 0.6180339887498949 * k) % 1.0


def _loud_starts(x: np.ndarray) -> np.ndarray:
    """Where a piece of a long recording may start: its first half second within 9 dB of the loudest one."""
    starts = np.arange(0, len(x) - RATE // 2, RATE // 10)
    total = np.concatenate([[0.0], np.cumsum(np.square(x))])
    energy = total[starts + RATE // 2] - total[starts]
    return starts[energy >= energy.max() * 10**-0.9]


def render_source(source: Source) -> Float[np.ndarray, " 80000"]:
    """Play a source in the seconds that are on; silence elsewhere. RMS over the on seconds: 0.08 times the gain."""
    x = assets.resampled_sound(source.file, source.speed)
    starts = _loud_starts(x) if len(x) > LONGEST else np.zeros(1, int)
    y = np.zeros(SECONDS * RATE)
    edges = np.flatnonzero(np.diff([0, *source.on, 0])) * RATE
    repeat = 0
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        at = begin
        while at < end:
            start = starts[int(_fraction(source.phase, 3 * repeat) * len(starts))]
            piece = x[start : start + min(LONGEST, end - at)].copy()
            ramp = np.linspace(0, 1, min(160, len(piece) // 4))
            piece[: len(ramp)] *= ramp
            piece[len(piece) - len(ramp) :] *= ramp[::-1]
            y[at : at + len(piece)] = piece
            repeat += 1
            at += len(piece) + int((0.05 + 0.2 * _fraction(source.phase, repeat)) * RATE)
    rms = np.sqrt(np.square(y).sum() / (sum(source.on) * RATE))
    return y * (LEVEL * 10 ** (source.gain_db / 20) / rms)


def pink_noise(rng: np.random.Generator, samples: int) -> Float[np.ndarray, " samples"]:
    """Noise of unit RMS whose power falls as 1/f."""
    spectrum = np.fft.rfft(rng.random(samples) - 0.5)
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.square(noise).mean())


def render_soundtrack(rng: np.random.Generator, sources: list[Source], noise_db: float) -> Float[np.ndarray, " 80000"]:
    """Mix the sources with pink noise `noise_db` below the level of a source; float32 with exact 16-bit values."""
    mix = pink_noise(rng, SECONDS * RATE) * (LEVEL * 10 ** (-noise_db / 20))
    for source in sources:
        mix += render_source(source)
    mix *= min(1.0, 0.98 / np.abs(mix).max())
    return (np.rint(mix * 32767) / 32768).astype(np.float32)
