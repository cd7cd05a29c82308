"""Video files as people have them: what goes in comes out, at its time, turned as shown; else one sentence."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from avslib.core.errors import AvsError
from avslib.video.reader import probe, read_sound, read_video
from avslib.video.writer import write_video

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


@pytest.fixture
def clip(tmp_path):
    pictures = np.repeat(frames(5), 4, axis=0)
    return write_video(tmp_path / "clip.mp4", iter(pictures), tones(5), 4)


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


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
@pytest.mark.parametrize("late", [2.0, 0.5, -1.5])
def test_sound_and_picture_keep_their_places(clip, tmp_path, suffix, late):
    """Sound that begins before the first picture, or after it, is heard where a player plays it."""
    shift = {"video": lambda t: t + late} if late > 0 else {"audio": lambda t: t - late}
    path = remux(clip, tmp_path / f"late.{suffix}", shift)
    heard = np.concatenate([m.sound for m in read_video(path)])
    true = np.zeros(5 * RATE, np.float32)
    begin = round(late * RATE)
    part = tones(5)[max(0, begin) :][: 5 * RATE + min(0, begin)]
    true[max(0, -begin) :][: len(part)] = part
    assert [number(m.image) for m in read_video(path)] == [0, 1, 2, 3, 4]
    assert np.corrcoef(heard, true)[0, 1] > 0.95


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_sound_follows_its_time_stamps(clip, tmp_path, speed):
    """Time stamps that run slower or faster than the samples: in second k one hears what is stamped with second k."""
    path = remux(clip, tmp_path / "drift.mkv", {"audio": lambda t: t * speed})
    heard = np.concatenate(list(read_sound(path)))
    for second in (2.9, 3.5):
        piece = heard[round((second - 0.15) * RATE) : round((second + 0.15) * RATE)]
        assert abs(pitch(piece) - (200 + 100 * int(second / speed))) < 15


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


def test_the_default_sound_track_is_heard(clip, tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        silent, sounding = (target.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2))
        sounding.disposition = av.stream.Disposition.default
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
        for stream, samples in ((silent, tones(5) * 0), (sounding, tones(5))):
            frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
    assert [pitch(m.sound) for m in read_video(path)] == [200, 300, 400, 500, 600]
    assert not np.concatenate(list(read_sound(path, audio=1))).any()
    with pytest.raises(AvsError, match="no sound track 3"):
        read_video(path, audio=3)


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (48000, 8), (8000, 1), (22050, 1)])
def test_any_rate_and_channels_become_16k_mono(clip, tmp_path, rate, channels):
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.tile(tones(3, rate)[:, None], (1, channels)), rate)
    sound = np.concatenate(list(read_sound(path)))
    assert abs(len(sound) - 3 * RATE) < 20 and abs(np.abs(sound).max() - 0.5) < 0.05
    moments = list(read_video(clip, audio=path))
    assert [pitch(m.sound) for m in moments[:3]] == [200, 300, 400]
    assert all(len(m.sound) == RATE for m in moments) and not moments[4].sound.any()  # the sound is the shorter one


def test_odd_sizes_grow_to_even_ones(tmp_path):
    path = write_video(tmp_path / "odd.mp4", frames(2, 47, 63), None, 1)
    assert next(read_video(path, sound=False)).image.shape == (48, 64, 3)


def test_sound_of_one_piece_goes_with_many_frames(tmp_path):
    path = write_video(tmp_path / "many.mp4", (frames(1)[0] for _ in range(1500)), tones(50), 30)
    sound = np.concatenate(list(read_sound(path)))
    assert abs(len(sound) / RATE - 50) < 0.2 and pitch(sound[40 * RATE : 41 * RATE]) == 4200


def test_file_without_sound_says_what_to_do(tmp_path):
    path = write_video(tmp_path / "mute.mp4", frames(3), None, 1)
    with pytest.raises(AvsError, match=r"no sound track.*--audio FILE"):
        read_video(path)
    with pytest.raises(AvsError, match="no sound track"):
        read_sound(path)
    assert len(list(read_video(path, sound=False))) == 3


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


def test_writing_refuses_and_leaves_what_was_there(clip):
    before = clip.read_bytes()
    for pictures in ([], [np.zeros((8, 8, 3))], [*frames(1), *frames(1, 50, 64)]):
        with pytest.raises(AvsError, match="frame"):
            write_video(clip, pictures, None, 1)
    with pytest.raises(AvsError, match=r"\.mp4"):
        write_video(clip.with_suffix(".gif"), frames(1))
    assert clip.read_bytes() == before and [p.name for p in clip.parent.iterdir()] == ["clip.mp4"]
