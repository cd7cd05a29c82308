"""Frames and masks in every mode that PIL knows: read as numpy says, or refused; `check --deep` says the same."""

import numpy as np
import pytest
from PIL import Image

from avslib.core.errors import PictureError
from avslib.data.check import check
from avslib.data.pictures import read_frame, read_mask
from tests.helpers.avsbench_folder import write_avsbench

OBJECT = np.zeros((32, 32), np.uint8)
OBJECT[8:24, 4:20] = 1  # a quarter
WHITE, SOFT = np.full_like(OBJECT, 255), np.clip(np.arange(32 * 32).reshape(32, 32) // 3, 0, 255).astype(np.uint8)


def image(*channels):
    """L, LA, RGB or RGBA, or 16-bit grey, by their number and type."""
    return Image.fromarray(channels[0] if len(channels) == 1 else np.dstack(channels))


def palette(colours, transparency=None):
    picture = Image.fromarray(OBJECT).convert("P")
    picture.putdata(OBJECT.ravel().tolist())
    picture.putpalette(np.ravel(colours).tolist())
    if transparency is not None:
        picture.info["transparency"] = transparency
    return picture


O = OBJECT * np.uint8(255)  # noqa: E741
HIDDEN = np.where(OBJECT, 255, 77).astype(np.uint8)
RIGHT = {
    "1": Image.fromarray(OBJECT > 0),
    "L": image(O),
    "L of labels": image(OBJECT),
    "LA opaque": image(O, WHITE),
    "LA white": image(WHITE, O),
    "RGB": image(O, O, O),
    "RGBA opaque": image(O, O, O, WHITE),
    "RGBA white": image(WHITE, WHITE, WHITE, O),
    "RGBA on transparent black": image(O, O, O, O),
    "RGBA with hidden colours": image(HIDDEN, HIDDEN, HIDDEN, O),
    "P grey": palette([[0, 0, 0], [255, 255, 255]]),
    "P coloured": palette([[0, 0, 0], [128, 0, 0]]),
    "P white on transparent": palette([[255, 255, 255], [255, 255, 255]], 0),
    "P coloured on transparent": palette([[9, 9, 9], [200, 0, 0]], b"\x00\xff"),
}
DOUBTFUL = {
    "L soft": image(SOFT),
    "LA soft": image(WHITE, SOFT),
    "RGBA soft": image(WHITE, WHITE, WHITE, SOFT),
    "RGBA black": image(O * 0, O * 0, O * 0, O),
    "RGB coloured": image(O, O * 0, O * 0),
    "RGB of dark labels": image(OBJECT * 0, OBJECT * 0, OBJECT),
    "P of two colours": palette([[9, 9, 9], [200, 0, 0]]),
    "P all black": palette([[0, 0, 0], [0, 0, 0]]),
    "P half-transparent": palette([[0, 0, 0], [255, 255, 255]], b"\xff\x80"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_masks_are_read(name, tmp_path):
    RIGHT[name].save(tmp_path / "a.png")
    mask, size = read_mask(tmp_path / "a.png")
    assert np.array_equal(mask, OBJECT) and mask.dtype == np.uint8 and size == (32, 32)
    assert read_mask(tmp_path / "a.png", (16, 16))[0].mean() == 0.25


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful_masks_are_refused(name, tmp_path):
    DOUBTFUL[name].save(tmp_path / "a.png")
    with pytest.raises(PictureError, match=r"a\.png: the mask "):
        read_mask(tmp_path / "a.png")


RGB = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
GREY = np.dstack([RGB[..., 0]] * 3)
FRAMES = {
    "RGB": (Image.fromarray(RGB), RGB),
    "L": (image(RGB[..., 0]), GREY),
    "LA": (image(RGB[..., 0], WHITE), GREY),
    "RGBA": (image(*np.moveaxis(RGB, 2, 0), WHITE), RGB),
    "1": (Image.fromarray(OBJECT > 0), np.dstack([O] * 3)),
    "P": (palette([[9, 9, 9], [200, 0, 0]]), np.array([[9, 9, 9], [200, 0, 0]], np.uint8)[OBJECT]),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_read(name, tmp_path):
    picture, expected = FRAMES[name]
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_frame(tmp_path / "a.png")[0], expected)


def test_frames_with_transparency_are_refused(tmp_path):
    for picture in (DOUBTFUL["LA soft"], RIGHT["RGBA white"], DOUBTFUL["P half-transparent"]):
        picture.save(tmp_path / "a.png")
        with pytest.raises(PictureError, match="transparent"):
            read_frame(tmp_path / "a.png")


def test_sixteen_bits_are_refused(tmp_path):
    image(SOFT * np.uint16(257)).save(tmp_path / "a.png")
    for read in (read_frame, read_mask):
        with pytest.raises(PictureError, match="16 bits"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pictures_that_exif_turns_are_refused(tmp_path, ending):
    """OpenCV turns them as it reads them, PIL does not; an orientation of 1 is upright."""
    path, exif, upright = tmp_path / f"a.{ending}", Image.Exif(), Image.fromarray(WHITE)
    for exif[0x0112] in range(1, 9):
        upright.save(path, exif=exif)
        for read, value in ((read_frame, 255), (read_mask, 1)):
            if exif[0x0112] == 1:
                assert (read(path)[0] == value).all()
            else:
                with pytest.raises(PictureError, match="EXIF orientation"):
                    read(path)


def test_a_palette_that_is_missing_is_refused(tmp_path):
    path = tmp_path / "a.png"
    RIGHT["P coloured"].save(path)
    data = path.read_bytes()
    at = data.index(b"PLTE") - 4
    path.write_bytes(data[:at] + data[at + 12 + int.from_bytes(data[at : at + 4], "big") :])
    for read in (read_frame, read_mask):
        with pytest.raises(PictureError, match="palette is missing"):
            read(path)


def test_check_says_what_the_reader_says(tmp_path):
    root = write_avsbench(tmp_path, splits=("test",))
    (mask,), (frame,) = (
        root.rglob("gt_masks/**/clip-test-0_0_2.png"),
        root.rglob("visual_frames/**/clip-test-1_0_3.png"),
    )
    DOUBTFUL["L soft"].save(mask)
    RIGHT["RGBA white"].save(frame)
    report = check(root / "Single-source", deep=True, progress=False)
    assert report.bad_clips == ["clip-test-0_0", "clip-test-1_0"]
    for path, read, finding in ((mask, read_mask, report.errors[0]), (frame, read_frame, report.errors[1])):
        with pytest.raises(PictureError) as refused:
            read(path)
        assert str(refused.value) == finding.sentence
