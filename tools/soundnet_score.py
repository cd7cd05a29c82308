"""Sounds for training and judging the SoundNet encoder's head, and how well its embedding separates the classes."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multilabel_average_precision

from avslib.audio.soundnet import SoundNetEmbedding
from avslib.data.mini.assets import CLASSES, load_assets
from avslib.data.mini.soundtrack import LEVEL, RATE, SECONDS, Source, pink_noise, render_source

AS_IN_MINI_AVS = {"speed": [92, 109], "gain_db": 3, "filter_db": 0, "noise_db": [20, 30]}


def _filtered(samples: np.ndarray, rng: np.random.Generator, depth_db: float) -> np.ndarray:
    spectrum = np.fft.rfft(samples)
    knots = rng.uniform(-depth_db, depth_db, 6)
    gain = np.interp(np.sqrt(np.linspace(0, 1, len(spectrum))), np.linspace(0, 1, 6), knots)
    return np.fft.irfft(spectrum * 10 ** (gain / 20), len(samples))


def compose(
    split: str, clips: int, sources: list[int], settings: dict, seed: int
) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N T 12"]]:
    """Waveforms and labels of clips whose number of sources goes through `sources` in turn.

    Recordings shared by two splits serve train alone.
    """
    rng = np.random.default_rng(seed)
    pools = {name: [] for name in CLASSES}
    for asset in load_assets():
        if asset.kind == "sound" and asset.splits[0] == split:
            pools[asset.category].append(asset.file)
    names = [name for name in CLASSES if pools[name]]
    waveforms, labels = [], np.zeros((clips, SECONDS, len(CLASSES)), np.float32)
    for clip in range(clips):
        mix = pink_noise(rng, SECONDS * RATE) * LEVEL * 10 ** (-rng.uniform(*settings["noise_db"]) / 20)
        count = sources[clip % len(sources)]
        for name in rng.permutation(names)[:count]:
            begin, length = rng.integers(SECONDS), rng.integers(1, SECONDS + 1)
            on = np.ones(SECONDS, bool) if count == 1 else np.isin(np.arange(SECONDS), np.arange(begin, begin + length))
            low, high = settings["speed"]
            gain = rng.uniform(-settings["gain_db"], settings["gain_db"])
            source = Source(
                str(rng.choice(pools[name])),
                name,
                tuple(map(int, on)),
                int(rng.integers(low, high + 1)),
                gain,
                rng.random(),
            )
            sound = render_source(source)
            if settings["filter_db"]:
                sound = _filtered(sound, rng, settings["filter_db"]) * np.repeat(on, RATE)
            mix += sound
            labels[clip, on, CLASSES.index(name)] = 1
        waveforms.append((mix * min(1, 0.98 / np.abs(mix).max())).astype(np.float32))
    return torch.from_numpy(np.stack(waveforms)), torch.from_numpy(labels)


def statistics(model: SoundNetEmbedding, waveforms: Float[Tensor, "N S"]) -> Float[Tensor, "N*T F"]:
    with torch.no_grad():
        return torch.cat([model.slice(batch, SECONDS).flatten(0, 1) for batch in waveforms.split(16)])


def linear_probe(rows: Float[Tensor, "R D"], labels: Float[Tensor, "R 12"]) -> nn.Linear:
    probe = nn.Linear(rows.shape[1], labels.shape[1])
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(probe(rows), labels) + 1e-3 * probe.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return probe.requires_grad_(False)


def by_centroid(rows: Float[Tensor, "R D"], labels: Float[Tensor, "R 12"], heard: Float[Tensor, "Q D"]) -> Tensor:
    centroids = labels.T @ F.normalize(rows, dim=1)
    return (F.normalize(heard, dim=1) @ F.normalize(centroids, dim=1).T).argmax(1)


def macro_accuracy(found: Tensor, expected: Tensor) -> float:
    return float(torch.stack([(found[expected == c] == c).float().mean() for c in expected.unique()]).mean())


def score(model: SoundNetEmbedding, split: str, seed: int) -> dict[str, float]:
    """How well classes are separated in clips as Mini-AVS composes them, from the embedding and from its input.

    Probe and centroids are fitted on train recordings. Means over the classes that have recordings of `split` alone.
    """
    parts = {}
    for name, part, sources in (("train", "train", [1, 2, 0]), ("one", split, [1]), ("two", split, [2])):
        waveforms, labels = compose(part, 300, sources, AS_IN_MINI_AVS, seed)
        rows = model.standardise(statistics(model, waveforms))
        parts[name] = rows, model.head(rows), labels.flatten(0, 1)
    raw, embedding, labels = parts["train"]
    one_raw, one_embedding, one_labels = parts["one"]
    _, two_embedding, two_labels = parts["two"]
    probe, classes, single = linear_probe(embedding, labels), one_labels.argmax(1), labels.sum(1) == 1
    found, present = probe(one_embedding), two_labels.any(0)
    over_clip = found.reshape(-1, SECONDS, len(CLASSES)).mean(1)
    mixture = multilabel_average_precision(
        probe(two_embedding)[:, present], two_labels[:, present].long(), int(present.sum())
    )
    scores = {
        "probe_accuracy": macro_accuracy(found.argmax(1), classes),
        "probe_accuracy_over_5_s": macro_accuracy(over_clip.argmax(1), classes[::SECONDS]),
        "centroid_accuracy": macro_accuracy(by_centroid(embedding[single], labels[single], one_embedding), classes),
        "centroid_accuracy_of_statistics": macro_accuracy(by_centroid(raw[single], labels[single], one_raw), classes),
        "probe_average_precision_of_two_sources": float(mixture),
    }
    return {name: round(value, 4) for name, value in scores.items()}
