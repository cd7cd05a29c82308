"""Running out of memory, of the GPU or of the machine: told apart from other errors, and answered with less at once."""

from collections.abc import Callable
from typing import TypeVar

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from avslib.config import TrainConfig
from avslib.core.errors import ConfigError, MemoryLimitError
from avslib.training.distributed import world_size

T = TypeVar("T")
# what libraries below torch say, in words that accelerate does not look for; oneDNN has no others for it
WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",
    "could not create a memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = isinstance(error, RuntimeError) and any(word.lower() in str(error).lower() for word in WORDS)
    return words or should_reduce_batch_size(error)


def halving(run: Callable[[int], T], size: int, what: str, restore: Callable[[], None] = lambda: None) -> tuple[T, int]:
    """`run(size)`, or with half of that as often as memory runs out, and the size that fitted.

    Args:
        what: of whom the sentence speaks where not even one fits.
        restore: called before each further try, to undo what a broken-off one did.

    Raises:
        MemoryLimitError: a size of 1 does not fit.
    """
    while True:
        try:
            return run(size), size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # the error's traceback held the tensors of the try; it is gone only now
        clear_device_cache(garbage_collection=True)
        restore()
        if size == 1:
            raise MemoryLimitError(
                f"{what}: {memory_of()} does not hold a single clip ({reason}); set train.checkpointing=true or "
                "train.precision=bf16, or choose a smaller model.image_size or network"
            )
        size //= 2


class MicroBatches:
    """How many clips go through the network at once, as ``train.micro_batch`` has it.

    Args:
        found: what ``auto`` found before.
        restore: undoes a pass that was broken off.
        on_fewer: told of the size that ``auto`` goes on with, and why.

    Raises:
        ConfigError: ``auto`` in several processes, which could not agree in the middle of a step.
    """

    def __init__(
        self, config: TrainConfig, found: int | None, restore: Callable[[], None], on_fewer: Callable[[int, str], None]
    ):
        self.config, self.restore, self.on_fewer = config, restore, on_fewer
        self.auto = config.micro_batch == "auto"
        self.size = found if self.auto else config.micro_batch
        if self.auto and world_size() > 1:
            raise ConfigError("train.micro_batch: auto is for one process; give the number of clips")

    def run(self, gradients: Callable[[int], T], clips: int, where: str) -> T:
        """`gradients(size)` of a batch of `clips`.

        Raises:
            MemoryLimitError: memory does not hold that many at once; the sentence says how many it does, which is
                tried with this batch (in one process). With ``auto`` only where it is not even one.
        """
        size = min(self.size or clips, clips)
        if world_size() > 1:  # the others wait for this process's gradients, so that nothing can be tried
            try:
                return gradients(size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                fewer = max(size // 2, 1)
                raise MemoryLimitError(
                    f"{where}: {memory_of()} does not hold {size} clips at once; try train.micro_batch={fewer}"
                ) from None
        result, fits = halving(gradients, size, where, self.restore)
        if fits == size:
            return result
        limit = f"{memory_of()} does not hold {size} clips at once, and {fits} of them it does"
        if not self.auto:
            raise MemoryLimitError(
                f"{where}: {limit} (tried with this batch): go on by --resume with train.micro_batch={fits}, which "
                f"keeps the batch but takes batch statistics of so many clips, or start with train.batch_size={fits}"
            )
        self.size = fits
        self.on_fewer(fits, f"{limit}: so many go through the network at once from here")
        return result


def memory_of(device: torch.device | None = None) -> str:
    """The memory that ran out, with its size."""
    if torch.cuda.is_available() and (device is None or device.type == "cuda"):
        return f"the GPU's memory ({torch.cuda.mem_get_info()[1] / 1e9:.0f} GB)"
    memory = psutil.virtual_memory()
    return f"the machine's memory ({memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free)"
