"""Made-up folders in AVSBench's layout, small enough to write anew in a test."""

import csv
import wave

import numpy as np
from PIL import Image

SIZE = 32


def write_wav(path, seconds=5.0, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-3000, 3000, int(16000 * seconds), dtype=np.int16)
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(16000)
        stream.writeframes(samples.tobytes())


def write_pictures(frames, masks, stem, name, count, annotated, seed):
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for k in range(1, count + 1):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(frames / f"{stem}_{k}.png")
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[: 4 * k, :10] = 255
        if k <= annotated:
            Image.fromarray(mask).save(masks / f"{name}_{k}.png")


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_avsbench(root, splits=("train", "val", "test"), per_split=2):
    """Both tasks, with wav files and no pickles."""
    s4, ms3 = root / "Single-source", root / "Multi-sources"
    rows, seed = {"s4": [], "ms3": []}, 0
    for split in splits:
        for i in range(per_split):
            seed += 1
            name, data, inner = f"clip-{split}-{i}_0", s4 / "s4_data", f"{split}/dog"
            rows["s4"].append({"name": name, "start": 0, "category": "dog", "split": split})
            frames, masks = data / "visual_frames" / inner / name, data / "gt_masks" / inner / name
            write_pictures(frames, masks, name, name, 5, 1 if split == "train" else 5, seed)
            write_wav(data / "audio_wav" / inner / f"{name}.wav", seed=seed)
            name, data = f"multi-{split}-{i}_{i}", ms3 / "ms3_data"
            rows["ms3"].append({"video_id": name, "split": split})
            frames, masks = data / "visual_frames" / name, data / "gt_masks" / split / name
            write_pictures(frames, masks, f"{name}.mp4", name, 5, 5, 100 + seed)
            write_wav(data / "audio_wav" / split / f"{name}.wav", seed=100 + seed)
    write_csv(s4 / "s4_meta_data.csv", rows["s4"])
    write_csv(ms3 / "ms3_meta_data.csv", rows["ms3"])
    return root
