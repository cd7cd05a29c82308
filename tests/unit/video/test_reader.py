"""Video files as people have them: what goes in comes out, at its time, turned as shown; else one sentence."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

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


def test_variable_frame_rate_goes_by_time_stamps(tmp_path):
    times, path = (0, 100, 200, 2500, 2600, 3950), tmp_path / "vfr.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(times, frames(6), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert [number(m.image) for m in read_video(path, sound=False)] == [2, 2, 4, 4]


def test_rotation_flag_turns_the_pictures(clip, tmp_path):
    one, zero, minus, last = ((x % 2**32).to_bytes(4, "big") for x in (65536, 0, -65536, 2**30))
    data = clip.read_bytes()
    at = data.index(one + zero * 3 + one + zero * 3 + last, data.index(b"tkhd"))
    matrix = zero + one + zero + minus + zero * 4 + last  # a phone held upright: a quarter turn clockwise
    path = tmp_path / "portrait.mp4"
    path.write_bytes(data[:at] + matrix + data[at + 36 :])
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (48, 64, 270)
    upright, lying = next(read_video(path)).image, next(read_video(clip)).image
    assert np.array_equal(upright, np.rot90(lying, 3)) and upright.shape == (64, 48, 3)


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
