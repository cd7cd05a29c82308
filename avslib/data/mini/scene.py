"""The picture of a clip: cut-outs that move, scale and turn in front of a photo, with depth order and shadows.

All lengths are fractions of the picture's side, so a scene can be drawn at any size. Masks are computed in float64,
with the interpolation written out here, so that no imaging library's rounding decides a mask's pixel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from avslib.data.mini import assets
from avslib.data.mini.assets import choice, sample, uniform

FRAMES = 5
TIMES = np.linspace(-1.0, 1.0, FRAMES)
LAYOUTS = 12
LUMA = np.array([0.299, 0.587, 0.114])


class Object(NamedTuple):
    """One cut-out in the scene. Its place is that of its foot (middle of the lower edge), at time 0 of [-1, 1]."""

    file: str
    category: str
    flip: bool
    width: float
    height: float
    x: float
    y: float
    dx: float
    dy: float
    growth: float
    angle: float
    turn: float
    brightness: float
    saturation: float
    tint: tuple[float, float, float]

    def at(self, t: float) -> tuple[float, float, float, float]:
        """Foot x, foot y, width and height at time `t`, kept inside the picture up to an eighth of the width."""
        scale = 1 + self.growth * t
        w, h = self.width * scale, self.height * scale
        x = min(max(self.x + self.dx * t, 0.375 * w), 1 - 0.375 * w)
        return x, min(max(self.y + self.dy * t, h), 0.985), w, h


class Backdrop(NamedTuple):
    """The photo behind: a crop of it (centre, share of the shorter side) that drifts and zooms a little."""

    file: str
    flip: bool
    share: float
    x: float
    y: float
    dx: float
    dy: float
    zoom: float
    brightness: float


class Scene(NamedTuple):
    """A backdrop and the objects before it, farthest first."""

    backdrop: Backdrop
    objects: tuple[Object, ...]


def _draw_object(rng: np.random.Generator, file: str, category: str, slot: int, slots: int) -> Object:
    height_px, width_px = (n - 8 for n in assets.cutout(file)[0].shape[1:])
    depth = rng.random()
    area = uniform(rng, 0.10, 0.22) * (0.86 + 0.28 * depth) * (0.85 if slots == 4 else 1.0)
    scale = min(np.sqrt(area / (height_px * width_px)), 0.66 / max(height_px, width_px))
    growth = uniform(rng, -0.12, 0.12)
    return Object(
        file=file,
        category=category,
        flip=rng.random() < 0.5,
        width=float(width_px * scale),
        height=float(height_px * scale),
        x=(slot + 0.5) / slots + uniform(rng, -0.07, 0.07),
        y=0.66 + 0.30 * depth,
        dx=uniform(rng, -0.10, 0.10),
        # what grows comes nearer, so its foot moves down
        dy=0.3 * growth + uniform(rng, -0.01, 0.01),
        growth=growth,
        angle=uniform(rng, -8, 8),
        turn=uniform(rng, -5, 5),
        brightness=uniform(rng, 0.72, 1.2),
        saturation=uniform(rng, 0.65, 1.3),
        tint=(uniform(rng, 0.93, 1.07), uniform(rng, 0.95, 1.05), uniform(rng, 0.93, 1.07)),
    )


def _hidden_share(objects: list[Object]) -> float:
    """Largest share of any object's box that nearer boxes cover, over first, middle and last frame."""
    worst = 0.0
    for t in (-1.0, 0.0, 1.0):
        boxes = [(x - w / 2, y - h, x + w / 2, y) for x, y, w, h in (o.at(t) for o in objects)]
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            shared = [
                max(0.0, min(x1, b[2]) - max(x0, b[0])) * max(0.0, min(y1, b[3]) - max(y0, b[1]))
                for b in boxes[i + 1 :]
            ]
            worst = max(worst, sum(shared) / ((x1 - x0) * (y1 - y0)))
    return worst


def draw_scene(rng: np.random.Generator, split: str, categories: list[str]) -> Scene:
    """Choose photo, cut-outs and geometry for objects of the given classes ("" stands for a distractor).

    Takes the first of up to twelve layouts that hides less than 40 % of each object, else the one that hides least.
    """
    backdrop = Backdrop(
        file=choice(rng, assets.pool("background", split)).file,
        flip=rng.random() < 0.5,
        share=uniform(rng, 0.72, 1.0),
        x=rng.random(),
        y=rng.random(),
        dx=uniform(rng, -0.025, 0.025),
        dy=uniform(rng, -0.012, 0.012),
        zoom=uniform(rng, -0.02, 0.02),
        brightness=uniform(rng, 0.85, 1.12),
    )
    files: list[str] = []
    for category in categories:  # two of a class are two pictures
        pool = assets.pool("cutout" if category else "distractor", split, category)
        files.append(choice(rng, [asset.file for asset in pool if asset.file not in files]))
    layouts = []
    for _ in range(LAYOUTS):
        slots = sample(rng, range(len(files)), len(files))
        drawn = [_draw_object(rng, f, c, s, len(files)) for f, c, s in zip(files, categories, slots, strict=True)]
        drawn.sort(key=lambda o: o.y)
        layouts.append((_hidden_share(drawn), drawn))
        if layouts[-1][0] < 0.4:
            break
    return Scene(backdrop, tuple(min(layouts, key=lambda layout: layout[0])[1]))


def _backdrop_frame(backdrop: Backdrop, t: float, size: int) -> UInt8[np.ndarray, "S S 3"]:
    photo = assets.background(backdrop.file)
    side = min(photo.size) * min(backdrop.share * (1 + backdrop.zoom * t), 1.0)

    def start(length: int, at: float, drift: float) -> float:
        room, margin = length - side, 0.03
        return min(max(room * (margin + (1 - 2 * margin) * at) + drift * side * t, 0.0), room)

    x, y = start(photo.width, backdrop.x, backdrop.dx), start(photo.height, backdrop.y, backdrop.dy)
    frame = photo.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    return np.asarray(frame)[:, :: -1 if backdrop.flip else 1]


class _Source(NamedTuple):
    """A cut-out, relit, as it is drawn from: its planes, their differences to the pixel on the right, and its scale."""

    image: Float[np.ndarray, "4 h w"]
    steps: Float[np.ndarray, "4 h w"]
    scale: float  # 1, 1/2 or 1/4


def _coloured(o: Object, light: float, size: int) -> _Source:
    """The cut-out at the nearest resolution above the drawn one."""
    levels = assets.cutout(o.file)
    source_px = o.width * size / (levels[0].shape[2] - 8)
    level = int(np.clip(np.floor(np.log2(1 / source_px) + 0.25), 0, len(levels) - 1))
    image = np.array(levels[level][..., :: -1 if o.flip else 1], dtype=np.float64, order="C")
    grey = (1 - o.saturation) * LUMA[None, :] + o.saturation * np.eye(3)
    relight = grey * (np.array(o.tint) * (o.brightness * light))[:, None]
    red, green, blue, alpha = image
    # not by BLAS, which would start threads in every worker for a 3x3 matrix
    image[:3] = [np.clip(g * green + (r * red + b * blue), 0, alpha) for r, g, b in relight.tolist()]
    return _Source(image, np.diff(image, append=0), 0.5**level)


def _warp(source: _Source, o: Object, t: float, size: int) -> tuple[np.ndarray, int, int]:
    """Turn and scale a premultiplied picture about its foot, bilinearly: the patch and its upper left corner."""
    x, y, width, height = o.at(t)
    image, steps, pixels = source
    source_h, source_w = image.shape[1:]
    # the content's size in source pixels, without the border of `assets.cutout`, which is wider right and below
    full_h, full_w = assets.cutout(o.file)[0].shape[1:]
    content_w, content_h = (full_w - 8) * pixels, (full_h - 8) * pixels
    scale = width * size / content_w
    theta = np.deg2rad(o.angle + o.turn * t)
    cos, sin = float(np.cos(theta)), float(np.sin(theta))
    centre_x, centre_y = x * size, (y - height / 2) * size
    # nothing shines further out: a pixel and a half of interpolation and of means around the content
    shown_w, shown_h = min(source_w, content_w + 3), min(source_h, content_h + 3)
    half_w = 0.5 * scale * (abs(cos) * shown_w + abs(sin) * shown_h)
    half_h = 0.5 * scale * (abs(sin) * shown_w + abs(cos) * shown_h)
    x0, x1 = max(0, int(centre_x - half_w)), min(size, int(centre_x + half_w) + 2)
    y0, y1 = max(0, int(centre_y - half_h)), min(size, int(centre_y + half_h) + 2)
    px = (np.arange(x0, x1) + 0.5 - centre_x)[None, :] / scale
    py = (np.arange(y0, y1) + 0.5 - centre_y)[:, None] / scale
    u, v = cos * px + sin * py, cos * py - sin * px
    for at, content, length in ((u, content_w, source_w), (v, content_h, source_h)):
        at += 4 * pixels + content / 2 - 0.5
        np.clip(at, 0, length - 1.001, out=at)
    left, top = u.astype(np.intp), v.astype(np.intp)
    u -= left
    v -= top
    at, patch = top * source_w + left, np.empty((4, *u.shape))
    below = at + source_w
    # in place: new arrays would cost more than the arithmetic
    for plane, step, out in zip(image.reshape(4, -1), steps.reshape(4, -1), patch, strict=True):
        upper, lower = step.take(at), step.take(below)
        upper *= u
        upper += plane.take(at)
        lower *= u
        lower += plane.take(below)
        lower -= upper
        lower *= v
        np.add(upper, lower, out=out)
    return patch, x0, y0


def _cast_shadow(frame: Float[np.ndarray, "3 S S"], o: Object, t: float, size: int) -> None:
    x, y, w, h = o.at(t)
    sigma_x, sigma_y = 0.36 * w * size, (0.035 * h + 0.012) * size
    cx, cy = x * size, (y - 0.02 * h) * size
    x0, x1 = max(0, int(cx - 2.6 * sigma_x)), min(size, int(cx + 2.6 * sigma_x) + 1)
    y0, y1 = max(0, int(cy - 2.6 * sigma_y)), min(size, int(cy + 2.6 * sigma_y) + 1)
    gx = np.exp(-(((np.arange(x0, x1) + 0.5 - cx) / sigma_x) ** 2))
    gy = np.exp(-(((np.arange(y0, y1) + 0.5 - cy) / sigma_y) ** 2))
    frame[:, y0:y1, x0:x1] *= (1 - 0.42 * gy[:, None] * gx[None, :]).astype(np.float32)


def render_scene(scene: Scene, size: int) -> tuple[UInt8[np.ndarray, "T S S 3"], Bool[np.ndarray, "n T S S"]]:
    """Draw the frames, and for each object the pixels where it gives more than half of the light.

    Colours lie in planes, so that arithmetic runs along whole rows.
    """
    frames = np.empty((FRAMES, size, size, 3), np.uint8)
    visible = np.zeros((len(scene.objects), FRAMES, size, size), bool)
    lit: list[_Source] = []
    for k, t in enumerate(TIMES):
        photo, brightness = _backdrop_frame(scene.backdrop, t, size), np.float32(scene.backdrop.brightness)
        if not lit:
            light = 0.76 + 0.24 * min(max(float((photo * brightness).mean()) / 120, 0.4), 1.4)
            lit = [_coloured(o, light, size) for o in scene.objects]
        frame, seen = np.multiply(photo.transpose(2, 0, 1), brightness, order="C"), []
        for o, source in zip(scene.objects, lit, strict=True):
            _cast_shadow(frame, o, t, size)
            patch, x0, y0 = _warp(source, o, t, size)
            box, alpha = (y0, y0 + patch.shape[1], x0, x0 + patch.shape[2]), patch[3] / 255
            through = 1 - alpha
            part = _within(frame, box, (0, size, 0, size))
            part *= through
            part += patch[:3]
            for farther, its_box in seen:
                both = [f(a, b) for f, a, b in zip((max, min, max, min), box, its_box, strict=True)]
                part = _within(farther, both, its_box)
                part *= _within(through, both, box)
            seen.append((alpha, box))
        for found, (alpha, box) in zip(visible[:, k], seen, strict=True):
            _within(found, box, (0, size, 0, size))[...] = alpha > 0.5
        np.clip(frame, 0, 255, out=frame)
        np.stack(np.rint(frame, out=frame).astype(np.uint8), axis=-1, out=frames[k])
    return frames, visible


def _within(x: np.ndarray, box: Sequence[int], outer: Sequence[int]) -> np.ndarray:
    """The part of `x`, which covers `outer`, inside `box`: (top, bottom, left, right); none where they lie apart."""
    top, left = outer[0], outer[2]
    return x[..., box[0] - top : max(box[1], box[0]) - top, box[2] - left : max(box[3], box[2]) - left]
