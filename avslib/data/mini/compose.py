"""Compose one clip of Mini-AVS from its task, split, index and seed, without any other clip."""

import json
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from avslib.core.errors import UsageError
from avslib.data.mini.assets import CLASSES, SPLITS, choice, sample, uniform
from avslib.data.mini.scene import FRAMES, Scene, draw_scene, render_scene
from avslib.data.mini.soundtrack import SECONDS, Source, draw_source, render_soundtrack

TASKS = ("s4", "ms3")


class Plan(NamedTuple):
    """What a clip will show and play, before a pixel is drawn.

    `case` is ``regular``; in MS3's val, test and ``train_empty`` splits also ``silent`` (nothing sounds) and
    ``off-screen`` (only classes that are not in view sound), which have empty masks; in S4's ambiguous splits
    ``ambiguous``: two objects are of the sounding class, and `twin` is the number of the silent one. `category` is the
    sounding class of an S4 clip.
    """

    name: str
    case: str
    category: str | None
    scene: Scene
    sources: tuple[Source, ...]
    noise_db: float
    twin: int | None
    rng: np.random.Generator  # of this clip, behind what was drawn


class ComposedClip(NamedTuple):
    """A composed clip: five frames one second apart, their masks, and five seconds of sound at 16 kHz.

    `masks` (0/1) holds the sounding objects in view, `object_masks` all objects in view, `twin_masks` the silent twin
    of an ambiguous clip; `waveform` is float32 with exact 16-bit values; `record` lists the assets, places, gains and
    on/off seconds of the clip, ready for JSON.
    """

    name: str
    category: str | None
    frames: UInt8[np.ndarray, "T S S 3"]
    masks: UInt8[np.ndarray, "T S S"]
    object_masks: UInt8[np.ndarray, "T S S"]
    twin_masks: UInt8[np.ndarray, "T S S"] | None
    waveform: Float[np.ndarray, " 80000"]
    record: dict


def _draw_categories(rng: np.random.Generator, task: str, first: str) -> tuple[list[str], int]:
    """The classes in view ("" for a distractor), and how many of them, from the front, sound in an MS3 clip."""
    others = sample(rng, [c for c in CLASSES if c != first], 3)
    u, v, w = (float(x) for x in rng.random(3))
    if task == "s4":
        number = 2 if u < 0.30 else 3 if u < 0.75 else 4
        distractor = number > 2 and v < 0.5
        return [first, *others[: number - 1 - distractor], *[""] * distractor], 1
    sounding = 2 if u < 0.5 else 3
    extra = [] if v >= 0.75 else [""] if w < 0.5 else [others[-1]]
    return [first, *others[: sounding - 1], *extra], sounding


def _draw_seconds(rng: np.random.Generator, sources: int) -> list[tuple[int, ...]]:
    """On and off by second for each source, in runs; drawn again, a few times, while more than one second is silent."""
    for _ in range(8):
        drawn = []
        for _ in range(sources):
            length = 1 + int(4 * rng.random())
            start = int((SECONDS + 1 - length) * rng.random())
            inside = [start <= k < start + length for k in range(SECONDS)]
            drawn.append(tuple(int(on) for on in (inside if rng.random() < 0.7 else np.logical_not(inside))))
        if np.any(drawn, axis=0).sum() >= SECONDS - 1:
            break
    return drawn


def plan_clip(task: str, split: str, index: int, seed: int = 0) -> Plan:
    """Draw everything random about a clip except the noise.

    The scene is drawn before any sound, and in the same way for every sound: a picture does not reveal its sound.
    Raises AvsError on an unknown task or split, a negative index or seed.
    """
    only_for = {"train_empty": "ms3", "train_ambiguous": "s4", "ambiguous": "s4"}
    known = task in TASKS and split in SPLITS and only_for.get(split, task) == task
    if not known or index < 0 or seed < 0:
        raise UsageError(
            f"no clip {index} of task {task!r}, split {split!r}, seed {seed} in Mini-AVS; expected a task of "
            f"{', '.join(TASKS)}, a split of {', '.join(SPLITS)}, and an index and seed of at least 0"
        )
    entropy = [seed, TASKS.index(task), SPLITS.index(split), index]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    first = CLASSES[(index + index // len(CLASSES)) % len(CLASSES)]
    categories, sounding = _draw_categories(rng, task, first)
    case = _case(task, split, index)
    if case == "ambiguous":
        other = next(c for c in [*categories[1:], *CLASSES] if c not in ("", first))
        categories = [first, first, other if rng.random() < 0.75 else ""]
    heard = [] if case == "silent" else categories[:sounding]
    if case == "off-screen":
        # the class whose turn it is sounds, so a different one takes its place in the picture
        unseen = [c for c in CLASSES if c not in categories]
        categories[0] = choice(rng, unseen)
        heard = [first, *[c for c in unseen if c != categories[0]][: int(2 * rng.random())]]
    scene = draw_scene(rng, split, categories)
    seconds = [(1,) * SECONDS] if task == "s4" else _draw_seconds(rng, len(heard)) if heard else []
    sources = tuple(draw_source(rng, split, category, on) for category, on in zip(heard, seconds, strict=True))
    name, category = f"{task}_{split}_{index:05d}", first if task == "s4" else None
    noise_db, twin = uniform(rng, 20, 30), None
    if case == "ambiguous":  # neither place, depth nor picture says which of the two sounds
        twin = choice(rng, [i for i, o in enumerate(scene.objects) if o.category == first])
    return Plan(name, case, category, scene, sources, noise_db, twin, rng)


def _case(task: str, split: str, index: int) -> str:
    if "ambiguous" in split:
        return "ambiguous"
    if split == "train_empty":
        return ("silent", "off-screen")[index % 2]
    in_turn = task == "ms3" and split != "train"
    return {4: "silent", 9: "off-screen"}.get(index % 10, "regular") if in_turn else "regular"


def compose_clip(task: str, split: str, index: int, seed: int = 0, size: int = 224) -> ComposedClip:
    """Compose clip `index` of a task's split; the same arguments give the same clip on every machine.

    Raises AvsError as `plan_clip`.
    """
    plan = plan_clip(task, split, index, seed)
    frames, visible = render_scene(plan.scene, size)
    sounding = {source.category: source.on for source in plan.sources}
    on = np.array([sounding.get(o.category, (0,) * FRAMES) for o in plan.scene.objects], bool)
    if plan.twin is not None:
        on[plan.twin] = False
    in_view = {o.category for o in plan.scene.objects}
    record = {
        "name": plan.name,
        "task": task,
        "split": split,
        "index": index,
        "case": plan.case,
        "category": plan.category,
        "background": plan.scene.backdrop._asdict(),
        "objects": [o._asdict() for o in plan.scene.objects],
        "sources": [s._asdict() | {"in_view": s.category in in_view} for s in plan.sources],
        "noise_db": plan.noise_db,
    } | ({} if plan.twin is None else {"twin": plan.twin})
    return ComposedClip(
        name=plan.name,
        category=plan.category,
        frames=frames,
        masks=(visible & on[..., None, None]).any(0).astype(np.uint8),
        object_masks=visible.any(0).astype(np.uint8),
        twin_masks=None if plan.twin is None else visible[plan.twin].astype(np.uint8),
        waveform=render_soundtrack(plan.rng, list(plan.sources), plan.noise_db),
        record=json.loads(json.dumps(record), parse_float=lambda text: round(float(text), 5)),
    )
