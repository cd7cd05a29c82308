"""Mini-AVS: what repeats, what the splits keep apart, what sounds, and how it lies on disk."""

import csv
import hashlib
import json
import wave
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avslib.core.errors import AvsError
from avslib.data.mini import build_mini, compose_clip
from avslib.data.mini.assets import BANK, CLASSES, load_assets, pool
from avslib.data.mini.compose import plan_clip
from avslib.data.mini.scene import render_scene
from avslib.data.mini.soundtrack import render_source

GOLDEN = Path(__file__).parents[3] / "golden" / "mini"
COUNTS = {
    "s4": {"train": 6, "val": 3, "test": 4, "test_unseen": 3},
    "ms3": {"train": 4, "val": 2, "test": 11, "test_unseen": 3},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("mini") / "small"
    return out, build_mini(out, seed=3, counts=COUNTS, workers=1, progress=False, image_size=64)


def digest(clip):
    samples = np.rint(clip.waveform * 32768).astype("<i2")
    parts = (np.packbits(clip.masks), np.packbits(clip.object_masks), samples)
    return hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest()


def read_mask(path):
    values = np.asarray(Image.open(path))
    assert set(np.unique(values)) <= {0, 255}
    return values > 0


# -- the same seed, the same clip --


@pytest.mark.parametrize("key", json.loads((GOLDEN / "digests.json").read_text(encoding="utf-8")))
def test_masks_and_samples_repeat_exactly(key):
    task, split, index, seed, size = key.split()
    clip = compose_clip(task, split, int(index), int(seed), int(size))
    assert digest(clip) == json.loads((GOLDEN / "digests.json").read_text(encoding="utf-8"))[key]


def test_pixels_repeat_within_a_grey_level():
    golden = np.asarray(Image.open(GOLDEN / "s4_val_00002_3.png"), dtype=int)
    assert np.abs(compose_clip("s4", "val", 2).frames[2] - golden).max() <= 1


def test_seed_and_index_change_the_clip():
    clips = {digest(compose_clip("s4", "train", i, s, 32)) for i in (0, 12) for s in (0, 1)}
    assert len(clips) == 4


def test_processes_write_what_one_writes(tmp_path):
    counts = {"ms3": {"train": 13}}
    one = build_mini(tmp_path / "one", counts=counts, workers=1, progress=False, image_size=32)
    two = build_mini(tmp_path / "two", counts=counts, workers=2, progress=False, image_size=32)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert one == two
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


# -- the bank and its splits --


def test_every_file_has_licence_author_and_attribution():
    text = (BANK / "ATTRIBUTION.md").read_text(encoding="utf-8")
    listed = {a.file for a in load_assets()}
    assert listed == {p.relative_to(BANK).as_posix() for p in BANK.glob("*/**/*.*") if p.parent.name != "LICENSES"}
    for asset in load_assets():
        row = next(line for line in text.splitlines() if f"| {asset.file} |" in line)
        assert asset.licence in row and asset.author in row and asset.package in row and asset.author


def test_attribution_links_to_full_licence_texts():
    from tools.curate_bank import TEXTS

    assert {a.licence for a in load_assets()} == set(TEXTS)
    assert all((BANK / "LICENSES" / text).stat().st_size > 6000 for text in TEXTS.values())


def test_groups_and_splits_are_those_the_script_gives():
    from tools.curate_bank import attribution, curated_table

    with open(BANK / "assets.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert (BANK / "ATTRIBUTION.md").read_text(encoding="utf-8") == attribution(rows)
    some = [r for r in rows if r["class"] in ("dog", "duck") or r["kind"] == "background"]
    assert curated_table([r | {"group": "", "split": ""} for r in some]) == some


def test_sound_groups_stay_on_one_side_and_each_class_has_both():
    sides = defaultdict(set)
    for asset in load_assets():
        sides[asset.group].add(asset.splits)
    assert all(len(s) == 1 for s in sides.values())
    for category in CLASSES:
        train, val, test = ({a.group for a in pool("sound", s, category)} for s in ("train", "val", "test"))
        assert train and val and test and not test & (train | val)


def used(manifest, split, kind):
    for clip in manifest["clips"]:
        if clip["split"] == split:
            if kind == "background":
                yield clip["background"]["file"]
            else:
                yield from (part["file"] for part in clip[kind])


def test_manifest_proves_the_splits(built):
    _, manifest = built
    parts = {a.file: a.splits for a in load_assets()}
    for split in ("val", "test", "test_unseen"):
        part = split.removesuffix("_unseen")
        for kind in ("sources", "background"):
            files = set(used(manifest, split, kind))
            assert files and all(part in parts[f] for f in files)
            assert split == "val" or not files & set(used(manifest, "train", kind))
    assert all("train" in parts[f] for f in used(manifest, "test", "objects"))
    assert not set(used(manifest, "test_unseen", "objects")) & set(used(manifest, "train", "objects"))


def test_splits_hold_for_every_seed():
    parts = {a.file: a.splits for a in load_assets()}
    for seed in range(40):
        plan = plan_clip("ms3", "test_unseen", 0, seed)
        files = [plan.scene.backdrop.file, *(x.file for x in (*plan.scene.objects, *plan.sources))]
        assert all(parts[f] == ("test",) for f in files)


# -- what is seen and what is heard --


def test_s4_has_two_to_four_objects_and_one_that_sounds():
    seen = set()
    for index in range(120):
        plan = plan_clip("s4", "train", index)
        names = [o.category for o in plan.scene.objects if o.category]
        seen.add(len(plan.scene.objects))
        assert len(set(names)) == len(names) >= 2
        assert [s.category for s in plan.sources] == [plan.category] and plan.category in names
        assert plan.sources[0].on == (1,) * 5
    assert seen == {2, 3, 4}


def test_s4_classes_are_balanced():
    sounding = [plan_clip("s4", "test", i).category for i in range(120)]
    assert {sounding.count(c) for c in CLASSES} == {10}


def test_sounding_object_is_not_told_by_size_or_depth():
    ranks = defaultdict(list)
    for index in range(400):
        plan = plan_clip("s4", "train", index)
        objects = [o for o in plan.scene.objects if o.category]
        own = next(o for o in objects if o.category == plan.category)
        ranks["area"].append(np.mean([own.width * own.height > o.width * o.height for o in objects if o is not own]))
        ranks["depth"].append(np.mean([own.y > o.y for o in objects if o is not own]))
        ranks["side"].append(np.mean([own.x > o.x for o in objects if o is not own]))
    assert all(abs(np.mean(r) - 0.5) < 0.08 for r in ranks.values())


@pytest.mark.parametrize("index", range(3))
def test_ms3_masks_follow_on_and_off(index):
    clip, plan = compose_clip("ms3", "train", index), plan_clip("ms3", "train", index)
    _, visible = render_scene(plan.scene, 224)
    on = {s.category: s.on for s in plan.sources}
    assert 2 <= len(on) <= 3
    for k in range(5):
        chosen = [v[k] for v, o in zip(visible, plan.scene.objects, strict=True) if on.get(o.category, (0,) * 5)[k]]
        assert np.array_equal(clip.masks[k] > 0, np.any(chosen, axis=0) if chosen else np.zeros((224, 224), bool))


def test_object_can_be_seen_in_every_frame():
    for index in range(4):
        clip = compose_clip("s4", "test", index)
        area = clip.masks.mean((1, 2))
        assert area.min() > 0.005 and area.max() < 0.25
        assert (clip.masks <= clip.object_masks).all() and clip.object_masks.sum() > clip.masks.sum()


def test_every_second_that_is_on_sounds_and_no_other():
    for index in range(60):
        for source in plan_clip("ms3", ("train", "test")[index % 2], index).sources:
            seconds = np.square(render_source(source).reshape(5, -1)).mean(1)
            on = np.array(source.on, bool)
            assert (seconds[~on] == 0).all()
            assert 10 * np.log10(seconds[on].min() / seconds[on].mean()) > -15


def test_silent_and_off_screen_clips_are_in_val_and_test_alone():
    for split in ("val", "test", "test_unseen"):
        cases = [plan_clip("ms3", split, i).case for i in range(40)]
        assert cases.count("silent") == cases.count("off-screen") == 4
    assert {plan_clip("ms3", "train", i).case for i in range(40)} == {"regular"}
    silent, off_screen = compose_clip("ms3", "test", 4), compose_clip("ms3", "test", 9)
    assert not silent.masks.any() and not off_screen.masks.any() and off_screen.object_masks.any()
    assert silent.record["sources"] == [] and 0 < np.abs(silent.waveform).max() < 0.1
    heard = {s["category"] for s in off_screen.record["sources"]}
    assert heard and not heard & {o["category"] for o in off_screen.record["objects"]}


def test_waveform_holds_five_seconds_of_16_bit_values():
    waveform = compose_clip("ms3", "train", 1, size=32).waveform
    assert waveform.shape == (80000,) and waveform.dtype == np.float32 and np.abs(waveform).max() < 1
    assert np.array_equal(np.rint(waveform * 32768) / 32768, waveform)


# -- on disk --


def test_layout_is_avsbench_s(built):
    out, manifest = built
    s4 = list(csv.DictReader((out / "Single-source/s4_meta_data.csv").open(encoding="utf-8")))
    ms3 = list(csv.DictReader((out / "Multi-sources/ms3_meta_data.csv").open(encoding="utf-8")))
    assert list(s4[0]) == ["name", "start", "category", "split"] and list(ms3[0]) == ["video_id", "split"]
    for row in s4:
        branch, name = Path(row["split"]) / row["category"], row["name"]
        data = out / "Single-source" / "s4_data"
        assert len(list((data / "visual_frames" / branch / name).glob(f"{name}_[1-5].png"))) == 5
        masks = sorted(p.name for p in (data / "gt_masks" / branch / name).iterdir())
        assert masks == [f"{name}_{k}.png" for k in range(1, 2 if row["split"] == "train" else 6)]
        assert (data / "audio_wav" / branch / f"{name}.wav").is_file()
    for row in ms3:
        branch, name = row["split"], row["video_id"]
        data = out / "Multi-sources" / "ms3_data"
        assert len(list((data / "visual_frames" / name).glob(f"{name}.mp4_[1-5].png"))) == 5
        assert len(list((data / "gt_masks" / branch / name).glob(f"{name}_[1-5].png"))) == 5
        assert (data / "audio_wav" / branch / f"{name}.wav").is_file()
    assert [c["name"] for c in manifest["clips"]] == [r["name"] for r in s4] + [r["video_id"] for r in ms3]


def test_files_hold_the_composed_clip(built):
    out, manifest = built
    clip = compose_clip("ms3", "test", 10, seed=3, size=64)
    data, name = out / "Multi-sources" / "ms3_data", clip.name
    for k in range(5):
        frame = np.asarray(Image.open(data / "visual_frames" / name / f"{name}.mp4_{k + 1}.png"))
        assert np.array_equal(frame, clip.frames[k])
        assert np.array_equal(read_mask(data / "gt_masks/test" / name / f"{name}_{k + 1}.png"), clip.masks[k] > 0)
        everything = read_mask(out / "object_masks/ms3/test" / name / f"{name}_{k + 1}.png")
        assert np.array_equal(everything, clip.object_masks[k] > 0)
    with wave.open(str(data / "audio_wav/test" / f"{name}.wav")) as stream:
        assert (stream.getnchannels(), stream.getsampwidth(), stream.getframerate()) == (1, 2, 16000)
        samples = np.frombuffer(stream.readframes(-1), "<i2")
    assert np.array_equal(samples / np.float32(32768), clip.waveform)
    assert next(c for c in manifest["clips"] if c["name"] == name) == clip.record


def test_same_build_is_found_again_and_another_refused(built):
    out, manifest = built
    options = {"counts": COUNTS, "progress": False, "image_size": 64}
    assert build_mini(out, seed=3, **options) == manifest
    with pytest.raises(AvsError, match="different build of Mini-AVS"):
        build_mini(out, seed=4, **options)


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(AvsError, match="not a build of Mini-AVS"):
        build_mini(tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    import avslib.data.mini.build as build

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "_write_rest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_mini(tmp_path / "mini", counts={"s4": {"train": 1}}, workers=1, progress=False, image_size=32)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": "medium"}, "unknown size 'medium'.*small, full"),
        ({"tasks": ("avss",)}, "unknown task 'avss'.*s4, ms3"),
        ({"counts": {"s4": {"dev": 1}}}, "unknown split 'dev'"),
    ],
)
def test_unknown_options_get_one_sentence(tmp_path, options, said):
    with pytest.raises(AvsError, match=said):
        build_mini(tmp_path / "mini", progress=False, **options)


def test_unknown_clip_gets_one_sentence():
    for arguments in (("avss", "train", 0), ("s4", "dev", 0), ("s4", "train", -1)):
        with pytest.raises(AvsError):
            compose_clip(*arguments)
