"""How ``assets.csv`` got its columns `group` and `split`, and ``ATTRIBUTION.md`` its text.

``python -m tools.curate_bank`` writes both again from the bank: the result is committed, so that a shipped
checkpoint has never heard or seen a test asset, whatever seed the clips are composed with.
"""

import csv
import hashlib
import io
import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from avslib.core.files import atomic_path
from avslib.data.mini.assets import BANK, sound

FIELDS = ("file", "kind", "class", "debian_package", "licence", "author", "group", "split")
# Recordings of the same take under two packages' names: too unlike for the thresholds below, known from their sources.
KNOWN_COPIES = (("sounds/horse/opensfx__osfx38.flac", "sounds/horse/widelands__horse_00.flac"),)
# In these packages a number names a thing (an engine, a sound's id), not a take of the same session.
NUMBERED_THINGS = ("opensfx", "torcs")
TEXTS = {
    "GPL-2.0-or-later": "GPL-2.0.txt",
    "GPL-3.0-or-later": "GPL-3.0.txt",
    "CC0-1.0": "CC0-1.0.txt",
    "CC0-1.0 or public domain": "CC0-1.0.txt",
    "CC-BY-SA-3.0": "CC-BY-SA-3.0.txt",
    "CC-BY-SA-4.0": "CC-BY-SA-4.0.txt",
    "LAL-1.2": "LAL-1.2.txt",
}


def session_name(file: str) -> str:
    """Package and stem without what distinguishes takes: ``megaglest__cow_ack2`` -> ``megaglest__cow``."""
    package, stem = Path(file).stem.split("__")
    if package not in NUMBERED_THINGS:
        shorter = re.sub(r"[-_]\d+$", "", stem)
        stem = shorter if shorter != stem else re.sub(r"\d+$", "", stem)
        stem = re.sub(r"_(hard|soft)$", "", stem)
    return f"{package}__{stem}"


def spectral_shape(x: np.ndarray) -> np.ndarray:
    """Mean log spectrum in 32 bands, loud frames counting more, as a unit vector without its mean."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, 512), 512)[::256] * np.hanning(512)
    power = np.abs(rfft(frames)) ** 2
    edges = np.geomspace(2, 256, 33).astype(int)
    bands = np.stack([power[:, a : max(b, a + 1)].sum(1) for a, b in itertools.pairwise(edges)])
    logs = np.log(bands + 1e-8 * bands.max())
    weight = np.exp(logs).sum(0)
    mean = (logs * weight).sum(1) / weight.sum()
    return (mean - mean.mean()) / np.linalg.norm(mean - mean.mean())


def waveform_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Largest normalised cross-correlation over all lags."""
    n = next_fast_len(len(x) + len(y), real=True)
    product = irfft(rfft(x, n) * np.conj(rfft(y, n)), n)
    return float(np.abs(product).max() / np.sqrt((x @ x) * (y @ y)))


def sound_groups(files: list[str]) -> dict[str, str]:
    """Group the recordings of one class: one session, or near copies by waveform or by spectrum.

    Two recordings are merged when they share a session name, when their waveforms correlate above 0.5, when their
    spectral shapes do above 0.95 (0.93 within one package), or when they are known copies; merging is transitive.
    """
    waves = [sound(f).astype(np.float64) for f in files]
    shapes = [spectral_shape(w) for w in waves]
    parent = list(range(len(files)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, j in itertools.combinations(range(len(files)), 2):
        names = session_name(files[i]), session_name(files[j])
        alike = 0.93 if names[0].split("__")[0] == names[1].split("__")[0] else 0.95
        if (
            names[0] == names[1]
            or shapes[i] @ shapes[j] >= alike
            or waveform_correlation(waves[i], waves[j]) >= 0.5
            or (files[i], files[j]) in KNOWN_COPIES
        ):
            parent[max(root(i), root(j))] = min(root(i), root(j))
    return {f: session_name(files[root(i)]) for i, f in enumerate(files)}


def split_groups(sizes: dict[str, int], attempts: int = 400) -> dict[str, str]:
    """Give about a quarter of the files and of the groups to test and 15 % to val, whole groups at a time.

    Of `attempts` orders fixed by hash, the one whose shares come nearest is taken, so that neither the large groups
    nor the many small ones all end on one side. With fewer than five groups val has none of its own: it shares those
    of train (``train+val``).
    """
    own_val = len(sizes) >= 5
    shares = {"test": 0.25, "val": 0.15} if own_val else {"test": 0.25}
    total = sum(sizes.values())
    best, best_miss = {}, np.inf
    for attempt in range(attempts):
        waiting = sorted(sizes, key=lambda name: hashlib.sha256(f"{attempt} {name}".encode()).hexdigest())
        result, miss = {}, 0.0
        for split, share in shares.items():
            number = max(1, round(share * len(sizes)))
            chosen, waiting = waiting[:number], waiting[number:]
            result |= dict.fromkeys(chosen, split)
            miss += abs(sum(sizes[name] for name in chosen) / total - share)
        if miss < best_miss - 1e-9:
            best, best_miss = result | dict.fromkeys(waiting, "train" if own_val else "train+val"), miss
    return best


def curated_table(rows: list[dict]) -> list[dict]:
    """Fill the columns `group` and `split` of the table's rows."""
    classes: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        classes[row["kind"], row["class"]].append(row)
    for (kind, category), members in classes.items():
        files = [row["file"] for row in members]
        groups = sound_groups(files) if kind == "sound" else {f: Path(f).stem for f in files}
        sizes: dict[str, int] = defaultdict(int)
        for group in groups.values():
            sizes[group] += 1
        splits = split_groups(dict(sizes))
        for row in members:
            row["group"] = f"{category or kind}/{groups[row['file']]}"
            row["split"] = splits[groups[row["file"]]]
    return rows


def attribution(rows: list[dict]) -> str:
    """The text of ``ATTRIBUTION.md``: origin, licence and author of every file, by kind and class."""
    parts = [ATTRIBUTION_HEAD.strip(), "\n| licence | files | text |", "|---|---|---|"]
    count: Callable[[str], int] = lambda licence: sum(row["licence"] == licence for row in rows)  # noqa: E731
    parts += [f"| {name} | {count(name)} | [{text}](LICENSES/{text}) |" for name, text in TEXTS.items()]
    for kind in ("cutout", "distractor", "background", "sound"):
        chosen = [row for row in rows if row["kind"] == kind]
        parts += [f"\n## {kind.capitalize()}s ({len(chosen)})", "", "| file | licence | author | package |"]
        parts += ["|---|---|---|---|"]
        parts += [f"| {r['file']} | {r['licence']} | {r['author']} | {r['debian_package']} |" for r in chosen]
    return "\n".join(parts) + "\n"


ATTRIBUTION_HEAD = """
# Attribution

The files of this bank come from Debian packages of free games and learning software. They are data that is shipped
beside the code, each under its own licence; the code's licence does not cover them. This list is written from
`assets.csv` by `python -m tools.curate_bank`.

Changes made: pictures were cropped, freed from their background where they had one, and scaled to at most 208 px
(backgrounds: 400 px), as WebP; sounds were mixed to mono, cut to at most 5 s, resampled to 16 kHz, brought to the same
peak and stored with 12 bits as FLAC, so that every machine reads the same samples.

Composed clips are made on the user's machine. Whoever publishes composed pictures or clips: GPL-3.0 fits every file
except the three recordings under LAL-1.2; leave those out, and put this attribution beside them.
"""


def main() -> None:
    table = BANK / "assets.csv"
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    rows = curated_table(rows)
    with atomic_path(table) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with atomic_path(BANK / "ATTRIBUTION.md") as part:
        part.write_text(attribution(rows), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
