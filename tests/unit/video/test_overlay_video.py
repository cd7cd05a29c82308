"""Written videos: even sizes, and nothing lost where writing fails."""

import numpy as np
import pytest

from avslib.core.errors import AvsError
from avslib.video.overlay_video import write_video
from avslib.video.reader import read_video
from tests.unit.video.test_reader import frames


def test_odd_sizes_grow_to_even_ones(tmp_path):
    path = write_video(tmp_path / "odd.mp4", frames(2, 47, 63), None, 1)
    assert next(read_video(path, sound=False)).image.shape == (48, 64, 3)


def test_a_colon_in_a_name_is_not_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("12:30/a.mp4", frames(2), None, 1)
    assert len(list(read_video("12:30/a.mp4", sound=False))) == 2


def test_writing_refuses_and_leaves_what_was_there(clip):
    before = clip.read_bytes()
    for pictures in ([], [np.zeros((8, 8, 3))], [*frames(1), *frames(1, 50, 64)]):
        with pytest.raises(AvsError, match="frame"):
            write_video(clip, pictures, None, 1)
    with pytest.raises(AvsError, match=r"\.mp4"):
        write_video(clip.with_suffix(".gif"), frames(1))
    assert clip.read_bytes() == before and [p.name for p in clip.parent.iterdir()] == ["clip.mp4"]
