"""The rows of history.csv for TensorBoard too, where ``train.tensorboard`` asks for it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from avslib.core.errors import InstallError

EVENTS = "tensorboard"

OnRow = Callable[[Mapping[str, float]], None]


@contextmanager
def tensorboard_rows(wanted: bool, out: str | Path, on_row: OnRow | None = None) -> Iterator[OnRow | None]:
    """Yield a row function that writes each row to ``out/tensorboard`` and then tells `on_row`.

    Losses and learning rate are scalars ``train/NAME``, scores on val ``val/NAME``. Events of an earlier process at or
    after the first row's step are marked as superseded, as a resumed run drops those rows of its history. Each row is
    on disk when the function returns. Where not `wanted`, `on_row` itself is yielded.

    Raises:
        InstallError: no package tensorboard.
    """
    if not wanted:
        yield on_row
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InstallError(
            "train.tensorboard needs the package tensorboard: pip install 'avslib[tensorboard]', or set it to false"
        ) from None
    writers = []

    def tell(row: Mapping[str, float]) -> None:
        if not writers:
            writers.append(SummaryWriter(str(Path(out) / EVENTS), purge_step=row["step"]))
        for name, value in row.items():
            if name not in ("step", "epoch"):
                tag = name.replace("val_", "val/") if name.startswith("val_") else f"train/{name}"
                writers[0].add_scalar(tag, value, row["step"])
        writers[0].flush()
        if on_row:
            on_row(row)

    try:
        yield tell
    finally:
        for writer in writers:
            writer.close()
