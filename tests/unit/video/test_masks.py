"""Masks on disk in three forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from avslib.core.errors import AvsError
from avslib.video.masks import mask_files, masks_in, rle_decode, rle_encode
from avslib.video.overlay import Second


@settings(max_examples=60, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_run_lengths_come_back(mask):
    counts = rle_encode(mask)
    assert np.array_equal(rle_decode(counts, mask.shape), mask) and sum(counts) == mask.size and min([*counts[1:], 1])
    with pytest.raises(AvsError, match="sum up"):
        rle_decode([*counts, 1], mask.shape)


@pytest.mark.parametrize("form", ["png", "npz", "rle"])
def test_masks_come_back_in_order_however_long_their_names(tmp_path, form):
    with mask_files(form, tmp_path, 1) as add:
        for k in range(12):
            probability = (np.arange(12) == k).astype(np.float32)[None]
            add(Second(k, float(k), np.zeros((1, 12, 3), np.uint8), probability))
    assert [int(mask.argmax()) for mask in masks_in(form, tmp_path)] == list(range(12))
