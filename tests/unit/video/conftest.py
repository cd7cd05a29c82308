"""The clip that several tests of the room read."""

import numpy as np
import pytest


@pytest.fixture
def clip(tmp_path):
    """Five seconds at 4 frames a second; second k shows number k and plays 200 + 100 k Hz."""
    from avslib.video.overlay_video import write_video
    from tests.unit.video.test_reader import frames, tones

    return write_video(tmp_path / "clip.mp4", iter(np.repeat(frames(5), 4, axis=0)), tones(5), 4)
