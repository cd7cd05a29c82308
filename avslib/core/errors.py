"""Errors that a user of avslib is meant to read: one class and one stable code for each kind of remedy.

The command line prints the message with its code and exits with `exit_code`. docs/errors.md explains the codes in a
table made from the classes below. A code keeps its meaning once it is published.
"""

import re

KINDS: dict[str, type["AvsError"]] = {}  # by code
# in the words of torch, whose error is a RuntimeError, and of the libraries below it
NO_MEMORY = "out of memory|allocate memory|ALLOC_FAILED|create a primitive|create a memory"


class AvsError(ValueError):
    """Explained in one sentence: what is wrong and where, what was expected, what to do. Only subclasses are raised."""

    code, remedy, exit_code = "AVS000", "", 2

    def __init__(self, message: str = ""):
        # PyTorch re-raises a worker's error with the whole traceback as its text; the message comes last
        if re.match(r"Caught \w+ in DataLoader worker", message):
            message = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(message)

    def __init_subclass__(cls, code: str = "", remedy: str = "", exit_code: int = 2) -> None:
        if code:  # a class without its own shares that of its parent
            cls.code, cls.remedy, cls.exit_code = code, remedy, exit_code
            KINDS[code] = cls


class UsageError(AvsError, code="AVS101", remedy="Pass what the message asks for; see `avs COMMAND --help`."):
    """An option, argument or value that the command or function does not accept."""


class ConfigError(AvsError, code="AVS102", remedy="`avs config PRESET` lists the fields and what they mean."):
    """A preset, YAML file, grid or `-o` override with an unknown field or a value out of range."""


class InstallError(AvsError, code="AVS103", remedy="Install what the message names; see `avs doctor` for the rest."):
    """A package, program, device or part of the repository that this command needs is missing."""


class DataError(AvsError, code="AVS201", remedy="`avs data check DIR` lists faults; `--fix-list` writes a skip list."):
    """The data folder, its csv or the files of a clip are missing or not in AVSBench's layout."""


class PictureError(AvsError, code="AVS202", remedy="Get or export the file again."):
    """A frame or mask that is damaged, too large, of the wrong size or not binary."""


class SoundError(AvsError, code="AVS203", remedy="Convert it to 16 kHz WAV."):
    """A sound file or waveform that is damaged, too short, too long, or has an unsupported rate or shape."""


class VideoError(AvsError, code="AVS204", remedy="Convert it to mp4; pass the sound with `--audio`."):
    """A video that cannot be decoded, is cut off, lacks pictures or sound, or exceeds a limit."""


class LogMelError(AvsError, code="AVS205", remedy="Nothing in it was run; get the file again from its authors."):
    """A log-mel pickle that is damaged, does not hold a tensor, or asks for more than a tensor needs."""


class PackedError(AvsError, code="AVS206", remedy="Pack the clips again with `avs data pack`."):
    """Packed shards or their index that are damaged, missing or of an unknown format."""


class BadClipsError(AvsError, code="AVS207", remedy="Repair them, or leave them out with `data.skip`."):
    """More training clips than `data.max_corrupt` allows could not be read."""


class WeightsError(AvsError, code="AVS301", remedy="Pass the whole checkpoint folder, with its training config."):
    """Weights that are missing, damaged, from a different network, or contain objects other than tensors."""


class OutputError(AvsError, code="AVS401", remedy="Choose a different path with `--out`; nothing there was changed."):
    """The output path holds something else, is in use, or cannot be written."""


class RunStateError(AvsError, code="AVS402", remedy="Resume with the original settings, or start in a new folder."):
    """The saved state of a run is damaged, or belongs to a different configuration or number of processes."""


class RecordError(AvsError, code="AVS403", remedy="Restore it from git, or produce it again."):
    """A run record, table mark or other result that is missing, damaged or edited."""


class DiskFullError(AvsError, code="AVS404", remedy="Free some space, then continue with `--resume`."):
    """The disk is full or a quota is reached; the previous file is intact."""


class NonFiniteError(AvsError, code="AVS501", remedy="Lower `train.lr` or set `train.clip_grad`; the batch is kept."):
    """A loss, embedding or logit is NaN or infinite."""


class MemoryLimitError(AvsError, code="AVS502", remedy="Use a smaller batch, `train.checkpointing` or bf16."):
    """The GPU or the machine ran out of memory."""


class WorkerError(AvsError, code="AVS503", remedy="Lower `data.workers` (memory), then continue with `--resume`."):
    """A process that reads data died."""


class ProcessesError(AvsError, code="AVS504", remedy="Start them with the same settings, on a disk that they share."):
    """Processes that train together cannot find each other, or disagree."""


class Preempted(AvsError, code="AVS505", remedy="Continue with `--resume`.", exit_code=75):
    """SIGTERM arrived and the state is saved; the exit code is 75 (EX_TEMPFAIL: try again later)."""


class NotebookError(AvsError, code="AVS601", remedy="`avs notebooks list` shows the parameters."):
    """A notebook, its parameter or a widget got something that it does not know."""


class SweepError(AvsError, code="AVS602", remedy="Start them and run the same command again: finished runs are kept."):
    """The scheduler or a worker of a sweep does not answer, or does not see the folders of the sweep."""


class InternalError(AvsError, code="AVS900", remedy="Report it with the file that the message names.", exit_code=70):
    """A bug. The command, versions and traceback are in `avs-error-*.txt` in the system's temporary folder."""
