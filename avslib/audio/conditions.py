"""Sounds to play to a model instead of a clip's own: silence, white noise, noise at an SNR, sounds of other clips.

Waveforms are float samples at one rate; a level is the mean square of all samples. Nothing is clipped: a mixture may
exceed 1, since clipping would change its SNR.
"""

import math
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from avslib.core.errors import UsageError
from avslib.core.seeds import clip_rng


def power(waveform: Float[Tensor, "S"]) -> float:
    """Mean square of the samples, in float64; 0 for digital silence."""
    return waveform.double().square().mean().item()


def white_noise(samples: int, seed: int, name: str) -> Float[Tensor, "S"]:
    """Gaussian white noise of mean square 1 (that of these very samples), drawn from (seed, clip name)."""
    noise = torch.from_numpy(clip_rng(seed, name).standard_normal(samples))
    return (noise / noise.square().mean().sqrt()).float()


def noise_alone(waveform: Float[Tensor, "S"], noise: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
    """`noise` at the level of `waveform`; silence where that is silent.

    Raises:
        AvsError: different lengths, or noise that is silent.
    """
    return noise * _gain(waveform, noise, 0.0)


def in_noise(waveform: Float[Tensor, "S"], noise: Float[Tensor, "S"], snr_db: float) -> Float[Tensor, "S"]:
    """`waveform` + g * `noise`, with g such that 10 log10(power(waveform) / power(g noise)) = `snr_db`.

    A clip of digital silence has no level to measure noise by: it gets none and stays silent.

    >>> mixed = in_noise(torch.tensor([0.5, -0.5]), torch.tensor([1.0, 1.0]), 20)
    >>> [round(x, 3) for x in mixed.tolist()]
    [0.55, -0.45]

    Raises:
        AvsError: different lengths, noise that is silent, or an SNR that is not finite.
    """
    if not math.isfinite(snr_db):
        raise UsageError(f"SNR of {snr_db} dB; expected a finite number (noise_alone leaves the sound out)")
    return waveform + noise * _gain(waveform, noise, snr_db)


def _gain(waveform: Tensor, noise: Tensor, snr_db: float) -> float:
    if waveform.shape != noise.shape or not noise.any():
        raise UsageError(
            f"noise of shape {list(noise.shape)} for a waveform of shape {list(waveform.shape)}; "
            "expected as many samples, not all of them zero"
        )
    return math.sqrt(power(waveform) / power(noise)) * 10 ** (-snr_db / 20)


def off_screen(
    in_view: Mapping[str, Collection[str]], played: Mapping[str, Collection[str]], seed: int
) -> dict[str, str]:
    """For each clip another one whose sound comes from nothing in view, drawn from (seed, clip name).

    Args:
        in_view: classes in view, by clip.
        played: classes that sound, by clip; clips that play nothing are not drawn.

    Returns:
        Clip -> clip whose sound it gets. Clips in view of every class that any clip plays are left out.

    >>> off_screen({"a": {"dog"}, "b": {"cow", "dog"}}, {"a": {"dog"}, "b": {"cow"}}, seed=0)
    {'a': 'b'}
    """
    chosen = {}
    for name, seen in in_view.items():
        fitting = sorted(other for other, classes in played.items() if classes and not set(classes) & set(seen))
        if fitting:
            chosen[name] = fitting[int(clip_rng(seed, name).integers(len(fitting)))]
    return chosen
