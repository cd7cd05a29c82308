"""Video files as people have them: what goes in comes out, at its time, turned as shown; else one sentence."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from avslib.core.errors import AvsError
from avslib.video.overlay_video import write_video
from avslib.video.reader import BrokenOff, probe, read_video

RATE = 16000


def frames(count, height=48, width=64):
    """Flat pictures whose grey value says their number, dark on the left."""
    pictures = np.full((count, height, width, 3), 10, np.uint8)
    pictures[:, :, width // 2 :] = (40 + 15 * np.arange(count))[:, None, None, None]
    return pictures


def number(image):
    """Number of a picture of `frames`."""
    return round((float(image[:, -8:].mean()) - 40) / 15)


def tones(seconds, rate=RATE):
    """A tone of 200 Hz in the first second, 300 Hz in the next ..."""
    t = np.arange(rate) / rate
    return np.concatenate([0.5 * np.sin(2 * np.pi * (200 + 100 * k) * t) for k in range(seconds)]).astype(np.float32)


def pitch(sound, rate=RATE):
    return int(np.abs(np.fft.rfft(sound)).argmax() * rate / len(sound))


def test_frames_and_sound_come_back_second_by_second(clip):
    info = probe(clip)
    assert (info.width, info.height, info.fps, info.sound_rate, info.rotation) == (64, 48, 4, RATE, 0)
    moments = list(read_video(clip))
    assert [number(m.image) for m in moments] == [0, 1, 2, 3, 4] == [m.index for m in moments]
    assert [pitch(m.sound) for m in moments] == [200, 300, 400, 500, 600]
    difference = np.abs(moments[2].image.astype(int) - frames(5)[2])
    assert difference.mean() < 3 and moments[0].image.dtype == np.uint8
    sound, true = np.concatenate([m.sound for m in moments]), tones(5)
    assert np.corrcoef(sound, true)[0, 1] > 0.97  # also says that they are aligned


def test_sampling_is_that_of_the_released_preprocessing(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames(14), None, 7)  # index 15 of 16 in each second: times 0.94 and 1.94
    assert [number(m.image) for m in read_video(path, sound=False)] == [6, 13]
    assert [number(m.image) for m in read_video(path, 7, sound=False, phase=0.5)] == list(range(14))


def with_times(path, times, pictures):
    """Pictures shown at `times`, in seconds."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_variable_frame_rate_goes_by_time_stamps(tmp_path):
    path = with_times(tmp_path / "vfr.mkv", (0, 0.1, 0.2, 2.5, 2.6, 3.95), frames(6))
    assert [number(m.image) for m in read_video(path, sound=False)] == [2, 2, 4, 4]


TURNS = {  # a, b, c, d of the display matrix, which shows (x, y) at (a x + c y, b x + d y): PIL's name
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): "FLIP_LEFT_RIGHT",
    (1, 0, 0, -1): "FLIP_TOP_BOTTOM",
    (-1, 0, 0, -1): "ROTATE_180",
    (0, 1, 1, 0): "TRANSPOSE",
    (0, 1, -1, 0): "ROTATE_270",  # a phone held upright: a quarter turn clockwise
    (0, -1, 1, 0): "ROTATE_90",
    (0, -1, -1, 0): "TRANSVERSE",
}


@pytest.mark.parametrize("matrix", TURNS)
def test_display_matrix_turns_and_mirrors_the_pictures(tmp_path, matrix):
    picture = frames(1)
    picture[0, :20] = 200  # so that no two of the eight look the same
    clip = write_video(tmp_path / "clip.mp4", np.repeat(picture, 5, axis=0), tones(1), 5)
    one, zero, last = ((x % 2**32).to_bytes(4, "big") for x in (65536, 0, 2**30))
    data = clip.read_bytes()
    at = data.index(one + zero * 3 + one + zero * 3 + last, data.index(b"tkhd"))
    a, b, c, d = ((65536 * x % 2**32).to_bytes(4, "big") for x in matrix)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:at] + a + b + zero + c + d + zero * 3 + last + data[at + 36 :])
    turned, info = next(read_video(path)).image, probe(path)
    true = Image.fromarray(next(read_video(clip)).image)
    true = true if TURNS[matrix] is None else true.transpose(Image.Transpose[TURNS[matrix]])
    assert np.array_equal(turned, true) and (info.width, info.height) == true.size
    assert info.rotation == {(0, 1, -1, 0): 270, (0, -1, 1, 0): 90}.get(matrix, info.rotation)


def encode(path, pictures, form="rgb24", **options):
    """Pictures at 5 a second, whose stream and frames have the attributes `options`."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=5)
        first = av.VideoFrame.from_ndarray(pictures[0], format=form)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv444p"
        stream.options = {"crf": "1"}
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format=form)
            for name in options.keys() & {"colorspace", "color_range"}:
                setattr(frame, name, options[name])
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("ratio", "width"), [((16, 9), 228), ((1, 1), 128), ((1, 2), 64)])
def test_pixels_become_square(tmp_path, ratio, width):
    path = encode(tmp_path / "wide.mp4", frames(5, 128, 128), sample_aspect_ratio=Fraction(*ratio))
    info, image = probe(path), next(read_video(path, sound=False)).image
    assert (info.width, info.height) == (width, 128) == image.shape[1::-1]
    edge = np.abs(np.diff(image[64].mean(1))).argmax()
    assert abs(edge - width / 2) <= 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("space", "kr", "kb"), [(1, 0.2126, 0.0722), (2, 0.299, 0.114), (6, 0.299, 0.114), (9, 0.2627, 0.0593)]
)
def test_colours_are_those_of_the_files_matrix_and_range(tmp_path, space, kr, kb, full):
    """`space` is a code of AVColorSpace: BT.709, none (then BT.601), BT.601, BT.2020, with the standard's weights."""
    y, u, v = 120, 90, 200
    picture = np.stack([np.full((64, 64), x, np.uint8) for x in (y, u, v)])
    path = encode(tmp_path / "a.mp4", [picture] * 5, "yuv444p", colorspace=space, color_range=2 if full else 1)
    luma, chroma = (255, 255) if full else (219, 224)
    light, blue, red = (y - (0 if full else 16)) / luma, 2 * (u - 128) / chroma, 2 * (v - 128) / chroma
    r, b = light + (1 - kr) * red, light + (1 - kb) * blue
    true = 255 * np.clip([r, (light - kr * r - kb * b) / (1 - kr - kb), b], 0, 1)
    assert np.abs(next(read_video(path, sound=False)).image[32, 32] - true).max() < 1.5


def remux(path, out, times):
    """The same packets with other time stamps: seconds of "video" and "audio" through the functions `times`."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        tracks = {s.index: target.add_stream_from_template(s) for s in source.streams}
        packets = [p for p in source.demux() if p.dts is not None]
        for packet in packets:
            change, base = times.get(packet.stream.type, float), float(packet.time_base)
            packet.pts, packet.dts = (round(change(x * base) / base) for x in (packet.pts, packet.dts))
            packet.stream = tracks[packet.stream.index]
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            target.mux(packet)
    return out


def test_a_stream_that_was_entered_late_stays_in_time(clip, tmp_path):
    """The pictures before the first key frame cannot be decoded: sound is heard from the first one that is shown."""
    pictures, path = encode(tmp_path / "a.mkv", np.repeat(frames(5), 5, axis=0), gop_size=5), tmp_path / "cut.ts"
    with av.open(str(pictures)) as first, av.open(str(clip)) as second, av.open(str(path), "w") as target:
        tracks = [(s, target.add_stream_from_template(s)) for s in (first.streams.video[0], second.streams.audio[0])]
        packets = [(p, new) for old, new in tracks for p in old.container.demux(old) if p.dts is not None]
        for packet, new in sorted(packets[3:], key=lambda pair: pair[0].dts * pair[0].time_base):
            packet.stream = new
            target.mux(packet)
    assert [(number(m.image), pitch(m.sound)) for m in read_video(path)] == [(1, 300), (2, 400), (3, 500), (4, 600)]


def write_tracks(path, codec, *tracks, rate=1, late=0):
    """Tracks of pictures at `rate` a second, the first at `late` / `rate` seconds; the last track is the default."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    with av.open(str(path), "w") as out:
        streams = [out.add_stream(codec, rate=rate) for _ in tracks]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt, stream.codec_context.max_b_frames = 64, 48, "yuv420p", 0
        streams[-1].disposition = av.stream.Disposition.default
        for stream, pictures in zip(streams, tracks, strict=True):
            for k, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = k + late, Fraction(1, rate)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def test_pictures_that_begin_late_are_whole(tmp_path):
    """An AVI counts the length of its picture track from its own second 0, and not from the first picture."""
    late = write_tracks(tmp_path / "late.avi", "libx264", frames(5), late=3)
    assert [number(m.image) for m in read_video(late, sound=False)] == [0, 1, 2, 3, 4]


def test_the_default_picture_track_is_shown(tmp_path):
    two = write_tracks(tmp_path / "two.mkv", "mpeg4", frames(10)[5:], frames(5))
    assert [number(m.image) for m in read_video(two, sound=False)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_half_a_matroska_file_is_not_a_short_video(tmp_path, name):
    """Its header holds the length of each track as text."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    path = write_tracks(tmp_path / name, "mpeg4" if name == "a.mkv" else "libvpx-vp9", noise, rate=8)
    assert len(list(read_video(path, sound=False))) == 5
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenOff, match="its header says 5") as error:
        list(read_video(path, sound=False))
    assert error.value.at < 4


def test_videos_joined_byte_by_byte_do_not_lose_the_second_one_silently(clip, tmp_path):
    one, two = remux(clip, tmp_path / "one.ts", {}), tmp_path / "two.ts"
    two.write_bytes(one.read_bytes() * 2)
    with pytest.raises(BrokenOff, match=r"time stamps jump from 5\.0 to 0\.0 s.*convert it"):
        list(read_video(two))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "breaks off after"),
        (lambda data: data[:200], "damaged"),
        (lambda data: b"no video at all " * 99, "no video that can be read"),
    ],
)
def test_damaged_files_get_one_sentence(tmp_path, damage, words):
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)  # so that the index is a small part
    path = write_video(tmp_path / "clip.mp4", noise, tones(5), 8)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AvsError, match=words):
        list(read_video(path))


def test_what_is_no_video(clip, tmp_path):
    soundfile.write(tmp_path / "a.wav", tones(1), RATE)
    bad = {"nowhere.mp4": "no such file", ".": "folder", "a.wav": "no video"}
    for path, words in ((tmp_path / name, words) for name, words in bad.items()):
        with pytest.raises(AvsError, match=words):
            read_video(path)
