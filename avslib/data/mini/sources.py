"""What sounds and what is in view, as far as the data says: the classes a clip plays and shows, their outlines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool

from avslib.core.errors import RecordError
from avslib.core.parsing import LARGEST_JSON, first_line, parse_json, read_text
from avslib.data.avsbench import AVSBench
from avslib.data.mini.assets import bank_hash
from avslib.data.mini.build import LATER_VERSION, VERSION
from avslib.data.mini.compose import plan_clip
from avslib.data.mini.scene import render_scene
from avslib.data.mini.soundtrack import SECONDS

Outlines = dict[str, Bool[np.ndarray, "T S S"]]
T = TypeVar("T")


@dataclass(frozen=True)
class ClipLabels:
    """Labels of one clip; None where unknown.

    Attributes:
        played: the classes that sound, second by second.
        in_view: classes of the objects in view, sounding or not; on S4 of AVSBench only the annotated one.
        outlines: returns where the objects of each class in view are.
        background: the photograph behind them, on Mini-AVS.
    """

    played: tuple[frozenset[str], ...] | None = None
    in_view: frozenset[str] | None = None
    outlines: Callable[[], Outlines] | None = None
    background: str | None = None

    @property
    def heard(self) -> frozenset[str]:
        """The classes that sound in any second; empty where unknown."""
        return frozenset().union(*self.played or ())


def read_labels(root: str | Path, dataset: AVSBench) -> dict[str, ClipLabels]:
    """Labels of the clips of `dataset` by name: from the manifest of a Mini-AVS build, else from the csv's category.

    A build keeps the outlines of all its objects together; those of a class are drawn again from the clip's plan,
    which gives the same pixels as long as the package's assets and drawing are those of the build.

    Raises:
        AvsError: the manifest is damaged, of another version or assets, or lacks a clip.
    """
    path = Path(root) / "manifest.json"
    if not path.is_file():
        named = [(clip.name, clip.category, frozenset({clip.category})) for clip in dataset.clips]
        return {name: ClipLabels((own,) * dataset.frames, own) if known else ClipLabels() for name, known, own in named}

    def labels(manifest: dict) -> dict[str, ClipLabels]:
        clips = {clip["name"]: clip for clip in manifest["clips"]}
        return {clip.name: _labels_mini(clips[clip.name], manifest) for clip in dataset.clips}

    return from_manifest(path, labels)


def from_manifest(path: Path, take: Callable[[dict], T]) -> T:
    """What `take` finds in the manifest of a Mini-AVS build. Raises RecordError where it is damaged, or lists clips
    that this version of the package does not compose."""
    what = "the manifest of a Mini-AVS build"
    manifest = parse_json(read_text(path, LARGEST_JSON, RecordError, what), path, RecordError, what)
    try:
        same = manifest["version"] in (VERSION, LATER_VERSION) and manifest["assets"] == bank_hash()
        found = take(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: damaged, or lacks a clip ({first_line(error)}); build Mini-AVS again") from None
    if not same:
        raise RecordError(
            f"{path}: this Mini-AVS was built by a different version of avslib and does not say which object plays; "
            "build it again into another folder (avs data build-mini --out DIR)"
        )
    return found


def _labels_mini(clip: dict, manifest: dict) -> ClipLabels:
    played = [frozenset(s["category"] for s in clip["sources"] if s["on"][k]) for k in range(SECONDS)]
    in_view = frozenset(o["category"] for o in clip["objects"] if o["category"])
    plan = (clip["task"], clip["split"], clip["index"], manifest["seed"])
    outlines = partial(_outlines, plan, manifest["image_size"])
    return ClipLabels(tuple(played), in_view, outlines, clip["background"]["file"])


@lru_cache(maxsize=256)  # a split is scored several times
def _outlines(plan: tuple[str, str, int, int], size: int) -> Outlines:
    scene, found = plan_clip(*plan).scene, {}
    for visible, item in zip(render_scene(scene, size)[1], scene.objects, strict=True):
        if item.category:
            found[item.category] = visible | found.get(item.category, False)
    return found
