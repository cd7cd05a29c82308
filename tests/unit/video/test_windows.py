"""Windows over a video: which steps go together, at any rate, size and overlap, and how they are joined."""

import itertools

import numpy as np
import pytest
import soundfile
import torch

from avslib.core.errors import AvsError
from avslib.video.overlay_video import write_video
from avslib.video.predictor import joined_windows
from avslib.video.reader import read_video
from avslib.video.second import Letterbox
from tests.unit.video.test_predictor import predictor, video  # noqa: F401
from tests.unit.video.test_reader import frames, number, tones, with_times


def maps_of(count, length, hop):
    """Joined windows whose 'network' gives the number of the window, which is that of its first step."""

    def segment(windows):
        return [torch.full((len(window), 1, 1, 1), float(window[0])) for window in windows]

    return [float(x) for x in joined_windows([[i] for i in range(count)], segment, length, hop)]


@pytest.mark.parametrize(
    ("count", "length", "hop", "expected"),
    [
        (7, 5, 5, [0, 0, 0, 0, 0, 2, 2]),  # no overlap: the last window reaches back, for the rest alone
        (3, 5, 2, [0, 0, 0]),
        (5, 5, 1, [0] * 5),
        (0, 5, 3, []),
        (8, 5, 3, [0, 0, 0, 3 / 3, 3 * 2 / 3, 3, 3, 3]),
        (9, 5, 3, [0, 0, 0, 1, 2, 3, (2 * 3 + 3 * 4) / 5, (1 * 3 + 2 * 4) / 3, 4]),
    ],
)
def test_windows_join_by_a_triangle(count, length, hop, expected):
    assert np.allclose(maps_of(count, length, hop), expected)


def test_results_come_as_soon_as_no_later_window_covers_them():
    taken = []
    groups = (taken.append(i) or [i, i] for i in range(100))
    for done, _ in enumerate(joined_windows(groups, lambda w: torch.zeros(len(w), len(w[0]), 1, 1, 1), 5, 2)):
        assert len(taken) - done // 2 <= 5


def test_overlap_blends_at_the_joint_and_nowhere_else(predictor, tmp_path):  # noqa: F811
    path = video(tmp_path, 8)
    apart, joined = ([s.probability for s in predictor.predict(path, overlap=o)] for o in (0, 2))
    assert np.array_equal(apart[0], joined[0]) and np.array_equal(apart[7], joined[7])
    assert not np.array_equal(apart[4], joined[4])
    sampled = list(predictor.predict(path, samples=2, overlap=2))
    assert all((s.disagreement >= 0).all() and (s.disagreement <= s.uncertainty + 1e-6).all() for s in sampled)


def test_more_results_a_second_are_shifted_passes(predictor, tmp_path):  # noqa: F811
    path = write_video(tmp_path / "a.mp4", np.repeat(frames(6), 4, axis=0), tones(6), 4)
    results = list(predictor.predict(path, fps=2))
    assert [s.time for s in results] == [k / 2 for k in range(12)] and {s.length for s in results} == {0.5}
    moments, sound = list(read_video(path, 2)), np.concatenate([m.sound for m in read_video(path)])
    box = Letterbox(48, 64, 64)
    windows, heard = [], []
    for first in (0, 1):  # the first step is given the first second of sound, whichever its pass
        windows += [box.fit(moments[first + 2 * i].image) for i in range(5)]
        ends = [round(16000 * max(1.0, (first + 2 * i + 1) / 2)) for i in range(5)]
        heard.append(np.concatenate([sound[end - 16000 : end] for end in ends]))
    embedded = predictor.encoder.embed(torch.from_numpy(np.stack(heard)), 5)
    together = box.back(predictor(torch.stack(windows), embedded.flatten(0, 1), clips=2)).numpy()
    for first in (0, 1):
        apart = box.back(predictor(torch.stack(windows[5 * first : 5 * first + 5]), embedded[first])).numpy()
        assert np.allclose(together[5 * first : 5 * first + 5], apart, atol=1e-6)
        assert np.array_equal(together[5 * first + 3], results[first + 6].probability)
        assert np.array_equal(results[first + 6].image, moments[first + 6].image)
    assert len(list(predictor.predict(path, fps="native"))) == 24


def test_native_is_a_mask_for_every_frame_of_a_variable_rate(predictor, tmp_path):  # noqa: F811
    times = [0, 0.1, 0.2, 0.3, 1.5, 1.6, 2.9, 5.4, 5.5]
    path = with_times(tmp_path / "vfr.mkv", times, frames(9))
    soundfile.write(tmp_path / "a.wav", tones(6), 16000)
    results = list(predictor.predict(path, tmp_path / "a.wav", fps="native"))
    begun = [round(s.time, 3) for s in results]
    assert [number(s.image) for s in results if round(s.time, 3) in times] == list(range(9))
    assert sorted(begun) == begun == sorted({*times, 1.3, 3.9, 4.9, 2.6}) and max(s.length for s in results) <= 1.0001
    assert all(round(a.time + a.length, 3) == round(b.time, 3) for a, b in itertools.pairwise(results))


def test_short_video_at_native_rate(predictor, tmp_path):  # noqa: F811
    path = write_video(tmp_path / "short.mp4", frames(3), tones(1)[:4800], 10)
    assert [round(s.time, 3) for s in predictor.predict(path, fps="native")] == [0, 0.1, 0.2]


def test_size_is_the_networks_own(predictor, tmp_path):  # noqa: F811
    path = video(tmp_path, 2)
    seen = []
    run, predictor.run = predictor.run, lambda image, *a, **k: seen.append(image.shape) or run(image, *a, **k)
    assert [s.probability.shape for s in predictor.predict(path, size=96)] == [(48, 64)] * 2
    del predictor.run
    assert seen == [(2, 3, 96, 96)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 100}, "multiple of 32"),
        ({"size": 0}, "multiple of 32"),
        ({"overlap": 5}, "0 to 4 s"),
        ({"overlap": -1}, "0 to 4 s"),
        ({"fps": 0}, "native or a whole"),
        ({"fps": "1.5"}, "native or a whole"),
        ({"fps": 9}, "from 1 to 4"),
        ({"fps": "fast"}, "native or a whole"),
    ],
)
def test_numbers_out_of_range_get_a_sentence(predictor, tmp_path, options, words):  # noqa: F811
    path = write_video(tmp_path / "a.mp4", frames(4), tones(1), 4)
    with pytest.raises(AvsError, match=words):
        predictor.predict(path, **options)
