"""J and F: golden values, a plain loop as reference, and sameness under batching, order and processes."""

import importlib.util
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avslib.core.errors import AvsError
from avslib.metrics import FScore, LegacyFScore, MeanIoU, f_curves, frame_scores, iou_per_frame

GOLDEN = Path(__file__).parents[1] / "golden"


def load_fill():
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden_input():
    fill = load_fill()
    mask = fill.blobs(20, 224, 11)[:, 0]
    logits = 3 * fill.array("metric/logits", (20, 224, 224)) + 2 * (mask - 0.3)
    mask[[2, 9]] = 0
    logits[9] = -5
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(mask)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "metrics.npz")


def small(rows=12, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(rows, 1, size, size, generator=generator) > 0.7).float()
    mask[rows // 2] = 0
    return 3 * torch.randn(rows, 1, size, size, generator=generator) + mask, mask


def scored(metric, logits, mask, batch=4, **extra):
    for start in range(0, len(logits), batch):
        part = {key: value[start : start + batch] for key, value in extra.items()}
        metric.update(logits[start : start + batch], mask[start : start + batch], **part)
    return metric.compute().item()


def plain_iou(logits, mask):
    predicted, truth = logits.sigmoid() > 0.5, mask > 0
    if not truth.any():
        return (~predicted).double().mean().item()
    return ((predicted & truth).sum() / ((predicted | truth).sum() + 1e-7)).item()


def plain_curve(logits, mask):
    curve = []
    for threshold in torch.linspace(0, 1 - 1e-10, 255):
        predicted = logits.sigmoid() >= threshold
        tp = (predicted & (mask > 0)).sum().item()
        precision = tp / (predicted.sum().item() + 1e-20)
        recall = tp / (mask.sum().item() + 1e-20)
        below = 0.3 * precision + recall
        curve.append(1.3 * precision * recall / below if below else 0.0)
    return curve


@pytest.mark.parametrize("metric", [MeanIoU, FScore, lambda: LegacyFScore(1, 4)], ids=["J", "F", "F_legacy"])
def test_known_scores_of_the_frames_are_not_computed_again(metric):
    logits, mask = small()
    given = metric()
    # logits that would score otherwise, so that only the given scores can lead to the same score
    given.update(torch.zeros_like(logits), mask, scores=frame_scores(logits, mask))
    assert given.compute() == scored(metric(), logits, mask, batch=12)


def test_golden_whole_set(golden_input, golden):
    assert scored(MeanIoU(), *golden_input) == pytest.approx(float(golden["miou_all"]), abs=1e-6)
    assert scored(FScore(), *golden_input) == pytest.approx(float(golden["f_all"]), abs=1e-6)


def test_golden_batches_of_five_frames(golden_input, golden):
    logits, mask = golden_input
    for i in range(4):
        rows = slice(5 * i, 5 * i + 5)
        assert scored(MeanIoU(), logits[rows], mask[rows]) == pytest.approx(golden["miou_each5"][i], abs=1e-6)
        assert scored(FScore(), logits[rows], mask[rows]) == pytest.approx(golden["f_each5"][i], abs=1e-6)
    for update in (3, 20):
        legacy = scored(LegacyFScore(batch_size=1), logits, mask, batch=update)
        assert legacy == pytest.approx(golden["f_each5"].mean(), abs=1e-6)


def test_plain_loop_agrees():
    logits, mask = small(4)
    curves, counted = f_curves(logits, mask)
    pairs = list(zip(logits, mask, strict=True))
    assert iou_per_frame(logits, mask).tolist() == pytest.approx([plain_iou(*pair) for pair in pairs])
    np.testing.assert_allclose(curves, [plain_curve(*pair) for pair in pairs], rtol=1e-12)
    assert counted.tolist() == [True, True, False, True]


def test_thresholds_are_met_exactly():
    """Sigmoids on, just under and just over every threshold fall on the same side as in the comparisons."""
    grid = torch.linspace(0, 1 - 1e-10, 255)
    near = torch.cat([grid, grid.nextafter(torch.tensor(2.0)), grid.nextafter(torch.tensor(-1.0))])
    logits = torch.cat([near.clamp(0, 1).logit(), torch.tensor([0.0, 8e-8, 9e-8])])[None, None]
    mask = torch.arange(logits.shape[-1]).remainder(2)[None, None]
    np.testing.assert_allclose(f_curves(logits, mask)[0][0], plain_curve(logits[0], mask[0]), rtol=1e-12)
    assert iou_per_frame(logits, mask).item() == pytest.approx(plain_iou(logits, mask))


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 12), seed=st.integers(0, 99))
def test_batch_size_and_order_do_not_matter(batch, seed):
    logits, mask = small()
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    for kind in (MeanIoU, FScore):
        again = scored(kind(), logits[order], mask[order], batch)
        assert again == pytest.approx(scored(kind(), logits, mask), abs=1e-13)
    once = scored(LegacyFScore(2, frames=2), logits, mask)
    assert scored(LegacyFScore(2, frames=2), logits, mask, batch) == pytest.approx(once, abs=1e-13)
    placed = scored(LegacyFScore(2, frames=2), logits[order], mask[order], batch, index=order)
    assert placed == pytest.approx(once, abs=1e-13)


def score_share(rank, **kwargs):
    """Figures of process `rank` of two, and whether rows without a place were refused."""
    logits, mask = small()
    # Row 11 comes to both processes, as from a sampler that pads.
    share = torch.tensor([0, 2, 4, 6, 8, 10, 11] if rank == 0 else [1, 3, 5, 7, 9, 11])
    scores = [scored(LegacyFScore(2, frames=2, **kwargs), logits[share], mask[share], index=share)]
    share = share[share % 2 == rank]
    scores += [scored(kind(**kwargs), logits[share], mask[share]) for kind in (MeanIoU, FScore)]
    try:
        scored(LegacyFScore(2, frames=2, **kwargs), logits[share], mask[share])
    except AvsError as error:
        return scores, "index" in str(error)
    return scores, False


def whole_set():
    return [scored(metric, *small()) for metric in (LegacyFScore(2, frames=2), MeanIoU(), FScore())]


def test_two_shares_give_the_same_figures():
    """Two threads stand for two processes: they meet at a barrier to exchange states."""
    barrier, slots = threading.Barrier(2, timeout=60), [None, None]

    def run(rank):
        def gather(tensor, group=None):
            slots[rank] = tensor
            barrier.wait()
            gathered = list(slots)
            barrier.wait()
            return gathered

        return score_share(rank, dist_sync_fn=gather, distributed_available_fn=lambda: True)

    with ThreadPoolExecutor(2) as pool:
        for scores, refused in pool.map(run, range(2)):
            assert scores == pytest.approx(whole_set(), abs=1e-13) and refused


def _score_in_process(rank, port, out):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(score_share(rank), out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.long
def test_two_processes_give_the_same_figures(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_score_in_process, (port, tmp_path), nprocs=2)
    for rank in range(2):
        scores, refused = torch.load(tmp_path / f"{rank}.pt")
        assert scores == pytest.approx(whole_set(), abs=1e-13) and refused


def test_perfect_prediction():
    _, mask = small()
    logits = 200 * mask - 100
    assert iou_per_frame(logits, mask).tolist() == pytest.approx([1.0] * 12, abs=1e-6)
    for metric in (FScore(), LegacyFScore(1)):
        assert scored(metric, logits[:5], mask[:5]) == pytest.approx(1.0)


def test_empty_masks_score_what_is_left_out():
    empty = torch.zeros(2, 1, 4, 4)
    logits = torch.full((2, 1, 4, 4), -9.0)
    logits[1, 0, 0] = 9
    assert iou_per_frame(logits, empty).tolist() == pytest.approx([1, 0.75])
    assert scored(FScore(), logits, empty) == scored(LegacyFScore(), logits, empty) == 0


def test_legacy_depends_on_the_batch_size_by_definition():
    logits, mask = (x[:6] for x in small())
    whole = scored(LegacyFScore(6, frames=1), logits, mask)
    assert scored(LegacyFScore(1, frames=1), logits, mask) > whole
    assert whole == pytest.approx(scored(FScore(), logits, mask), abs=1e-13)


def test_forward_and_reset():
    logits, mask = small()
    for metric in (MeanIoU(), FScore(), LegacyFScore(2, frames=2)):
        for start in (0, 5):
            metric(logits[start : start + 5], mask[start : start + 5])
        after_forward = metric.compute().item()
        metric.reset()
        assert after_forward == pytest.approx(scored(metric, logits[:10], mask[:10]), abs=1e-13)


@pytest.mark.parametrize(
    ("logits", "mask", "word"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4), "same shape"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), "same shape"),
        (torch.zeros(2, 4, 4), torch.full((2, 4, 4), 255), "0 and 1"),
        (torch.full((2, 4, 4), float("nan")), torch.zeros(2, 4, 4), "NaN"),
    ],
)
def test_bad_input_is_named(unchecked_shapes, logits, mask, word):
    for metric in (MeanIoU(), FScore(), LegacyFScore()):
        with pytest.raises(AvsError, match=word):
            metric.update(logits, mask)


def test_legacy_refuses_a_set_with_holes():
    metric = LegacyFScore(1, frames=2)
    metric.update(*small(4), index=torch.tensor([0, 1, 2, 4]))
    with pytest.raises(AvsError, match="missing"):
        metric.compute()
