"""The sound of a video: 16 kHz mono from any rate, channels and track, at the time at which a player plays it."""

import av
import numpy as np
import pytest
import soundfile

from avslib.core.errors import AvsError, SoundError
from avslib.video.overlay_video import write_video
from avslib.video.reader import read_video
from avslib.video.tracks import read_sound
from tests.unit.video.test_reader import RATE, frames, number, pitch, remux, tones


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (48000, 8), (8000, 1), (22050, 1)])
def test_any_rate_and_channels_become_16k_mono(clip, tmp_path, rate, channels):
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.tile(tones(3, rate)[:, None], (1, channels)), rate)
    sound = np.concatenate(list(read_sound(path)))
    assert abs(len(sound) - 3 * RATE) < 20 and abs(np.abs(sound).max() - 0.5) < 0.05
    moments = list(read_video(clip, audio=path))
    assert [pitch(m.sound) for m in moments[:3]] == [200, 300, 400]
    assert all(len(m.sound) == RATE for m in moments) and not moments[4].sound.any()  # the sound is the shorter one


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


@pytest.mark.parametrize(("scale", "words"), [(2**15, "its samples reach 16384"), (np.nan, "NaN or infinite")])
def test_float_sound_out_of_scale_is_refused_not_clipped(clip, tmp_path, scale, words):
    sound = tones(3)
    sound[RATE:] *= scale
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    with pytest.raises(SoundError, match=rf"a\.wav: .*{words}"):
        list(read_video(clip, audio=tmp_path / "a.wav"))


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
